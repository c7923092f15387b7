"""An approval on the terminal: every argument as it is, who shaped it, and what of it the eye would miss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from agentsys.cli.output import time_text

if TYPE_CHECKING:
    from agentsys.views.approvals import ApprovalView, ArgumentView

SHOWN: Final = 600
"""Characters of an argument that are shown unless all of it is asked for."""


def print_approval(console: Console, asked: ApprovalView, *, full: bool = False) -> None:
    """Print what is asked, and what was said."""
    console.print(Text(headline(asked), style="bold"))
    for argument in asked.shown:
        console.print(Padding(_argument(argument, full=full), (0, 0, 0, 2)))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(asked):
        facts.add_row(Text(name, style="dim"), Text(value))
    console.print(facts)


def headline(asked: ApprovalView) -> str:
    """Return in one line who asks for what."""
    if asked.kind == "call":
        return f"{asked.agent} wants to call {asked.tool}"
    return f"{asked.agent} asks" if asked.kind == "question" else f"{asked.agent} asks you to vouch for a value"


def _argument(argument: ArgumentView, *, full: bool) -> RenderableType:
    rest = 0 if full else max(0, len(argument.text) - SHOWN)
    shown = argument.text[: len(argument.text) - rest]
    # Each line is marked, so that none passes for what the command itself says.
    lines = [Text(f"│ {line}") for line in shown.split("\n")]
    if rest:
        lines.append(Text(f"│ … and {rest:,} characters more: --full shows them", style="dim"))
    if argument.edited is not None:
        lines += [Text("changed to", style="yellow"), *(Text(f"│ {line}") for line in argument.edited.split("\n"))]
    warnings = [Text(f"! {warning}", style="bold red") for warning in argument.warnings]
    return Group(Text(argument.name, style="cyan"), *lines, *warnings, Text(str(argument.label), style="dim"))


def _facts(asked: ApprovalView) -> list[tuple[str, str]]:
    facts = [("approval", asked.id), ("run", asked.run), ("status", asked.status), ("rule", asked.rule)]
    facts += [("because", asked.reason)] * bool(asked.reason)
    facts += [("effect", asked.effect_class)] * bool(asked.effect_class)
    facts += [("policy", asked.policy), ("binding", asked.binding), ("asked", time_text(asked.asked_at))]
    if asked.expires_at is not None:
        facts.append(("expires", time_text(asked.expires_at)))
    facts.append(("approvers", asked.assigned or ", ".join(asked.approvers)))
    facts += [(f"by {one.by}", f"handed to {one.to}{_because(one.note)}") for one in asked.escalations]
    if asked.decided_by is not None:
        facts.append((f"by {asked.decided_by}", f"{asked.status}{_because(asked.note)}"))
    return facts


def _because(note: str) -> str:
    return f": {note}" if note else ""
