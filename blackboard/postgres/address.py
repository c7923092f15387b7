"""Addresses of boards in PostgreSQL: ``postgresql://user@host/database?board=team&lease=5``."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from agentsys.blackboard.places import MAIN, BadAddress, is_board_name

SCHEMES: Final = ("postgresql://", "postgres://")
SCHEMA_PREFIX: Final = "agentsys_"
OPENING_MARK: Final = "$"
"""Between a board's schema and the number of an opening. No board's name holds it: their channels stay apart."""
LEASE_SECONDS: Final = 5.0
SHORTEST_LEASE: Final = 0.5
LONGEST_LEASE: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Address:
    """``url`` is what the driver gets, ``schema`` holds the board's tables, ``lease`` is in seconds."""

    url: URL
    board: str
    lease: float

    @property
    def schema(self) -> str:
        return f"{SCHEMA_PREFIX}{self.board}"

    @property
    def name(self) -> str:
        """What messages call the board: never the password, nor what else the address holds."""
        host = self.url.host or ""
        return f"postgresql://{host}/{self.url.database}?board={self.board}"

    @staticmethod
    def parse(text: str) -> "Address":
        """Raises :class:`BadAddress`, which does not quote the address: it may hold a password."""
        try:
            url = make_url(text).set(drivername="postgresql+psycopg")
            board, lease = url.query.get("board", MAIN), url.query.get("lease", str(LEASE_SECONDS))
            if not isinstance(board, str) or not isinstance(lease, str) or not is_board_name(board):
                raise ValueError("board")
            seconds = float(lease)
            if not SHORTEST_LEASE <= seconds <= LONGEST_LEASE or not url.database:
                raise ValueError("lease or database")
        except (ArgumentError, ValueError):
            raise BadAddress("The address of the board is not of the expected form.") from None
        return Address(url.difference_update_query(["board", "lease"]), board, seconds)


def is_postgres(location: object) -> bool:
    """Whether ``location`` is such an address, and no path."""
    return isinstance(location, str) and location.startswith(SCHEMES)
