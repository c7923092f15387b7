"""Puts a runtime together from settings; the floors are imported here, when a command needs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agentsys.cli.output import err
from agentsys.errors import ConfigurationError
from agentsys.settings import Settings, load_settings

if TYPE_CHECKING:
    from agentsys.lake.lake import Lake
    from agentsys.lake.planners import Planner
    from agentsys.runtime import Runtime

PACKAGE_PREFIX = "package:"


def settings_with(**flags: Any) -> Settings:
    """Load settings under the flags given; ``model_name`` stands for ``model.name``."""
    return load_settings({name.replace("_", ".", 1): value for name, value in flags.items()}).settings


def lake_folder(lake: str) -> Path:
    """Resolve ``--lake``: a folder, or ``package:NAME/SUBFOLDER`` for the data files an installed package carries."""
    if not lake.startswith(PACKAGE_PREFIX):
        return Path(lake).expanduser()
    name, _, inner = lake.removeprefix(PACKAGE_PREFIX).partition("/")
    # find_spec imports parents of dotted names, so that --lake must not be able to run more than it names.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"No installed package is called {name!r}.", remedy=f"Run `pip install {name}`, or pass a folder."
        )
    return Path(next(iter(spec.submodule_search_locations))) / inner


def open_lake(folder: Path, settings: Settings) -> Lake:
    """Open a lake with a progress bar on stderr, naming there the files that were skipped."""
    from agentsys.lake.lake import Lake
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
        task = bar.add_task(str(folder), total=None)

        def show(progress: LakeProgress) -> None:
            bar.update(task, description=progress.current, completed=progress.done, total=progress.total)

        lake = Lake.open(folder, cache=settings.lake.cache, progress=show)
    for skipped in lake.skipped:
        err.print(f"skipped {skipped.path}: {skipped.code} {skipped.reason}", highlight=False, markup=False)
    return lake


def lake_runtime(lake: Lake, planner: Planner, settings: Settings) -> Runtime:
    """Return a runtime whose agents own the lake's families and whose workflow is ``ask``."""
    from agentsys.lake.agents import family_agents
    from agentsys.lake.ask import ask_workflow
    from agentsys.lake.sandbox import SandboxLimits
    from agentsys.lake.tools import lake_tools
    from agentsys.runtime import Runtime

    limits = SandboxLimits(
        seconds=settings.lake.query_seconds,
        memory_bytes=settings.lake.query_memory_mib * 2**20,
        rows=settings.lake.query_rows,
    )
    return Runtime.from_settings(
        settings,
        agents=family_agents(lake),
        tools=lake_tools(lake, limits),
        workflows=[ask_workflow(planner, deadline=settings.run.deadline_seconds)],
    )


def planner_for(lake: Lake, settings: Settings) -> Planner:
    """Return the planner of ``lake.planner``; ``auto`` is focused for models in this process and free for servers."""
    from agentsys.lake.planners import FocusedPlanner, FreePlanner

    focused = settings.lake.planner == "focused"
    if settings.lake.planner == "auto":
        focused = not settings.model.name.startswith(("http://", "https://"))
    return FocusedPlanner(lake) if focused else FreePlanner()
