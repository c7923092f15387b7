"""Boards dropped for good, while nobody has them open for writing, from their file or their database."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agentsys.blackboard.database import SqliteFile
from agentsys.blackboard.durable_files import drop_logs, sync_folder
from agentsys.blackboard.file_writer import FileWriter
from agentsys.blackboard.lock import exclusively
from agentsys.blackboard.migrations import drop_tables
from agentsys.blackboard.places import FilePlace
from agentsys.blackboard.postgres.address import is_postgres
from agentsys.blackboard.shrinking import ShrinkRefused, shrink
from agentsys.blackboard.sqlite import boards_in, state_of
from agentsys.blackboard.storage import BoardState


@dataclass(frozen=True, slots=True)
class Dropped:
    """How far a dropped board had come; ``kept_space`` says why its space was not given back to the disk, if so."""

    state: BoardState
    kept_space: str | None = None


def drop_board(location: Path | str) -> Dropped:
    """Drop the board at ``location`` with all that it holds; other boards of the file or the database stay.

    Its file goes with the last board in it, save for the lock file, which others may be waiting for. Copies (exports,
    backups) are not reached. Raises :class:`BoardMissing`, and :class:`BoardBusy` while somebody has the board open for
    writing, in a file any board of it.
    """
    if is_postgres(location):
        from agentsys.blackboard.postgres.dropping import drop_schema

        return Dropped(drop_schema(str(location)))
    place = FilePlace.parse(location)
    # No lock file shall come to be beside a board that is not there.
    state_of(place)
    with exclusively(place.path):
        state = state_of(place)
        if boards_in(place.path) == [place.board]:
            _remove(place.file)
            return Dropped(state)
        return Dropped(state, _drop_from(place))


def _remove(path: Path) -> None:
    # SQLite begins anew over a log without a file, but would take up a file without its log as an older state.
    path.unlink()
    drop_logs(path)
    sync_folder(path)


def _drop_from(place: FilePlace) -> str | None:
    """Drop a board of several in a file; return why the space that it took could not be given back, if so."""
    with SqliteFile(place).translated_errors(), closing(FileWriter(place.path, "full")) as writer:
        with writer.begin(place) as connection:
            drop_tables(connection)
        with writer.alone() as driver:
            try:
                shrink(place.path, driver)
            except ShrinkRefused as refused:
                return str(refused)
    return None
