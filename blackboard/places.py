"""Where boards in files are: ``team.db``, or one of several in a file, ``team.db?board=notes``, as in PostgreSQL."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentsys.errors import BoardError

MAIN: Final = "main"
"""The board that is meant where none is named."""
MARK: Final = "?board="
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


class BadAddress(BoardError):
    """The address of a board cannot be understood."""

    code = "AGS-0222"
    remedy = (
        "Write FILE?board=NAME or postgresql://user@host/database?board=NAME; NAME has up to 40 small letters, digits "
        "and underscores, and begins with a letter."
    )


def is_board_name(name: str) -> bool:
    """Whether a board can be called ``name``."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class FilePlace:
    """The board ``board`` in the SQLite file ``path``."""

    path: Path
    board: str = MAIN

    @staticmethod
    def parse(location: Path | str) -> "FilePlace":
        """Raises :class:`BadAddress` for a name that no board can have."""
        path, mark, board = str(location).partition(MARK)
        if not mark:
            return FilePlace(Path(location))
        if not path or not is_board_name(board):
            raise BadAddress(f"No board in a file can be called {board!r}.")
        return FilePlace(Path(path), board)

    def absolute(self) -> "FilePlace":
        """Return the place as it is found from whichever folder the process works in later."""
        return replace(self, path=self.path.absolute())

    @property
    def file(self) -> Path:
        """The file itself, where ``path`` is a link to it: to replace or remove the link alone would leave that."""
        return self.path.resolve()

    def __str__(self) -> str:
        """What messages call the board."""
        return str(self.path) if self.board == MAIN else f"{self.path}{MARK}{self.board}"

    @property
    def prefix(self) -> str:
        """What the names of the board's tables begin with: nothing for the board that is meant where none is named."""
        return "" if self.board == MAIN else f"{self.board}$"
