"""``agentsys doctor``: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from rich.markup import escape

from agentsys.cli.output import ExitCode, JsonOption, out, print_json, reported_errors
from agentsys.errors import ConfigurationError
from agentsys.settings import Settings, load_settings, without_credentials

if TYPE_CHECKING:
    from agentsys.serving.models import EngineOptions

State = Literal["ok", "warning", "fault"]
LINKED = ("blackboard", "serving", "protocols", "ui", "benchmarks")
FREE_BYTES_WANTED = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``remedy`` is empty when all is well."""

    subject: str
    state: State
    detail: str
    remedy: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Check Python, packages, settings, models, board, containment, queries, secrets and disk; exit 1 on a fault."""
    with reported_errors(as_json=as_json):
        settings = load_settings().settings
        findings = [check(settings) for check in CHECKS]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "fault": "[red]fault[/]  "}
        for finding in findings:
            out.print(f"{marks[finding.state]} {finding.subject}: {escape(finding.detail)}", highlight=False)
            if finding.remedy:
                out.print(f"        → {escape(finding.remedy)}", highlight=False)
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def check_python(_: Settings) -> Finding:
    """Which Python runs; pip refuses one that is too old."""
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def check_links(_: Settings) -> Finding:
    """The subpackages are there: a clone made without symbolic links has files in their place."""
    package = Path(__file__).resolve().parent.parent
    broken = [name for name in LINKED if not (package / name).is_dir()]
    if broken:
        remedy = "Run `git config core.symlinks true && git checkout -- agentsys` (on Windows with developer mode on)."
        return Finding("subpackages", "fault", f"{', '.join(broken)} are not folders", remedy)
    return Finding("subpackages", "ok", "all linked")


def check_torch(settings: Settings) -> Finding:
    """Torch is importable, and the devices that models are to run on are there."""
    try:
        import torch

        from agentsys.serving.torch_engine.weight_formats import DeviceError, weight_format_on
    except ImportError as error:
        return Finding("torch", "fault", str(error), "Install torch, see README.")
    wanted = _options_of_local_models(settings)
    try:
        for options in wanted:
            weight_format_on(options.device, options.weight_format)
    except DeviceError as error:
        return Finding("torch", "fault", error.message, error.remedy)
    devices = sorted({options.device for options in wanted})
    unused = torch.cuda.is_available() and devices == ["cpu"]
    hint = '; there is a GPU, which model.device = "cuda" would use' if unused else ""
    on = f" on {' and '.join(devices)}" if devices else ""
    return Finding("torch", "ok", f"{torch.__version__}{on}, {os.cpu_count()} cores{hint}")


def _options_of_local_models(settings: Settings) -> list[EngineOptions]:
    from agentsys.embedded import options_of
    from agentsys.serving.weights.catalogue import is_remote, runs_in_vllm

    default = (settings.models.get(settings.model.name), settings.default_specs)
    every = [default, *((named, named.specs) for named in settings.models.values())]
    return [
        options_of(settings, named)
        for named, specs in every
        if not all(is_remote(spec) or runs_in_vllm(spec) for spec in specs)
    ]


def check_kernels(_: Settings) -> Finding:
    """The native kernels are compiled or compilable."""
    from agentsys.serving.torch_engine.kernels import kernels

    found = kernels()
    if found.library is not None:
        return Finding("native kernels", "ok", found.reason)
    remedy = "Install g++ or clang++ for several times the speed; without, a slower torch path serves."
    return Finding("native kernels", "warning", found.reason, remedy)


def check_model(settings: Settings) -> Finding:
    """The configured models are pulled or elsewhere, and those for vLLM have it here."""
    from agentsys.serving.vllm_engine.versions import VllmMissingError, VllmVersionError, checked_version
    from agentsys.serving.weights.catalogue import is_remote, runs_in_vllm
    from agentsys.serving.weights.pull import is_at_hand

    named = (spec for one in settings.models.values() for spec in one.specs)
    specs = list(dict.fromkeys((*settings.default_specs, *named)))
    if any(runs_in_vllm(spec) for spec in specs):
        try:
            checked_version()
        except (VllmMissingError, VllmVersionError) as error:
            return Finding("model", "fault", error.message, error.remedy)
    missing = [spec for spec in specs if not (is_remote(spec) or is_at_hand(spec, settings.models_dir))]
    if missing:
        commands = " and ".join(f"`agentsys models pull {spec}`" for spec in missing)
        verb = "is" if len(missing) == 1 else "are"
        return Finding("model", "warning", f"{', '.join(missing)} {verb} not pulled", f"Run {commands}.")
    found = (f"{spec} (remote; not contacted)" if is_remote(spec) else spec for spec in specs)
    return Finding("model", "ok", without_credentials(", ".join(found)))


def check_adapters(settings: Settings) -> Finding:
    """The configured LoRA adapters are there, and their models can run them."""
    from agentsys.embedded import adapted_models
    from agentsys.serving.vllm_engine.adapters import AdapterError, read_adapter

    try:
        adapted = adapted_models(settings)
        for name, one in adapted.items():
            read_adapter(name, Path(one.identity))
    except (AdapterError, ConfigurationError) as error:
        return Finding("adapters", "fault", error.message, error.remedy)
    return Finding("adapters", "ok", ", ".join(f"{name} of {one.base}" for name, one in adapted.items()) or "none")


def check_board(settings: Settings) -> Finding:
    """The board's folder can be written, or its database reached."""
    if settings.board.url is not None:
        return _check_database(settings.board.url)
    folder = settings.board.path.parent
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding("board", "fault", f"{existing} is not writable", "Set board.path to a folder you own.")
    return Finding("board", "ok", str(settings.board.path))


