"""What the console says when there is nothing to show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentsys.errors import AgentsysError
from agentsys.protocols.http.client import ServerRefused

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
    """Say what ``error`` says; what a server refused says its own code."""
    return BoardTrouble(error.message, error.remedy, code=None if isinstance(error, ServerRefused) else error.code)


def empty_board(url: str) -> BoardTrouble:
    return BoardTrouble(
        f"The board of {url} is empty.", "Ask something here, or from the command line on the same board:", FILL_COMMAND
    )
