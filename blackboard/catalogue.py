"""Which boards a database holds: those of a file, or those of a PostgreSQL database that its user may see."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agentsys.blackboard.board import Board
from agentsys.blackboard.places import FilePlace
from agentsys.blackboard.postgres.address import is_postgres
from agentsys.blackboard.sqlite import boards_in
from agentsys.errors import BoardError


@dataclass(frozen=True, slots=True)
class Listed:
    """A board: what to open it by, its newest commit, and the oldest one that can be read.

    Of one that cannot be read ``error`` says why, and nothing else is known.
    """

    name: str
    location: str
    head: int = 0
    horizon: int = 0
    head_hash: str = ""
    error: BoardError | None = None


def boards_beside(location: Path | str) -> list[Listed]:
    """Return the boards of the database in which ``location`` names one, by name; that one need not exist.

    Raises :class:`BoardMissing` for a file that is not there, :class:`BoardCorrupt` for one that is no board's, and
    :class:`BoardUnreachable`.
    """
    if is_postgres(location):
        from agentsys.blackboard.postgres.catalogue import boards_of

        places = boards_of(str(location))
    else:
        path = FilePlace.parse(location).path
        places = {name: str(FilePlace(path, name)) for name in boards_in(path)}
    return [_listed(name, place) for name, place in sorted(places.items())]


def _listed(name: str, place: str) -> Listed:
    try:
        with closing(Board.open_read_only(place)) as board:
            state = board.state()
    except BoardError as error:
        return Listed(name, place, error=error)
    return Listed(name, place, state.head, state.horizon, state.head_hash)