def _check_database(url: str) -> Finding:
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.postgres.address import Address
    from agentsys.blackboard.storage import BoardMissing
    from agentsys.errors import BoardError
    from agentsys.views.texts import count_text

    try:
        name = Address.parse(url).name
        with Board.open_read_only(url) as board:
            return Finding("board", "ok", f"{name}, {count_text(board.head, 'commit')}")
    except BoardMissing as error:
        return Finding("board", "warning", error.message, "The first command that writes creates it.")
    except BoardError as error:
        return Finding("board", "fault", error.message, error.remedy)


def check_containment(_: Settings) -> Finding:
    """Tools and queries run behind walls: says which there are, and tries them out with a planted escape."""
    from agentsys.containment.process import ContainmentFailed
    from agentsys.containment.trial import escapes
    from agentsys.containment.walls import MEANINGS, STRONG, walls_here

    walls = walls_here()
    try:
        broken = sorted(walls.held & escapes(walls))
    except ContainmentFailed as error:
        return Finding("containment", "fault", error.message, "Tools that need containment are refused.")
    if broken:
        return Finding("containment", "fault", f"{walls}, and yet a program got through to {', '.join(broken)}")
    missing = [meaning for name, meaning in MEANINGS.items() if name not in walls.held]
    detail = f"{walls}" + ("; not held: a contained program " + ", ".join(missing) if missing else "")
    if not walls.held >= STRONG:
        return Finding("containment", "warning", detail, "Install bubblewrap, or use Linux 6.2 or later.")
    return Finding("containment", "ok", detail)


def check_queries(_: Settings) -> Finding:
    """Questions about data files need a database that works behind the walls."""
    from agentsys.errors import LakeError
    from agentsys.lake.queries.sandbox import QuerySandbox

    try:
        QuerySandbox(()).run("SELECT 42 AS answer")
    except LakeError as error:
        return Finding("queries", "fault", error.message, "Questions about data files cannot be answered here.")
    return Finding("queries", "ok", "DuckDB answers behind these walls")


def check_secrets(settings: Settings) -> Finding:
    """The secrets that tools may be given are where the settings say."""
    from agentsys.secrets import SecretUnavailable, declared_in

    missing = []
    for secret in declared_in(settings):
        try:
            secret.value()
        except SecretUnavailable:
            missing.append(secret.name)
    if missing:
        remedy = "Run `agentsys secrets check`; tools that need one fail when they are called."
        return Finding("secrets", "warning", f"{', '.join(missing)} cannot be had", remedy)
    return Finding("secrets", "ok", f"{len(settings.secrets)} declared")


def check_disk(settings: Settings) -> Finding:
    """There is room for models and tables."""
    existing = next(parent for parent in [settings.models_dir, *settings.models_dir.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{free / 2**30:.1f} GiB free at {existing}"
    if free < FREE_BYTES_WANTED:
        return Finding("disk", "warning", detail, "Free some space or set AGENTSYS_MODELS_DIR.")
    return Finding("disk", "ok", detail)


CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    check_python,
    check_links,
    check_torch,
    check_kernels,
    check_model,
    check_adapters,
    check_board,
    check_containment,
    check_queries,
    check_secrets,
    check_disk,
)
