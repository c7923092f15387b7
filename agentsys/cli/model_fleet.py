"""``agentsys models ps``, ``load``, ``unload`` and ``launch``: the models that run, here and on other machines."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.model_admin import ask_server
from agentsys.cli.model_names import ModelArgument, ServedModelOption
from agentsys.cli.output import JsonOption, err, out, print_json, print_table, reported_errors
from agentsys.cli.pulling import PullBar
from agentsys.errors import ConfigurationError
from agentsys.serving.weights.catalogue import is_remote, weights_of
from agentsys.settings import Settings, load_settings

if TYPE_CHECKING:
    from agentsys.serving.launcher import LaunchError, LocalFleet, RayFleet


UrlOption = Annotated[
    str,
    typer.Option("--url", envvar="AGENTSYS_URL", help="The server: of `agentsys models serve` or `agentsys serve`."),
]
TokenOption = Annotated[
    str | None, typer.Option("--token", envvar="AGENTSYS_TOKEN", help="Its bearer token.", show_default=False)
]
HERE = "http://127.0.0.1:8701"
_REPAIR_SECONDS = 2.0
_ITSELF_ALONE = {"AGENTSYS_MODEL__REPLICAS": ""}  # a server that is started is no dispatcher over others
_STATES = {"closed": "up", "open": "down", "half-open": "on trial"}  # those of a circuit breaker, for people


def ps(url: UrlOption = HERE, token: TokenOption = None, as_json: JsonOption = False) -> None:
    """List a server's models: what is loaded, its memory, its calls, and how each replica does."""
    with reported_errors(as_json=as_json):
        _show(ask_server("GET", url, token, "", None), as_json=as_json)


def load(
    model: ModelArgument,
    url: UrlOption = HERE,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model of a running server, so that its next call need not wait."""
    with reported_errors(as_json=as_json):
        _show(ask_server("POST", url, token, "/load", model), as_json=as_json)


def unload(
    model: ModelArgument,
    url: UrlOption = HERE,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Free an idle model's memory in a running server, until its next call."""
    with reported_errors(as_json=as_json):
        _show(ask_server("POST", url, token, "/unload", model), as_json=as_json)


def launch(
    count: Annotated[int, typer.Option("--count", min=1, help="Servers to start.")] = 2,
    model: ServedModelOption = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the first; others follow.")] = 8710,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Address of a Ray cluster to start them on, or auto.")
    ] = None,
    cpus: Annotated[float, typer.Option("--cpus", min=0, help="With --ray: CPUs of each.")] = 1,
    gpus: Annotated[float, typer.Option("--gpus", min=0, help="With --ray: GPUs of each.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Start model servers, tell what to write into agentsys.toml, and restart those that end, until interrupted."""
    with reported_errors(as_json=as_json):
        from agentsys.serving.launcher import LocalFleet, RayFleet, ServerSpec

        settings = load_settings({"model.name": model}).settings
        served = _served(settings, here=ray is None)
        fleet: LocalFleet | RayFleet
        if ray is None:
            ports = range(port, port + count)
            fleet = LocalFleet([ServerSpec(served, port=each, environment=_ITSELF_ALONE) for each in ports])
        else:
            fleet = RayFleet(_spec_on_ray(served), count, address=ray, cpus=cpus, gpus=gpus)
        _keep_running(fleet, _short_name(settings.model.name), as_json=as_json)


def _served(settings: Settings, *, here: bool) -> str:
    """Return what the servers are to run: the model that model.name means beside the table that may list them.

    Raises :class:`ConfigurationError`.
    """
    from agentsys.serving.weights.pull import pull

    name = settings.model.name
    local = [spec for spec in settings.default_specs if not is_remote(spec)]
    if not local and name not in settings.models:
        raise ConfigurationError(f"{name} is a server already.", remedy="Name the model to start servers of: --model.")
    served = local[0] if local else name
    if not here or served not in settings.models:
        return served
    # Servers here read these settings too, where its name means the servers themselves.
    with PullBar(served) as bar:
        return str(pull(served, progress=bar.update, directory=settings.models_dir))


def _short_name(model: str) -> str:
    """Return what callers may call a model: the last part of a folder or of an id on the hub."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(weights_of(model)).name)
    return plain.lstrip("._-") or "model"


def _keep_running(fleet: LocalFleet | RayFleet, name: str, *, as_json: bool) -> None:
    """Serve until a signal comes, which a program in the background may have been started to ignore."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    hangup = getattr(signal, "SIGHUP", None)  # the servers do not get the terminal's; nohup keeps it from this process
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        signal.signal(hangup, _interrupt)
    try:
        _tell(name, fleet.start(), as_json=as_json)
        while True:
            time.sleep(_REPAIR_SECONDS)
            for repaired in fleet.repair():
                err.print(_told(repaired), highlight=False, markup=False)
    except KeyboardInterrupt:
        err.print("stopping", highlight=False)
    finally:
        fleet.stop()


def _told(repaired: str | LaunchError) -> str:
    return f"started again: {repaired}" if isinstance(repaired, str) else f"not started again yet: {repaired}"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _spec_on_ray(name: str) -> Any:
    """Return a server's spec for other machines, where it needs a token."""
    from agentsys.protocols.edge import check_bind
    from agentsys.serving.launcher import ServerSpec

    token = load_settings().settings.server.token
    check_bind("0.0.0.0", token)  # noqa: S104 - nothing is bound here
    return ServerSpec(name, environment={"AGENTSYS_SERVER__TOKEN": token or ""})


def _tell(name: str, urls: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "replicas": urls})
        return
    listed = ", ".join(f'"{url}"' for url in urls)
    table = f'[model]\nname = "{name}"\n\n[models."{name}"]\nreplicas = [{listed}]'
    out.print(table, highlight=False, markup=False, soft_wrap=True)


def _show(models: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"models": models})
        return
    columns = ["model", "state", "memory", "calls", "next use", "loads", "replicas"]
    print_table(columns, [_row(model) for model in models])


def _memory(model: dict[str, Any]) -> str:
    told = ((model["memory_bytes"], "MiB"), (model.get("gpu_bytes", 0), "MiB GPU"))
    return ", ".join(f"{size / 2**20:.0f} {unit}" for size, unit in told if size) or "-"


def _duration(seconds: float) -> str:
    """Return a duration as one number that is neither long nor wrong by much."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _loads(model: dict[str, Any]) -> str:
    if not model["loads"]:
        return "-"
    ahead = f", {model['loads_ahead']} ahead" if model["loads_ahead"] else ""
    return f"{model['loads']}{ahead}, {model['load_seconds']:.1f} s"


def _replica(one: dict[str, Any], *, alone: bool) -> str:
    """Return how a replica does, with its name where there are several."""
    told = f"{_STATES.get(one['state'], one['state'])} {one['in_flight']}/{one['slots']}"
    return told if alone else f"{one['name']} {told}"


def _row(model: dict[str, Any]) -> list[str]:
    expected = model["next_use"]
    replicas = [_replica(one, alone=len(model["replicas"]) == 1) for one in model["replicas"]]
    base = model.get("adapter_of")
    return [
        model["name"],
        model["state"] if base is None else f"{model['state']}, adapter of {base}",
        _memory(model),
        str(model["open"]),
        "-" if expected is None else f"in {_duration(expected)}",
        _loads(model),
        "\n".join(replicas) or "-",
    ]
