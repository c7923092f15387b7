"""``agentsys effects``: the tool calls that a board has on record, and a person's word on those in doubt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.board_option import BoardOption, board_to_read, board_to_write
from agentsys.cli.examples import examples
from agentsys.cli.output import (
    AlwaysJsonOption,
    JsonOption,
    err,
    json_flag,
    out,
    print_json,
    print_table,
    reported_errors,
    shortened,
    time_text,
)
from agentsys.cli.run_argument import completed_run
from agentsys.cli.secrets import known_secrets
from agentsys.errors import AgentsysError

if TYPE_CHECKING:
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.effects import Effect
    from agentsys.settling import SettledAs

app = typer.Typer(help="See the tool calls on record, and settle those in doubt.", no_args_is_help=True)

OPEN = "open"
STATES = (OPEN, "intended", "started", "succeeded", "failed", "in_doubt", "compensated", "all")
WORDS = {
    "succeeded": "it took effect; --result is what it returned",
    "failed": "it did not take effect, and its caller is told so",
    "redo": "it surely did not take effect, and is to be made again",
}
COMPLETIONS = 50


def _completed(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the identifiers of what is open."""
    try:
        found = _list(context.params.get("board"), OPEN, None)
    except AgentsysError:
        return []
    return [(one["effect"], _summary(one)) for one in found if one["effect"].startswith(incomplete)][:COMPLETIONS]


EffectArgument = Annotated[
    str, typer.Argument(metavar="EFFECT", help="The effect; the first characters do.", autocompletion=_completed)
]


@app.command("list")
def list_(
    state: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(STATES[:-1])} or {STATES[-1]}; open ones are in doubt, or begun and not ended.",
            autocompletion=lambda: STATES,
        ),
    ] = OPEN,
    run: Annotated[
        str | None, typer.Option("--run", help="Only effects of this run.", autocompletion=completed_run)
    ] = None,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tool calls; by default those that nobody knows the outcome of."""
    if state not in STATES:
        raise typer.BadParameter(f"{state!r} is no state.", param_hint="--state")
    with reported_errors(as_json=as_json):
        found = _list(board, state, run)
    if as_json:
        print_json(found)
        return
    rows = [[one["effect"], one["run"], one["state"], time_text(one["at"]), _summary(one)] for one in found]
    print_table(["effect", "run", "state", "since", "what"], rows)


@app.command("show")
def show(effect: EffectArgument, board: BoardOption = None, as_json: AlwaysJsonOption = False) -> None:
    """Print one effect as JSON: the call, its label, its outcome, and who settled it, if somebody did."""
    with reported_errors(as_json=as_json):
        print_json(_find(_list(board, "all", None), effect))


@app.command(
    "settle",
    epilog=examples(
        "agentsys effects settle 3f9a succeeded --result '\"sent\"' --note 'seen in the outbox'",
        "agentsys effects settle 3f9a redo",
    ),
)
def settle(
    effect: EffectArgument,
    outcome: Annotated[
        str,
        typer.Argument(
            metavar="OUTCOME",
            help="; ".join(f"{word}: {meaning}" for word, meaning in WORDS.items()) + ".",
            autocompletion=lambda incomplete: [item for item in WORDS.items() if item[0].startswith(incomplete)],
        ),
    ],
    result: Annotated[str | None, typer.Option(help="What the call returned, as JSON; of a failed one, why.")] = None,
    note: Annotated[str, typer.Option("--note", help="How you know; it is kept with your word.")] = "",
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what became of a call in doubt; your word, and why, are kept as its outcome."""
    if outcome not in WORDS:
        raise typer.BadParameter(f"{outcome!r} is none of {', '.join(WORDS)}.", param_hint="OUTCOME")
    if outcome == "redo" and result is not None:
        raise typer.BadParameter("A call that is made again has no result yet.", param_hint="--result")
    with reported_errors(as_json=as_json):
        told = None if result is None else json_flag("--result", result)
        settled, hint = _settle(board, effect, outcome, told, note)
    if as_json:
        print_json(settled)
        return
    out.print(f"{outcome} {settled['effect']}: {_summary(settled)}", highlight=False, markup=False)
    err.print(hint, style="dim", highlight=False, markup=False)


def _list(board: str | None, state: str, run: str | None) -> list[dict[str, Any]]:
    from agentsys.settling import OPEN as OPEN_STATES

    with board_to_read(board) as opened:
        if state == OPEN:
            found = [effect for one in OPEN_STATES for effect in opened.effects(run=run, state=one)]
        else:
            found = opened.effects(run=run, state=None if state == "all" else state)
    return [_document(effect) for effect in sorted(found, key=lambda one: one.seq)]


def _find(found: list[dict[str, Any]], effect: str) -> dict[str, Any]:
    """Return the effect whose identifier begins as given. Raises :class:`UnknownEffect`."""
    from agentsys.settling import UnknownEffect

    matching = [one for one in found if one["effect"].startswith(effect)]
    if len(matching) != 1:
        raise UnknownEffect(f"{len(matching) or 'No'} effects begin with {effect!r}.")
    return matching[0]


def _settle(board: str | None, effect: str, outcome: str, result: Any, note: str) -> tuple[dict[str, Any], str]:
    """Return the settled effect, and what its run can do now."""
    from agentsys.blackboard.labels import OWNER
    from agentsys.settling import settle

    word: SettledAs = outcome  # type: ignore[assignment]
    chosen, secrets = _find(_list(board, "all", None), effect), known_secrets()
    told, why = secrets.json(result), secrets.text(note)
    with board_to_write(board) as opened:
        settled = asyncio.run(settle(opened, chosen["effect"], word, told, by=OWNER, note=why))
        return _document(settled), _what_next(opened, settled, chosen["seq"])


def _what_next(board: Board, effect: Effect, in_doubt_since: int) -> str:
    from agentsys.runs import RunRecord, UnknownRun
    from agentsys.settling import as_told

    run = effect.intent.run or ""
    try:
        record = RunRecord.load(board, run)
    except UnknownRun:
        return "the effect belongs to no run"
    if record.status == "running" and as_told(effect, run) is effect:
        return f"run {run} goes on from there once it is resumed"
    # A fork from where the doubt arose takes over all that was done by then, and nothing that followed from the doubt.
    return f"run {run} is {record.status}; `agentsys runs fork {run} --at {in_doubt_since}` goes on from there"


def _document(effect: Effect) -> dict[str, Any]:
    """Return an effect as JSON, without what its labels keep from the owner."""
    from agentsys.blackboard.labels import OWNER
    from agentsys.settling import settled_by
    from agentsys.tool_calls import label_of
    from agentsys.views.withholding import may_read

    intent, told = effect.intent, may_read(label_of(effect), OWNER)
    return {
        "effect": effect.id,
        "run": intent.run,
        "step": intent.step,
        "tool": intent.tool,
        "class": str(intent.effect_class),
        "state": str(effect.state),
        "attempts": effect.attempt,
        "seq": effect.seq,
        "at": effect.at,
        "arguments": intent.arguments if may_read(intent.label, OWNER) else None,
        "result": effect.result if told else None,
        "settled": settled_by(effect) if told else None,
        "label": intent.label.to_json(),
        "withheld": not (told and may_read(intent.label, OWNER)),
    }


def _summary(effect: dict[str, Any]) -> str:
    arguments = "(withheld)" if effect["withheld"] else json.dumps(effect["arguments"], ensure_ascii=False)
    return shortened(f"{effect['tool']} {arguments}")
