"""``agentsys work``: a worker, one of any number that share the runs of a board."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import file_runtime, settings_with
from agentsys.cli.ending import end_without_what_goes_on
from agentsys.cli.model_names import ModelOption
from agentsys.cli.output import ExitCode, err, reported_errors
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.runs import RunRecord
    from agentsys.settings import Settings


def work(
    file: Annotated[Path, typer.Argument(help="Python file with the workflows, agents and tools of the runs.")],
    most: Annotated[int, typer.Option(min=1, help="At most so many runs at once.")] = 16,
    drain: Annotated[bool, typer.Option("--drain", help="End once no run is unfinished.")] = False,
    model: ModelOption = None,
    board: BoardOption = None,
) -> None:
    """Take runs that wait (`agentsys run --enqueue`), and those whose process died; any number of workers may."""
    with reported_errors():
        settings = settings_with(model_name=model, board_path=board)
        broken = asyncio.run(_work(file, settings, most, drain=drain))
        for run, error in broken.items():
            err.print(f"run {run} cannot go on: {error}", highlight=False, markup=False)
    raise typer.Exit(ExitCode.FAILED if broken else ExitCode.DONE)


async def _work(file: Path, settings: Settings, most: int, *, drain: bool) -> dict[str, Exception]:
    from agentsys.supervisor import RunSupervisor
    from agentsys.workers import Worker

    def told(record: RunRecord) -> None:
        err.print(f"run {record.run} of {record.workflow}", highlight=False, markup=False)

    runtime = file_runtime(file, settings)
    supervisor = RunSupervisor(runtime)
    try:
        if not runtime.workflows:
            raise ConfigurationError(
                f"{file} defines no workflow.", remedy="Keep an agentsys.Workflow at its top level."
            )
        worker = Worker(supervisor, most=most, told=told)
        working = asyncio.create_task(worker.drain() if drain else worker.serve())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
        try:
            await working
        except asyncio.CancelledError:
            # By SIGTERM it ends as it should; an interrupt at the terminal cancels this task, too.
            task = asyncio.current_task()
            if not working.cancelled() or (task is not None and task.cancelling()):
                raise
        return dict(worker.broken)
    finally:
        # What is under way is given back, for other workers or for later.
        await supervisor.close()
        await runtime.close()
        end_without_what_goes_on(supervisor)
