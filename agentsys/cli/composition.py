"""What several commands need: settings under flags, a lake with a progress bar, the runtime of a Python file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agentsys.cli.output import err
from agentsys.errors import ConfigurationError
from agentsys.settings import Settings, load_settings

if TYPE_CHECKING:
    from agentsys.lake.lake import Lake
    from agentsys.lake.profiles import SkippedFile
    from agentsys.runtime import Runtime
    from agentsys.tools import Tool

NO_DATA_TYPE = "are not read as data."
SHOWN_OTHERS = 5


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
    _name_skipped(opened.skipped)
    return opened


def _name_skipped(skipped: Sequence[SkippedFile]) -> None:
    """Name each data file that could not be read; of files that are no data at all, such as source code, the number."""
    others = [file for file in skipped if file.reason.endswith(NO_DATA_TYPE)]
    shown = skipped if len(others) <= SHOWN_OTHERS else [file for file in skipped if file not in others]
    for file in shown:
        err.print(f"skipped {file.path}: {file.code} {file.reason}", highlight=False, markup=False)
    if len(shown) < len(skipped):
        types = sorted({PurePath(file.path).suffix or "no suffix" for file in others})
        err.print(f"skipped {len(others)} files that are no data ({', '.join(types)})", highlight=False, markup=False)


def file_runtime(file: Path, settings: Settings, **options: Any) -> Runtime:
    """Return a runtime of the agents, tools, workflows and policy at a Python file's top level. Runs the file.

    The settings' built-in tools can be called beside the file's own. The foreign agents of the settings volunteer
    beside its agents, and the tools of its MCP servers can be called. ``options`` are those of
    :meth:`~agentsys.runtime.Runtime.from_settings`.
    """
    from agentsys.agents import Agent
    from agentsys.policy.policy import Policy
    from agentsys.runtime import Runtime
    from agentsys.tools import Tool
    from agentsys.workflow import Workflow

    members = [*file_members(file), *_foreign_agents(settings)]
    _check_names(members)
    policy = next((member for member in members if isinstance(member, Policy)), None)
    if policy is not None and settings.policy is not None:
        raise ConfigurationError(
            f"Both {file} and {settings.policy} give a policy.", remedy="Leave one of them out: only one can hold."
        )
    runtime = Runtime.from_settings(
        settings,
        **options,
        agents=[member for member in members if isinstance(member, Agent)],
        tools=[member for member in members if isinstance(member, Tool)] + _builtin_tools(settings, members),
        workflows=[member for member in members if isinstance(member, Workflow)],
        policy=policy,
    )
    attach_foreign_tools(runtime, settings)
    return runtime


def file_members(file: Path) -> list[object]:
    """Return what stands at the top level of a Python file. Runs the file."""
    return list(vars(_load(file)).values())


def _builtin_tools(settings: Settings, members: Collection[object]) -> list[Tool]:
    """Return the settings' built-in tools, without those in whose place the file has its own."""
    if not settings.tools.builtin:
        return []
    from agentsys.toolbox.builtin import builtin_tools
    from agentsys.tools import Tool

    own = {member.name for member in members if isinstance(member, Tool)}
    return [one for one in builtin_tools(settings, lambda lake: open_lake(lake, settings)) if one.name not in own]


def attach_foreign_tools(runtime: Runtime, settings: Settings) -> None:
    """Let agents call the tools of the settings' MCP servers."""
    if settings.mcp.servers:
        from agentsys.protocols.mcp.remote import attach_servers

        attach_servers(runtime, settings.mcp)


def _foreign_agents(settings: Settings) -> list[object]:
    """Return the settings' A2A agents, each with the tool through which it is asked."""
    if not settings.a2a.agents:
        return []
    from agentsys.protocols.a2a.remote import remote_agents

    return [member for agent in remote_agents(settings.a2a) for member in (agent, agent.tool)]


def _check_names(members: Collection[object]) -> None:
    """A workflow's requests are not offered to an agent of its own name, so such a pair would wait for nobody."""
    from agentsys.agents import Agent
    from agentsys.workflow import Workflow

    agents = {member.name for member in members if isinstance(member, Agent)}
    shared = sorted(agents & {member.name for member in members if isinstance(member, Workflow)})
    if shared:
        raise ConfigurationError(
            f"A workflow and an agent are both named {shared[0]!r}, and nobody answers a request of its own.",
            remedy="Rename one of them.",
        )


def check_source(file: Path | None, lake: str | None) -> None:
    """Tell at once, before anything is opened, what cannot be served."""
    if file is not None and lake is not None:
        raise ConfigurationError("Both a file and --lake were given.", remedy="Serve one of them.")
    if file is not None and not file.is_file():
        raise ConfigurationError(f"{file} is not a file.", remedy="Pass a Python file.")
    if lake is not None:
        from agentsys.lake.lake import check_folder
        from agentsys.lake.local import lake_folder

        check_folder(lake_folder(lake))


def _load(file: Path) -> ModuleType:
    """Import ``file`` as a module of its own name, so that its classes pickle and its neighbours import."""
    check_source(file, None)
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{file} is no Python file.", remedy="Pass a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        # One that ends the program would end this command as if it had done its work.
        raise ConfigurationError(
            f"{file} cannot be imported: {type(error).__name__}: {error} ({_where(error, file)}).",
            remedy=f"Run `python {file}` to see where.",
        ) from error
    return module


def _where(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return f"line {lines[-1]}" if lines else "no line of its own"
