"""``agentsys approvals``: what waits for a person's word, on the board of this machine or on a server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.composition import settings_with
from agentsys.cli.output import JsonOption, err, json_flag, out, print_json, print_table, reported_errors, time_text
from agentsys.cli.runs import TokenOption, connected
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.approvals import Verdict
    from agentsys.protocols.http.approval_schemas import ApprovalDocument

app = typer.Typer(help="See and decide what waits for a person's word.", no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="APPROVAL", help="The approval; the first characters do.")]
BoardOption = Annotated[str | None, typer.Option("--board", help="The board: a file, or postgresql://…")]
UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="AGENTSYS_URL", help="A server to ask instead of this machine's board.")
]
NoteOption = Annotated[str, typer.Option("--note", help="Why; it is kept with the decision.")]


@app.command("list")
def list_(
    status: Annotated[str, typer.Option(help="pending, approved, refused, void, or all.")] = "pending",
    board: BoardOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what waits for a person, the oldest first."""
    if status not in ("pending", "approved", "refused", "void", "all"):
        raise typer.BadParameter(f"{status!r} is no status.", param_hint="--status")
    with reported_errors(as_json=as_json):
        found = _list(None if status == "all" else status, board, url, token)
    if as_json:
        print_json([one.model_dump() for one in found])
        return
    rows = [[one.id, one.run, one.agent, one.status, time_text(one.asked_at), _summary(one)] for one in found]
    print_table(["approval", "run", "agent", "status", "asked", "what"], rows)


@app.command("show")
def show(approval: IdArgument, board: BoardOption = None, url: UrlOption = None, token: TokenOption = None) -> None:
    """Print one approval as JSON: what is asked, its label, and what was decided."""
    with reported_errors():
        print_json(_find(approval, board, url, token).model_dump())


@app.command("approve")
def approve(
    approval: IdArgument,
    note: NoteOption = "",
    answer: Annotated[str | None, typer.Option(help="The answer to a question, as JSON.")] = None,
    board: BoardOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Allow a call once, as it is shown, or answer a question."""
    with reported_errors():
        found = _find(approval, board, url, token)
        if (found.kind == "question") != (answer is not None):
            needs = "is a question" if answer is None else "is a tool call"
            raise ConfigurationError(f"Approval {found.id} {needs}.", remedy="A question wants --answer, a call none.")
        _decide(found, "approve", note, None if answer is None else json_flag("--answer", answer), board, url, token)


@app.command("refuse")
def refuse(
    approval: IdArgument,
    note: NoteOption = "",
    board: BoardOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Refuse a call, or to answer a question."""
    with reported_errors():
        _decide(_find(approval, board, url, token), "refuse", note, None, board, url, token)


def _list(status: Any, board: str | None, url: str | None, token: str | None) -> list[ApprovalDocument]:
    from agentsys.approvals import list_approvals
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.labels import OWNER
    from agentsys.protocols.http.approval_schemas import ApprovalDocument

    if url is not None:
        with connected(url, token) as client:
            return client.approvals(status=status)
    with Board.open_read_only(settings_with(board_path=board).board.location) as opened:
        return [ApprovalDocument.of(one, OWNER) for one in list_approvals(opened, status)]


def _find(approval: str, board: str | None, url: str | None, token: str | None) -> ApprovalDocument:
    """Return the approval whose identifier begins as given. Raises :class:`UnknownApproval`."""
    from agentsys.approvals import UnknownApproval

    found = [one for one in _list(None, board, url, token) if one.id.startswith(approval)]
    if len(found) != 1:
        raise UnknownApproval(f"{len(found) or 'No'} approvals begin with {approval!r}.")
    return found[0]


def _decide(
    approval: ApprovalDocument,
    verdict: Verdict,
    note: str,
    answer: Any,
    board: str | None,
    url: str | None,
    token: str | None,
) -> None:
    from agentsys.approvals import decide
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.labels import OWNER

    if url is not None:
        with connected(url, token) as client:
            client.decide(approval.id, verdict, note=note, answer=answer)
    else:
        with Board.open(settings_with(board_path=board).board.location) as opened:
            asyncio.run(decide(opened, approval.id, verdict, by=OWNER, note=note, answer=answer))
    out.print(f"{verdict}d {approval.id}: {_summary(approval)}", highlight=False, markup=False)
    err.print(f"run {approval.run} goes on where it is executed, or with --resume", style="dim", highlight=False)


def _summary(approval: ApprovalDocument) -> str:
    if approval.withheld:
        return f"{approval.subject or 'a question'} (withheld)"
    if approval.kind == "question" and isinstance(approval.arguments, str):
        return approval.arguments
    return f"{approval.subject} {json.dumps(approval.arguments, ensure_ascii=False)}"
