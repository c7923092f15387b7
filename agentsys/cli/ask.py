"""``agentsys ask``: a question over a folder of data files."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import open_lake, settings_with
from agentsys.cli.interrupts import interrupts_heeded
from agentsys.cli.live import LiveRun
from agentsys.cli.model_names import ModelOption
from agentsys.cli.output import JsonOption, err, exit_code_of_run, out, print_failure, print_json, reported_errors
from agentsys.cli.recorded import origin_of, recorded_run
from agentsys.cli.run_argument import completed_unfinished
from agentsys.cli.run_source import LATEST
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.runs import RunRecord, RunResult
    from agentsys.runtime import Runtime

SHOWN_FILES = 5
SHOWN_ROWS = 20
QUESTIONS_REMEDY = 'Write JSON: ["question", …] or [{"question": …}, …].'


def ask(
    questions: Annotated[list[str] | None, typer.Argument(help="One or more questions.")] = None,
    lake: Annotated[
        str | None,
        typer.Option(
            help="Folder of data files, or package:NAME/SUBFOLDER of an installed package; "
            "default: the current folder, or the resumed run's lake."
        ),
    ] = None,
    questions_file: Annotated[
        Path | None, typer.Option("--questions", help="JSON list of questions, or of objects with a `question`.")
    ] = None,
    take: Annotated[int | None, typer.Option(min=1, help="Only the first N questions.")] = None,
    model: ModelOption = None,
    board: BoardOption = None,
    planner: Annotated[
        str | None, typer.Option(help="auto, focused, grammar or free: for small, larger and capable models.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help=f"Go on with an interrupted run, its id or `{LATEST}`, instead of asking.",
            autocompletion=completed_unfinished,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask questions of the data files in a folder; answers come with their label, files and columns."""
    with reported_errors(as_json=as_json, resumable=True):
        asked = _questions(questions or [], questions_file)[:take]
        if bool(asked) == (resume is not None) or not all(question.strip() for question in asked):
            raise ConfigurationError(
                "There must be questions, none of them empty, or a run to resume.",
                remedy='Write: agentsys ask --lake DIR "question", or agentsys ask --resume RUN.',
            )
        if resume is not None:
            record = recorded_run(settings_with(board_path=board).board.location, resume, kind="lake")
            _check_asked(record)
            recorded = origin_of(record)
            resume, lake, planner = record.run, lake or recorded.get("lake"), planner or recorded.get("planner")
        settings = settings_with(model_name=model, board_path=board, lake_planner=planner)
        lake = lake or "."
        from agentsys.lake.local import lake_folder, lake_runtime, planner_kind

        live = LiveRun(err)
        runtime = lake_runtime(open_lake(lake, settings), settings, progress=live.pulling)
        origin = {"lake": str(lake_folder(lake).resolve()), "planner": planner_kind(settings)}
        results = asyncio.run(_ask_all(runtime, live, asked, resume, origin, as_json=as_json))
    if as_json:
        print_json([_document(result) for result in results])
    elif settings.runs_smallest and any(result.status == "done" for result in results):
        err.print(
            "A model of 135 million parameters planned these answers. Name a better one with --model: a folder, a "
            "Hugging Face id, or http://host/v1#model for vLLM and any OpenAI-compatible server.",
            style="dim",
            highlight=False,
        )
    # Of several questions the gravest end counts: a refusal, then a failure.
    raise typer.Exit(max(exit_code_of_run(result) for result in results))


def _check_asked(record: RunRecord) -> None:
    from agentsys.lake.ask import ASK

    if record.workflow != ASK:
        raise ConfigurationError(
            f"Run {record.run} is of the workflow {record.workflow}, and no question.",
            remedy=f"Write: agentsys run FILE --resume {record.run}.",
        )


async def _ask_all(
    runtime: Runtime, live: LiveRun, questions: list[str], resume: str | None, origin: dict[str, Any], *, as_json: bool
) -> list[RunResult]:
    from agentsys.lake.ask import ASK

    results = []
    try:
        with interrupts_heeded():
            if resume is not None:
                with live:
                    results.append(await runtime.resume(resume, listener=live.listen))
                if not as_json:
                    out.print(f"\n[bold]? {escape(_question(results[-1]))}[/]", highlight=False)
                    _print_answer(results[-1])
            for question in questions:
                if not as_json:
                    out.print(f"\n[bold]? {escape(question)}[/]", highlight=False)
                with live:
                    results.append(await runtime.run(ASK, {"question": question}, origin=origin, listener=live.listen))
                if not as_json:
                    _print_answer(results[-1])
    finally:
        await runtime.close()
    return results


def _questions(given: list[str], file: Path | None) -> list[str]:
    if file is None:
        return given
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is no JSON: {error}.", remedy=QUESTIONS_REMEDY) from error
    items = listed if isinstance(listed, list) else [None]
    found = [item.get("question") if isinstance(item, dict) else item for item in items]
    questions = [question for question in found if isinstance(question, str)]
    if len(questions) < len(found):
        raise ConfigurationError(f"{file} holds no list of questions.", remedy=QUESTIONS_REMEDY)
    return given + questions


def _print_answer(result: RunResult) -> None:
    if result.status != "done":
        print_failure(result)
        return
    value = result.value
    answer = value["answer"]
    shown = answer[:SHOWN_ROWS] if isinstance(answer, list) else answer
    out.print(f"[bold green]= {escape(str(shown))}[/]", highlight=False)
    if isinstance(answer, list) and len(answer) > SHOWN_ROWS:
        out.print(f"  … {len(answer)} rows in all; --json prints every one", highlight=False)
    out.print(f"  plan   {value['plan']}", highlight=False, markup=False)
    for source in value["sources"]:
        columns = ", ".join(source["columns"]) or "no column"
        out.print(f"  from   {_some(source['files'])} · columns {columns}", highlight=False, markup=False)
    out.print(f"  label  {_label(result)}", highlight=False, markup=False)
    out.print(f"  run    {result.run}", highlight=False, markup=False)


def _label(result: RunResult) -> str:
    label = result.label
    readers = "everyone" if label.readers.members is None else ", ".join(sorted(label.readers.members)) or "nobody"
    return f"influenced by {_some(sorted(label.influencers))} · readable by {readers}"


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN_FILES
    return ", ".join(names[:SHOWN_FILES]) + (f" and {rest} more" if rest > 0 else "")


def _question(result: RunResult) -> str:
    return str(result.record.input["question"]) if isinstance(result.record.input, dict) else ""


def _document(result: RunResult) -> dict[str, Any]:
    return {
        "run": result.run,
        "status": result.status,
        "question": _question(result),
        "failure": result.failure.to_json() if result.failure else None,
        "label": result.label.to_json(),
        **(result.value if result.status == "done" else {}),
    }
