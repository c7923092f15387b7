"""``agentsys why``: the path of labels to a step, and the rule that decided."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from agentsys.cli.board_option import BoardOption, board_to_read
from agentsys.cli.output import JsonOption, out, print_json, print_table, reported_errors
from agentsys.cli.run_argument import COMPLETIONS, RunOrLatestArgument
from agentsys.cli.run_source import LATEST, named, runs_at
from agentsys.cli.server_option import TokenOption, UrlBesideBoardOption, connected, server_beside
from agentsys.errors import AgentsysError

if TYPE_CHECKING:
    from agentsys.views.run_view import DecisionView
    from agentsys.views.why import DecidedView, StepRow, Why


def _completed_step(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the steps of the run."""
    places = [context.params.get(name) for name in ("board", "url", "token")]
    try:
        rows = _steps(_meant(str(context.params.get("run")), *places), *places)
    except AgentsysError:
        return []
    return [(row.step, f"{row.action} {row.outcome}") for row in rows if row.step.startswith(incomplete)][:COMPLETIONS]


def why(
    run: RunOrLatestArgument,
    step: Annotated[
        str | None,
        typer.Argument(
            metavar="STEP",
            help="The step, or its number; without one, the steps are listed.",
            autocompletion=_completed_step,
        ),
    ] = None,
    board: BoardOption = None,
    url: UrlBesideBoardOption = None,
    token: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show why a step was allowed, denied or asked about: the rule, the labels, and who shaped what on the way."""
    with reported_errors(as_json=as_json):
        url = server_beside(board, url)
        run = _meant(run, board, url, token)
        if step is None:
            rows = _steps(run, board, url, token)
            _print_steps(rows, as_json=as_json)
            return
        found = _why(run, step, board, url, token)
    print_json(_document(found)) if as_json else out.print(_tree(found))


def _meant(run: str, board: str | None, url: str | None, token: str | None) -> str:
    if run != LATEST:
        return run
    with runs_at(board, url, token) as place:
        return named(run, place)


def _steps(run: str, board: str | None, url: str | None, token: str | None) -> tuple[StepRow, ...]:
    from agentsys.blackboard.labels import OWNER
    from agentsys.views.why import list_steps
    from agentsys.views.withholding import withhold

    if url is not None:
        with connected(url, token) as client:
            return client.views.steps(run)
    with board_to_read(board) as opened:
        return withhold(list_steps(opened, run), OWNER)


def _why(run: str, step: str, board: str | None, url: str | None, token: str | None) -> Why:
    from agentsys.blackboard.labels import OWNER
    from agentsys.views.why import load_why
    from agentsys.views.withholding import withhold

    if url is not None:
        with connected(url, token) as client:
            return client.views.why(run, step)
    with board_to_read(board) as opened:
        return withhold(load_why(opened, run, step), OWNER)


def _print_steps(rows: tuple[StepRow, ...], *, as_json: bool) -> None:
    if as_json:
        from pydantic import TypeAdapter

        from agentsys.views.why import StepRow

        print_json(TypeAdapter(tuple[StepRow, ...]).dump_python(rows, mode="json"))
        return
    shown = [[row.step, row.action or f"{row.kind} (withheld)", row.outcome, row.rule, row.label] for row in rows]
    print_table(["step", "what", "decided", "rule", "label"], shown)


def _document(found: Why) -> Any:
    from pydantic import TypeAdapter

    from agentsys.views.why import Why

    return TypeAdapter(Why).dump_python(found, mode="json")


def _tree(found: Why) -> Tree:
    tree = Tree(Text.assemble((f"{found.step} ", "bold"), found.kind, "  ", (str(found.label), "dim")))
    for decided in found.decisions:
        _add_decision(tree, decided)
    if found.approval is not None:
        asked = found.approval
        by = f" by {asked.decided_by}" if asked.decided_by else ""
        note = f": {asked.note}" if asked.note else ""
        tree.add(Text(f"approval {asked.id} {asked.status}{by}{note}"))
    shaped = tree.add(Text("who shaped it", style="bold"))
    through = {fact.influencer: fact.endorser for fact in found.label.endorsements}
    for origin in found.origins:
        endorsed = f" (through {through[origin.influencer]})" if origin.influencer in through else ""
        way = shaped.add(Text(f"{origin.influencer}{endorsed}", style="cyan"))
        if not origin.path:
            way.add(Text("came in before what the log still has", style="dim"))
        for identity in origin.path:
            node = found.node(identity)
            # Each record came from the one above it.
            way = way.add(Text(identity if node is None else f"{node.kind} {node.title}, commit {node.seq}"))
    return tree


def _add_decision(tree: Tree, decided: DecidedView) -> None:
    decision = decided.decision
    style = "yellow" if decision.asked else "green" if decision.allowed else "red"
    head = Text.assemble((_verdict(decision), style), f" {decision.action or 'something withheld'} by rule ")
    head.append(decision.rule, "bold")
    branch = tree.add(head)
    if decision.reason:
        branch.add(Text(decision.reason))
    for part in decided.parts:
        branch.add(Text.assemble((f"{part.name} ", "cyan"), str(part.label)))
    branch.add(Text(f"policy {decision.policy or 'not recorded'}", style="dim"))


def _verdict(decision: DecisionView) -> str:
    return "asked about" if decision.asked else "allowed" if decision.allowed else "denied"
