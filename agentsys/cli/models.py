"""``agentsys models``: fetch, list and serve models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentsys.cli.model_fleet import launch, load, ps, unload
from agentsys.cli.model_names import completed_source
from agentsys.cli.model_server import serve
from agentsys.cli.output import JsonOption, out, print_json, print_table, reported_errors
from agentsys.cli.pulling import PullBar
from agentsys.settings import Settings, load_settings

app = typer.Typer(help="Fetch, list and serve models.", no_args_is_help=True)

app.command("serve")(serve)
app.command("launch")(launch)
app.command("ps")(ps)
app.command("load")(load)
app.command("unload")(unload)


@app.command("pull")
def pull(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A catalogue name, a Hugging Face id, a folder or a .gguf file; default: model.name.",
            autocompletion=completed_source,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model once into the cache; an interrupted download goes on where it stopped."""
    with reported_errors(as_json=as_json):
        from agentsys.serving.weights.pull import pull as pull_weights

        settings = load_settings().settings
        wanted = source or next(iter(settings.default_specs), settings.model.name)
        with PullBar(wanted) as bar:
            folder = pull_weights(wanted, progress=bar.update, directory=settings.models_dir)
    if as_json:
        print_json({"model": wanted, "path": str(folder)})
    else:
        out.print(f"{wanted} is at {folder}", highlight=False)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the models of the cache, those that `pull` knows by name, and the adapters of agentsys.toml."""
    with reported_errors(as_json=as_json):
        from agentsys.serving.weights.cache import describe, list_models
        from agentsys.serving.weights.catalogue import CATALOGUE

        settings = load_settings().settings
        pulled = [describe(model) for model in list_models(settings.models_dir)]
        adapters = _adapters(settings)
    known = [name for name in CATALOGUE if name not in {model["name"] for model in pulled}]
    if as_json:
        print_json({"pulled": pulled, "known": known, "adapters": adapters})
        return
    rows = [[model["name"], _megabytes(model["size_bytes"]), model["source"]] for model in pulled]
    rows += [[name, "not pulled", CATALOGUE[name].title] for name in known]
    rows += [
        [one["name"], _megabytes(one["size_bytes"]), one["error"] or f"adapter of {one['adapter_of']}"]
        for one in adapters
    ]
    print_table(["model", "size", "from"], rows)


def _adapters(settings: Settings) -> list[dict[str, Any]]:
    """Return the configured LoRA adapters; ``error`` says why one could not be loaded."""
    from agentsys.embedded import adapted_models
    from agentsys.serving.vllm_engine.adapters import AdapterError, read_adapter

    found = []
    for name, one in adapted_models(settings).items():
        entry: dict[str, Any] = {"name": name, "adapter_of": one.base, "path": one.identity}
        try:
            adapter = read_adapter(name, Path(one.identity))
            found.append(entry | {"rank": adapter.rank, "size_bytes": adapter.size_bytes, "error": None})
        except AdapterError as error:
            found.append(entry | {"rank": None, "size_bytes": None, "error": str(error)})
    return found


def _megabytes(size: Any) -> str:
    return "-" if size is None else f"{int(size) / 1e6:.0f} MB"
