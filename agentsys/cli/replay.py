"""``agentsys replay``: a run once more, from its record alone."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.board_option import BoardOption, board_to_read
from agentsys.cli.composition import file_runtime, open_lake, settings_with
from agentsys.cli.output import ExitCode, JsonOption, out, print_json, reported_errors
from agentsys.cli.recorded import origin_of
from agentsys.cli.run_argument import RunOrLatestArgument
from agentsys.cli.run_source import BoardRuns, named
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.audit import AuditReport
    from agentsys.runs import ReplayReport, RunRecord
    from agentsys.runtime import Runtime


def replay(
    run: RunOrLatestArgument,
    file: Annotated[Path | None, typer.Option(help="Python file of its workflow; default: as recorded.")] = None,
    lake: Annotated[str | None, typer.Option(help="Lake of an `ask`; default: as recorded.")] = None,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Execute a run again from its record alone, without model, tool or write, and report the first divergence.

    Every decision of the gateway is made again, too, under the policy that it names.
    """
    from agentsys.runs import RunRecord

    with reported_errors(as_json=as_json):
        with board_to_read(board) as opened:
            record = RunRecord.load(opened, named(run, BoardRuns(opened)))
        runtime = _composed(_origin(record, file, lake), board)
        report, audited = asyncio.run(_replay(runtime, record.run))
    if as_json:
        print_json({**asdict(report), "audit": asdict(audited)})
    else:
        verdict = "identical" if report.identical else "DIVERGES"
        out.print(f"{verdict} over {report.steps} steps{'' if report.complete else ', unfinished'}", highlight=False)
        if report.divergence:
            out.print(report.divergence, highlight=False, markup=False)
        same = "the same" if audited.identical else "NOT THE SAME"
        out.print(f"{same} over {audited.decisions} decisions made again", highlight=False)
        if audited.difference:
            out.print(audited.difference, highlight=False, markup=False)
    if not (report.identical and audited.identical):
        raise typer.Exit(ExitCode.FAILED)


async def _replay(runtime: Runtime, run: str) -> tuple[ReplayReport, AuditReport]:
    try:
        return await runtime.replay(run), await runtime.audit(run)
    finally:
        await runtime.close()


def _origin(record: RunRecord, file: Path | None, lake: str | None) -> dict[str, Any]:
    """Return where the run's workflow came from: its record's word, under what the flags say."""
    origin = origin_of(record)
    if file is not None:
        return {"file": str(file)}
    return origin | ({"lake": lake} if lake is not None else {})


def _composed(origin: dict[str, Any], board: str | None) -> Runtime:
    if "file" in origin:
        return file_runtime(Path(origin["file"]), settings_with(board_path=board), read_only=True)
    if "lake" not in origin:
        raise ConfigurationError(
            "The record does not say where the run's workflow came from.",
            remedy="Pass --file FILE for a run of `agentsys run`, --lake DIR for one of `agentsys ask`.",
        )
    from agentsys.lake.local import lake_runtime

    settings = settings_with(board_path=board, lake_planner=origin.get("planner"))
    return lake_runtime(open_lake(origin["lake"], settings), settings, read_only=True)
