"""``agentsys run``: a workflow of the user's own, from a Python file."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.attendance import attended
from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import file_runtime, settings_with
from agentsys.cli.interrupts import interrupts_heeded
from agentsys.cli.live import LiveRun
from agentsys.cli.model_names import ModelOption
from agentsys.cli.output import (
    JsonOption,
    err,
    exit_code_of_run,
    json_flag,
    out,
    print_failure,
    print_json,
    reported_errors,
)
from agentsys.cli.recorded import recorded_run
from agentsys.cli.run_argument import completed_unfinished
from agentsys.cli.run_source import LATEST
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.runs import RunResult
    from agentsys.runtime import Runtime

FileArgument = Annotated[
    Path, typer.Argument(help="Python file with a Workflow, and the agents and tools it needs, at module level.")
]


def run(
    file: FileArgument,
    run_input: Annotated[str, typer.Option("--input", help="The workflow's input, as JSON.")] = "null",
    resume: Annotated[
        str | None,
        typer.Option(
            help=f"Go on with an interrupted run: its id, or `{LATEST}`, instead of a new one.",
            autocompletion=completed_unfinished,
        ),
    ] = None,
    enqueue: Annotated[
        bool, typer.Option("--enqueue", help="Only put the run on record, for a worker (`agentsys work`) to execute.")
    ] = False,
    model: ModelOption = None,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a workflow, or go on with one that was interrupted."""
    with reported_errors(as_json=as_json, resumable=True):
        value = json_flag("--input", run_input)
        if enqueue and resume is not None:
            raise ConfigurationError(
                "--enqueue begins a run, --resume goes on with one.", remedy="Leave one of them out."
            )
        settings = settings_with(model_name=model, board_path=board)
        if resume is not None:
            resume = recorded_run(settings.board.location, resume, kind="file").run
        live = LiveRun(err)
        runtime = file_runtime(file, settings, progress=live.pulling)
        if enqueue:
            _print_enqueued(asyncio.run(_enqueue(runtime, file, value)), as_json=as_json)
            return
        result = asyncio.run(_execute(runtime, live, file, value, resume))
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
        _print_value(document["value"])
        err.print(f"run {result.run}", highlight=False)
    else:
        print_failure(result)
    raise typer.Exit(exit_code_of_run(result))


def _print_value(value: Any) -> None:
    """Print what a run came to; of a planner's answer, what others say under a line of its own."""
    from agentsys.views.run_view import answer_view

    answer = answer_view(value)
    out.print(answer.value if answer.attached else value, highlight=False, markup=False)
    for number, span in enumerate(answer.attached, 1):
        out.print(f"[{number}] {span.label}:", style="dim", highlight=False, markup=False)
        out.print(span.text, highlight=False, markup=False)


async def _enqueue(runtime: Runtime, file: Path, value: Any) -> str:
    try:
        return await runtime.enqueue(_only_workflow(runtime, file), value, origin=_origin(file))
    finally:
        await runtime.close()


def _print_enqueued(run: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"run": run, "status": "running"})
    else:
        out.print(run, highlight=False)


async def _execute(runtime: Runtime, live: LiveRun, file: Path, value: Any, resume: str | None) -> RunResult:
    try:
        with interrupts_heeded():
            if resume is not None:
                return await attended(runtime, live, lambda listener: runtime.resume(resume, listener=listener))
            start = partial(runtime.run, _only_workflow(runtime, file), value, origin=_origin(file))
            return await attended(runtime, live, lambda listener: start(listener=listener))
    finally:
        await runtime.close()


def _origin(file: Path) -> dict[str, Any]:
    return {"file": str(file.resolve())}


def _only_workflow(runtime: Runtime, file: Path) -> str:
    names = sorted(runtime.workflows)
    if not names:
        raise ConfigurationError(
            f"{file} defines no workflow.", remedy="Give an agentsys.Workflow a name at its top level, not in a list."
        )
    if len(names) > 1:
        raise ConfigurationError(
            f"{file} defines {len(names)} workflows ({', '.join(names)}).",
            remedy=f"Keep one at its top level; or serve them (`agentsys serve {file}`, `agentsys runs start NAME`).",
        )
    return names[0]
