"""``agentsys run`` and ``agentsys replay``: workflows of the user's own, from a Python file."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.live import LiveRun
from agentsys.cli.output import ExitCode, JsonOption, err, out, print_failure, print_json, reported_errors
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.runs import ReplayReport, RunResult
    from agentsys.runtime import Runtime

FileArgument = Annotated[
    Path, typer.Argument(help="Python file with a Workflow, and the agents and tools it needs, at module level.")
]
LATEST = "latest"


def run(
    file: FileArgument,
    run_input: Annotated[str, typer.Option("--input", help="The workflow's input, as JSON.")] = "null",
    resume: Annotated[
        str | None, typer.Option(help=f"Go on with an interrupted run: its id, or `{LATEST}`, instead of a new one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model: a name, folder, Hugging Face id, or URL.")] = None,
    board: Annotated[Path | None, typer.Option(help="The board's file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a workflow, or go on with one that was interrupted."""
    with reported_errors(as_json=as_json):
        try:
            value = json.loads(run_input)
        except ValueError as error:
            raise ConfigurationError(f"--input is no JSON: {error}.", remedy="Quote it: --input '\"text\"'.") from error
        runtime = _runtime(file, model, board)
        result = asyncio.run(_execute(runtime, value, resume))
    document = {
        "run": result.run,
        "status": result.status,
        "value": result.value if result.status == "done" else None,
        "failure": result.failure.to_json() if result.failure else None,
        "label": result.label.to_json(),
    }
    if as_json:
        print_json(document)
    elif result.status == "done":
        out.print(document["value"], highlight=False, markup=False)
        err.print(f"run {result.run}", highlight=False)
    else:
        print_failure(result)
    if result.status != "done":
        raise typer.Exit(ExitCode.FAILED)


def replay(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run to execute again from its record.")],
    file: Annotated[Path | None, typer.Option(help="Python file with the run's workflow.")] = None,
    lake: Annotated[str | None, typer.Option(help="The lake of a run of `agentsys ask`.")] = None,
    board: Annotated[Path | None, typer.Option(help="The board's file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Execute a run again from its record alone, without model, tool or write, and report the first divergence."""
    with reported_errors(as_json=as_json):
        report = asyncio.run(_replay(_replayed_runtime(file, lake, board), run_id))
    if as_json:
        print_json(asdict(report))
    else:
        verdict = "identical" if report.identical else "DIVERGES"
        out.print(f"{verdict} over {report.steps} steps{'' if report.complete else ', unfinished'}", highlight=False)
        if report.divergence:
            out.print(report.divergence, highlight=False, markup=False)
    if not report.identical:
        raise typer.Exit(ExitCode.FAILED)


async def _execute(runtime: Runtime, value: Any, resume: str | None) -> RunResult:
    try:
        with LiveRun(err) as live:
            if resume is None:
                return await runtime.run(_only_workflow(runtime), value, listener=live.listen)
            return await runtime.resume(_latest(runtime) if resume == LATEST else resume, listener=live.listen)
    finally:
        await runtime.close()


async def _replay(runtime: Runtime, run_id: str) -> ReplayReport:
    try:
        return await runtime.replay(run_id)
    finally:
        await runtime.close()


def _only_workflow(runtime: Runtime) -> str:
    names = sorted(runtime.workflows)
    if len(names) != 1:
        raise ConfigurationError(
            f"The file defines {len(names)} workflows ({', '.join(names) or 'none'}).",
            remedy="Keep one agentsys.Workflow at its top level.",
        )
    return names[0]


def _latest(runtime: Runtime) -> str:
    unfinished = [record.run for record in runtime.runs() if record.status == "running"]
    if not unfinished:
        raise ConfigurationError("The board has no unfinished run.", remedy="Leave --resume out to start a new one.")
    return unfinished[-1]


def _runtime(file: Path, model: str | None, board: Path | None) -> Runtime:
    from agentsys.agents import Agent
    from agentsys.cli.composition import settings_with
    from agentsys.policy import Policy
    from agentsys.runtime import Runtime
    from agentsys.tools import Tool
    from agentsys.workflow import Workflow

    members = vars(_load(file)).values()
    policies = [member for member in members if isinstance(member, Policy)]
    settings = settings_with(model_name=model, board_path=board)
    return Runtime.from_settings(
        settings,
        agents=[member for member in members if isinstance(member, Agent)],
        tools=[member for member in members if isinstance(member, Tool)],
        workflows=[member for member in members if isinstance(member, Workflow)],
        policy=policies[0] if policies else None,
    )


def _replayed_runtime(file: Path | None, lake: str | None, board: Path | None) -> Runtime:
    if (file is None) == (lake is None):
        raise ConfigurationError(
            "A replay needs the code of the run.", remedy="Pass --file FILE for `run`, or --lake DIR for `ask`."
        )
    if file is not None:
        return _runtime(file, None, board)
    from agentsys.cli.composition import open_lake, settings_with
    from agentsys.lake.local import lake_runtime

    settings = settings_with(board_path=board)
    return lake_runtime(open_lake(str(lake), settings), settings)


def _load(file: Path) -> Any:
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
