"""Which board the console looks at, and what it says when there is none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentsys.blackboard.storage import BoardMissing
from agentsys.errors import AgentsysError

RECORDED: Final = Path(__file__).with_name("recorded") / "demo.db"
"""Board of real questions to the demo lake; ``make record`` writes it anew."""

FILL_COMMAND: Final = 'agentsys ask --lake DIR "question"'


@dataclass(frozen=True, slots=True)
class BoardTrouble:
    """Why nothing can be shown, and the command or the remedy that changes it."""

    title: str
    remedy: str
    command: str | None = None
    code: str | None = None


def trouble_of(error: AgentsysError) -> BoardTrouble:
    """Say what ``error`` says; of a missing board, how to make one."""
    if isinstance(error, BoardMissing):
        return BoardTrouble(error.message, "The first question makes one:", FILL_COMMAND)
    return BoardTrouble(error.message, error.remedy, code=error.code)


def empty_board(path: Path) -> BoardTrouble:
    return BoardTrouble(f"The board at {path} is empty.", "The first question makes a run:", FILL_COMMAND)


def board_identity(path: Path) -> tuple[str, int]:
    """Return what distinguishes the file from another one put in its place later."""
    try:
        return str(path), path.stat().st_ino
    except OSError:
        return str(path), 0
