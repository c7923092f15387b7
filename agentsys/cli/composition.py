"""What several commands need: settings under flags, a lake with a progress bar, the runtime of a Python file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agentsys.cli.output import err
from agentsys.errors import ConfigurationError
from agentsys.settings import Settings, load_settings

if TYPE_CHECKING:
    from agentsys.lake.lake import Lake
    from agentsys.runtime import Runtime


def settings_with(**flags: Any) -> Settings:
    """Load settings under the flags given; ``model_name`` stands for ``model.name``."""
    return load_settings({name.replace("_", ".", 1): value for name, value in flags.items()}).settings


def open_lake(lake: str, settings: Settings) -> Lake:
    """Open ``--lake`` with a progress bar on stderr, naming there the files that were skipped."""
    from agentsys.lake.lake import Lake
    from agentsys.lake.local import lake_folder
    from agentsys.lake.profiles import LakeProgress

    bar = Progress(
        TextColumn("reading {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        task = bar.add_task(lake, total=None)

        def show(progress: LakeProgress) -> None:
            bar.update(task, description=progress.current, completed=progress.done, total=progress.total)

        opened = Lake.open(lake_folder(lake), cache=settings.lake.cache, progress=show)
    for skipped in opened.skipped:
        err.print(f"skipped {skipped.path}: {skipped.code} {skipped.reason}", highlight=False, markup=False)
    return opened


def file_runtime(file: Path, settings: Settings, *, read_only: bool = False) -> Runtime:
    """Return a runtime of the agents, tools, workflows and policy at a Python file's top level. Runs the file."""
    from agentsys.agents import Agent
    from agentsys.policy import Policy
    from agentsys.runtime import Runtime
    from agentsys.tools import Tool
    from agentsys.workflow import Workflow

    members = vars(_load(file)).values()
    return Runtime.from_settings(
        settings,
        read_only=read_only,
        agents=[member for member in members if isinstance(member, Agent)],
        tools=[member for member in members if isinstance(member, Tool)],
        workflows=[member for member in members if isinstance(member, Workflow)],
        policy=next((member for member in members if isinstance(member, Policy)), None),
    )


def _load(file: Path) -> ModuleType:
    """Import ``file`` as a module of its own name, so that its classes pickle and its neighbours import."""
    if not file.is_file():
        raise ConfigurationError(f"{file} is not a file.", remedy="Pass a Python file.")
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{file} is no Python file.", remedy="Pass a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
