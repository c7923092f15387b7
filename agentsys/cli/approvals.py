"""``agentsys approvals``: what waits for a person's word, on the board of this machine or on a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentsys.cli.board_option import BoardOption, board_to_read, board_to_write
from agentsys.cli.examples import examples
from agentsys.cli.output import (
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
from agentsys.cli.secrets import known_secrets
from agentsys.cli.server_option import TokenOption, UrlBesideBoardOption, connected, server_beside
from agentsys.errors import AgentsysError, ConfigurationError

if TYPE_CHECKING:
    from agentsys.deciding import Verdict
    from agentsys.views.approvals import ApprovalView

app = typer.Typer(help="See and decide what waits for a person's word.", no_args_is_help=True)

STATUSES: Final = ("pending", "approved", "modified", "rejected", "terminated", "expired", "void", "all")
COMPLETIONS: Final = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where approvals are: a board, or a server."""

    board: str | None
    url: str | None
    token: str | None


def _completed(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the identifiers of what waits."""
    place = Place(*(context.params.get(name) for name in ("board", "url", "token")))
    try:
        found = _list(place, "pending")
    except AgentsysError:
        return []
    return [(one.id, _summary(one)) for one in found if one.id.startswith(incomplete)][:COMPLETIONS]


def _completed_approver(context: typer.Context, incomplete: str) -> Iterable[str]:
    """Complete the principals that an approval can be handed to."""
    place = Place(*(context.params.get(name) for name in ("board", "url", "token")))
    try:
        approvers = _find(place, str(context.params.get("approval") or "")).approvers
    except AgentsysError:
        return []
    return [name for name in approvers if name.startswith(incomplete)]


IdArgument = Annotated[
    str, typer.Argument(metavar="APPROVAL", help="The approval; the first characters do.", autocompletion=_completed)
]
NoteOption = Annotated[str, typer.Option("--note", help="Why; it is kept with the decision.")]


@app.command("list")
def list_(
    status: Annotated[
        str, typer.Option(help=f"{', '.join(STATUSES[:-1])}, or all.", autocompletion=lambda: STATUSES)
    ] = "pending",
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what waits for a person, in the order in which it was asked."""
    if status not in STATUSES:
        raise typer.BadParameter(f"{status!r} is no status.", param_hint="--status")
    with reported_errors(as_json=as_json):
        found = _list(_place(board, url, token), None if status == "all" else status)
    if as_json:
        print_json(_documents(found))
        return
    rows = [[one.id, one.run, one.agent, one.status, time_text(one.asked_at), _summary(one)] for one in found]
    print_table(["approval", "run", "agent", "status", "asked", "what"], rows)


@app.command("show")
def show(
    approval: IdArgument,
    full: Annotated[bool, typer.Option("--full", help="Show long arguments whole.")] = False,
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is asked: every argument as it is, with hidden and lookalike characters written out, and its label."""
    from agentsys.cli.approval_text import print_approval

    with reported_errors(as_json=as_json):
        found = _find(_place(board, url, token), approval)
    print_json(_documents([found])[0]) if as_json else print_approval(out, found, full=full)


@app.command(
    "approve",
    epilog=examples(
        "agentsys approvals approve 3f9a --note 'as agreed'",
        "agentsys approvals approve 3f9a --answer '\"Graz\"'",
    ),
)
def approve(
    approval: IdArgument,
    note: NoteOption = "",
    answer: Annotated[str | None, typer.Option(help="The answer to a question, as JSON.")] = None,
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Allow a call once, as it is shown, answer a question, or vouch for a value."""
    with reported_errors(as_json=as_json):
        place = _place(board, url, token)
        found = _find(place, approval)
        if (found.kind == "question") != (answer is not None):
            needs = "is a question" if answer is None else f"is a {found.kind}"
            raise ConfigurationError(
                f"Approval {found.id} {needs}.", remedy="A question wants --answer, nothing else does."
            )
        said = {} if answer is None else {"answer": json_flag("--answer", answer)}
        _decide(place, found, "approve", as_json=as_json, note=note, **said)


@app.command(
    "modify",
    epilog=examples(
        "agentsys approvals modify 3f9a --set text='see you at nine'",
        'agentsys approvals modify 3f9a --edited \'{"to": "ann@example.org"}\'',
    ),
)
def modify(
    approval: IdArgument,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One argument, as JSON or else as text; may be repeated."),
    ] = None,
    whole: Annotated[str | None, typer.Option("--edited", help="All arguments, or the value, as JSON.")] = None,
    note: NoteOption = "",
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Allow a call once with other arguments, or vouch for another value: they count as your own."""
    with reported_errors(as_json=as_json):
        place = _place(board, url, token)
        found = _find(place, approval)
        if (whole is None) == (not changes):
            raise ConfigurationError("Nothing says what is to change.", remedy="Pass either --set or --edited.")
        edited = json_flag("--edited", whole) if whole is not None else _edited(found.arguments, changes or [])
        _decide(place, found, "modify", as_json=as_json, note=note, edited=edited)


@app.command("reject")
def reject(
    approval: IdArgument,
    note: NoteOption = "",
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse it; the run goes on with a denial."""
    with reported_errors(as_json=as_json):
        place = _place(board, url, token)
        _decide(place, _find(place, approval), "reject", as_json=as_json, note=note)


@app.command("terminate")
def terminate(
    approval: IdArgument,
    note: NoteOption = "",
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the run that asks, wherever it is executed."""
    with reported_errors(as_json=as_json):
        place = _place(board, url, token)
        _decide(place, _find(place, approval), "terminate", as_json=as_json, note=note)


@app.command("escalate")
def escalate(
    approval: IdArgument,
    to: Annotated[
        str, typer.Argument(metavar="PRINCIPAL", help="Who shall decide.", autocompletion=_completed_approver)
    ],
    note: NoteOption = "",
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hand it to another principal who may decide and read it."""
    with reported_errors(as_json=as_json):
        place = _place(board, url, token)
        _decide(place, _find(place, approval), "escalate", as_json=as_json, note=note, to=to)


def _place(board: str | None, url: str | None, token: str | None) -> Place:
    return Place(board, server_beside(board, url), token)


def _list(place: Place, status: Any) -> list[ApprovalView]:
    from agentsys.approvals import list_approvals
    from agentsys.blackboard.labels import OWNER
    from agentsys.views.approvals import approval_view
    from agentsys.views.withholding import withhold

    if place.url is not None:
        with connected(place.url, place.token) as client:
            return client.approvals(status=status)
    with board_to_read(place.board) as opened:
        return [withhold(approval_view(one), OWNER) for one in list_approvals(opened, status)]


def _find(place: Place, approval: str) -> ApprovalView:
    """Return the approval whose identifier begins as given. Raises :class:`UnknownApproval`."""
    from agentsys.approvals import UnknownApproval

    found = [one for one in _list(place, None) if one.id.startswith(approval)]
    if len(found) != 1:
        raise UnknownApproval(f"{len(found) or 'No'} approvals begin with {approval!r}.")
    return found[0]


def _decide(place: Place, asked: ApprovalView, verdict: Verdict, *, as_json: bool, **said: Any) -> None:
    """Say a word about what was just read: should it have changed since, the word is refused."""
    from agentsys.blackboard.labels import OWNER
    from agentsys.deciding import Word, decide
    from agentsys.views.approvals import approval_view

    if place.url is not None:
        with connected(place.url, place.token) as client:
            decided = client.decide(asked.id, verdict, binding=asked.binding, **said)
    else:
        secrets = known_secrets()
        told: dict[str, Any] = {name: secrets.json(value) for name, value in said.items()}
        word = Word(verdict, OWNER, binding=asked.binding, **told)
        with board_to_write(place.board) as opened:
            decided = approval_view(asyncio.run(decide(opened, asked.id, word)))
    if as_json:
        print_json(_documents([decided])[0])
        return
    outcome = f"handed to {decided.assigned}" if verdict == "escalate" else decided.status
    out.print(f"{outcome} {asked.id}: {_summary(decided)}", highlight=False, markup=False)
    if verdict not in ("terminate", "escalate"):
        err.print(f"run {asked.run} goes on where it is executed, or with --resume", style="dim", highlight=False)


def _edited(arguments: Any, changes: list[str]) -> dict[str, Any]:
    from agentsys.views.texts import value_of

    edited = dict(arguments) if isinstance(arguments, dict) else {}
    for change in changes:
        name, given, text = change.partition("=")
        if not given:
            raise ConfigurationError(f"--set {change} has no value.", remedy="Write --set NAME=VALUE.")
        edited[name] = value_of(text)
    return edited


def _documents(found: list[ApprovalView]) -> Any:
    from pydantic import TypeAdapter

    from agentsys.views.approvals import ApprovalView

    return TypeAdapter(list[ApprovalView]).dump_python(found, mode="json")


def _summary(asked: ApprovalView) -> str:
    """Return what was asked, or what a person put in its place, on one line."""
    if asked.withheld:
        return f"{asked.tool or f'a {asked.kind}'} (withheld)"
    texts = {one.name: one.text if one.edited is None else one.edited for one in asked.shown}
    shown = [text if asked.kind != "call" else f"{name}={text}" for name, text in texts.items()]
    return shortened(f"{asked.tool} {' '.join(shown)}".strip().replace("\n", "⏎"))
