"""The board's history as lines: commits and, between them, the transactions that lost. Nothing depends on Streamlit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentsys.blackboard.labels import Label
from agentsys.ui.formatting import Chip, escape_markdown, label_chips, names_text
from agentsys.views.commit_list import CommitRow
from agentsys.views.conflicts import ConflictView

NEW_SECONDS: Final = 10.0
"""How long a commit that came while the page was open is marked as new."""


@dataclass(frozen=True, slots=True)
class Line:
    """One commit, or with ``lost`` a transaction that wrote nothing, told with the commit that recorded it.

    ``what`` is what it wrote, or the entries over which it lost.
    """

    seq: int
    at: float
    writer: str
    run: str | None
    what: tuple[str, ...]
    label: Label | None
    lost: bool = False


def board_lines(commits: Iterable[CommitRow], conflicts: Iterable[ConflictView]) -> list[Line]:
    """Return commits and lost transactions, newest first; a lost one stands below the commit that recorded it.

    Conflicts older than the oldest commit are left out.
    """
    lines = [Line(row.seq, row.at, row.writer, row.run, row.wrote, row.label) for row in commits]
    oldest = min((line.seq for line in lines), default=0)
    lost = [
        Line(one.seq, one.at, one.writer, one.run, _lost_over(one), one.label, lost=True)
        for one in conflicts
        if one.seq >= oldest
    ]
    return sorted(lines + lost, key=lambda line: (-line.seq, line.lost))


def _lost_over(conflict: ConflictView) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{change.topic}/{change.key}" for change in conflict.changes if change.topic))


@dataclass(slots=True)
class Arrivals:
    """When each commit was first seen by one open page; what was there at its first look never counts as new."""

    head: int | None = None
    seen: dict[int, float] = field(default_factory=dict)

    def note(self, head: int, now: float) -> None:
        """Take in that the board stands at ``head`` at the time ``now``, in seconds."""
        if self.head is not None:
            self.seen |= dict.fromkeys(range(self.head + 1, head + 1), now)
        self.head = head
        self.seen = {seq: first for seq, first in self.seen.items() if now - first < NEW_SECONDS}

    def is_new(self, seq: int) -> bool:
        return seq in self.seen


def line_cells(line: Line, at: str, *, new: bool) -> list[str]:
    """Return the cells of a line as Markdown: commit, time, writer, what it wrote or lost over, label."""
    named = escape_markdown(line.writer)
    if line.lost:
        over = escape_markdown(names_text(line.what) or "withheld")
        return ["", escape_markdown(at), f"~~{named}~~", f":red-badge[conflict] ~~{over}~~", _badges(line.label)]
    mark = ":green-badge[new] " if new else ""
    what = escape_markdown(names_text(line.what) or "only a subscription's position moved")
    return [f"{mark}{line.seq:,}", escape_markdown(at), named, what, _badges(line.label)]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already, on one line each."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def badge(chip: Chip) -> str:
    """Return a chip as Markdown."""
    return f":{chip.tone}-badge[{escape_markdown(chip.text)}]"


def _badges(label: Label | None) -> str:
    # Who shaped it and who may read it; how much it carries would make the table too wide.
    return " ".join(badge(chip) for chip in label_chips(label)[:2]) if label else ""
