"""A lake and its agents under one runtime, from settings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from agentsys.errors import ConfigurationError
from agentsys.lake.agents import family_agents
from agentsys.lake.ask import ask_workflow
from agentsys.lake.lake import Lake
from agentsys.lake.planners import FocusedPlanner, FreePlanner, GrammarPlanner, Planner
from agentsys.lake.queries.sandbox import SandboxLimits
from agentsys.lake.tools import lake_tools
from agentsys.runtime import Runtime
from agentsys.serving.weights.catalogue import is_remote
from agentsys.serving.weights.progress import ProgressListener, ignore_progress
from agentsys.settings import Settings

PACKAGE_PREFIX = "package:"


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


def lake_runtime(
    lake: Lake, settings: Settings, *, read_only: bool = False, progress: ProgressListener = ignore_progress
) -> Runtime:
    """Return a runtime whose agents own the lake's families and whose workflow is ``ask``.

    ``progress`` is told how far a model is that is pulled at its first call.
    """
    limits = SandboxLimits(
        seconds=settings.lake.query_seconds,
        memory_bytes=settings.lake.query_memory_mib * 2**20,
        rows=settings.lake.query_rows,
    )
    return Runtime.from_settings(
        settings,
        read_only=read_only,
        progress=progress,
        agents=family_agents(lake),
        tools=lake_tools(lake, limits),
        workflows=[ask_workflow(planner_for(lake, settings), deadline=settings.run.deadline_seconds)],
    )


def planner_kind(settings: Settings) -> str:
    """Return ``lake.planner``, decided where it is ``auto``.

    That is focused for the small default model, grammar for other models in this process, free for servers.
    """
    if settings.lake.planner != "auto":
        return settings.lake.planner
    if any(is_remote(spec) for spec in settings.default_specs):
        return "free"
    return "focused" if settings.runs_smallest else "grammar"


def planner_for(lake: Lake, settings: Settings) -> Planner:
    """Return the planner of :func:`planner_kind`."""
    kind = planner_kind(settings)
    if kind == "free":
        return FreePlanner()
    return FocusedPlanner(lake) if kind == "focused" else GrammarPlanner(lake)
