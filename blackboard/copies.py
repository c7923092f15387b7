"""Copies of boards: exports and imports between databases, backups of a file while it is written, and their restoring.

Every copy is made beside its place, checked from end to end, and takes its place in one step: whoever looks there finds
nothing, what was there before, or the whole.
"""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from errno import ENOSPC
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

from sqlalchemy import Connection, delete

from agentsys.blackboard.database import SqliteFile
from agentsys.blackboard.durable_files import drop_logs, sync, sync_folder
from agentsys.blackboard.file_writer import FileWriter
from agentsys.blackboard.lock import exclusively
from agentsys.blackboard.migrations import create_tables
from agentsys.blackboard.places import MAIN, FilePlace
from agentsys.blackboard.portable import BadExport, ExportHeader, Progress, check_digest, load_export, write_export
from agentsys.blackboard.postgres.address import Address, is_postgres
from agentsys.blackboard.reads import SqlReader
from agentsys.blackboard.schema import BoardModel
from agentsys.blackboard.sqlite import boards_in, open_reader, state_of
from agentsys.blackboard.storage import BoardFull, BoardState, StorageFailed
from agentsys.errors import BoardError

BACKUP_PAGES: Final = 1_024
"""Pages that a backup copies in one step, of 4 KiB."""
_SCHEMA_EXISTS: Final = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
_BEGIN_READING: Final[tuple[str, ...]] = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # Whoever takes what is read may be slow, and nobody waits for what is only read.
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)
REPLACED: Final = ".replaced"
"""What is put behind the name of a board that another took the place of."""


class TargetExists(BoardError):
    """A copy would take the place of something that is there."""

    code = "AGS-0252"
    remedy = "Name another place; a restore puts the old board aside with --replace."


class NoBackup(BoardError):
    """A board in PostgreSQL has no file to copy."""

    code = "AGS-0253"
    remedy = "Use `agentsys board export`, or the database's own means (pg_dump, base backups)."


class OtherHead(BoardError):
    """A copy does not end with the commit that was expected."""

    code = "AGS-0254"
    remedy = "It is a copy of another time or of another board; `agentsys board log --json` shows hashes."


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied: its commits, the hash of the newest, and the size of the file in bytes, if it is one."""

    commits: int
    head_hash: str
    size: int


def export_board(location: Path | str, target: Path, progress: Progress) -> Copied:
    """Write the board at ``location``, as it is now, to a file for :func:`import_board`; writers go on meanwhile.

    An older export of that name is replaced. Raises :class:`TargetExists` for the board's own file.
    """
    _check_apart(location, target)
    with (
        _file_errors(target),
        _one_moment(location) as connection,
        _in_place_of(target) as partial,
        partial.open("w", encoding="utf-8", newline="\n") as file,
    ):
        header = write_export(connection, file, progress)
    return Copied(header.head, header.head_hash, target.stat().st_size)


def export_to_stream(location: Path | str, stream: IO[str], progress: Progress) -> Copied:
    """Write the board at ``location`` to an open file."""
    with _one_moment(location) as connection:
        header = write_export(connection, stream, progress)
    return Copied(header.head, header.head_hash, 0)


def import_board(source: Path, location: Path | str, progress: Progress, *, head_hash: str | None = None) -> Copied:
    """Make the board at ``location``, where none may be, from an export, and verify every commit of it.

    With ``head_hash`` also that it ends with that commit. Raises :class:`BadExport`, :class:`TargetExists`,
    :class:`OtherHead`, ``SchemaTooNew``, and what ``Board.verify`` raises.
    """
    try:
        with source.open(encoding="utf-8", newline="\n") as file:
            header = check_digest(file)
    except (OSError, UnicodeDecodeError) as error:
        raise BadExport(f"{source} cannot be read: {error}.") from error
    if head_hash is not None and header.head_hash != head_hash:
        raise OtherHead(f"{source} ends with commit {header.head}, {header.head_hash}, not with {head_hash}.")
    place = _import_to_postgres if is_postgres(location) else _import_to_file
    place(source, header, location, progress)
    return Copied(header.head, header.head_hash, source.stat().st_size)


def check_export(source: Path, progress: Progress, *, head_hash: str | None = None) -> Copied:
    """Verify an export as an import would, and leave nothing behind."""
    with tempfile.TemporaryDirectory(prefix="agentsys-import-") as folder:
        return import_board(source, Path(folder) / "board.db", progress, head_hash=head_hash)


def back_up(board: Path | str, target: Path, progress: Progress) -> Copied:
    """Copy a board's file while others write it, and verify all boards in it; an older backup of that name is replaced.

    Source: SQLite's online backup API. Under one read transaction the copy is of one moment and never begins anew.
    Raises :class:`NoBackup` for a board in PostgreSQL, :class:`TargetExists` for the board's own file, and what
    ``Board.verify`` raises.
    """
    if is_postgres(board):
        raise NoBackup("The board is in PostgreSQL.")
    place = FilePlace.parse(board)
    open_reader(place).close()
    _check_apart(board, target)
    with _file_errors(target), _in_place_of(target) as partial:
        with SqliteFile(place.path).translated_errors():
            _copy_pages(place.path, partial, progress)
        state = _verified(FilePlace(partial, place.board))
    return Copied(state.head, state.head_hash, target.stat().st_size)


def restore(backup: Path, board: Path | str, progress: Progress, *, replace_existing: bool = False) -> Copied:
    """Put a verified backup in the place of a board's file that nobody has open; the old one stays beside it.

    Raises :class:`TargetExists`, :class:`NoBackup`, :class:`BoardBusy`, and what ``Board.verify`` raises.
    """
    if is_postgres(board):
        raise NoBackup("The board is in PostgreSQL.")
    place = FilePlace.parse(board)
    target = place.file
    with _file_errors(target), _alone(target):
        if target.exists() and not replace_existing:
            raise TargetExists(f"There is a board at {target}.")
        state = _verified(FilePlace(backup, place.board))
        with _beside(target) as partial:
            with SqliteFile(backup).translated_errors():
                _copy_pages(backup, partial, progress)
            _count_openings_of(target, partial)
            _put_aside(target)
            partial.replace(target)
            sync_folder(target)
    return Copied(state.head, state.head_hash, target.stat().st_size)


def _check_apart(board: Path | str, target: Path) -> None:
    """Raise :class:`TargetExists` where a copy would take the place of the board itself, or of what is no file."""
    if not target.exists():
        return
    if not target.is_file():
        raise TargetExists(f"{target} is no file.")
    path = None if is_postgres(board) else FilePlace.parse(board).path
    if path is not None and path.exists() and target.samefile(path):
        raise TargetExists(f"{target} is the board itself.")


def _import_to_file(source: Path, header: ExportHeader, location: Path | str, progress: Progress) -> None:
    place = FilePlace.parse(location)
    target = place.file
    with _file_errors(target), _alone(target):
        there = boards_in(target) if target.exists() else []
        if place.board in there:
            raise TargetExists(f"There is a board at {place}.")
        with _beside(target) as partial:
            with SqliteFile(partial).translated_errors(), closing(FileWriter(partial, "off")) as writer:
                _load(writer.begin(FilePlace(partial)), source, progress)
            _finish_file(partial)
            _check_state(_verified(FilePlace(partial)), header)
            if there or place.board != MAIN:
                _add_board(partial, place)
            else:
                drop_logs(target)
                partial.replace(target)
            sync_folder(target)


def _add_board(source: Path, place: FilePlace) -> None:
    """Put the one board of a file among those of another file, in one transaction. The caller holds that one's lock."""
    with SqliteFile(place).translated_errors(), closing(FileWriter(place.path, "full")) as writer:
        with writer.connect(FilePlace(place.path)) as connection:
            connection.exec_driver_sql("ATTACH ? AS imported", (str(source.absolute()),))
        with writer.begin(place) as connection:
            create_tables(connection)
            for table in BoardModel.metadata.tables.values():
                connection.execute(delete(table))
                columns = ", ".join(f'"{column.name}"' for column in table.columns)
                rows = f"SELECT {columns} FROM imported.{table.name}"  # noqa: S608
                connection.exec_driver_sql(f"INSERT INTO {place.prefix}{table.name} ({columns}) {rows}")


def _import_to_postgres(source: Path, header: ExportHeader, location: Path | str, progress: Progress) -> None:
    from agentsys.blackboard.postgres import importing
    from agentsys.blackboard.postgres.connections import PostgresDatabase, connect

    address = Address.parse(str(location))
    # It has another name until it is verified, so that nobody takes a part of it for the whole.
    beginning = replace(address, board=f"import_{uuid4().hex[:12]}")
    database = PostgresDatabase(beginning)
    with closing(database), database.translated_errors(), closing(connect(address)) as connection:
        if connection.execute(_SCHEMA_EXISTS, (address.schema,)).fetchone():
            raise TargetExists(f"There is a board at {address.name}.")
        importing.remove_left(connection)
        importing.begin(connection, beginning.schema)
        try:
            _load(database.writers.begin(), source, progress)
            reader = SqlReader(database.readers, database)
            reader.check()
            _check_state(reader.state(), header)
            importing.end(connection, beginning.schema, address.schema)
        except BaseException:
            database.close()
            connection.execute(f"DROP SCHEMA IF EXISTS {beginning.schema} CASCADE")
            raise


def _load(beginning: AbstractContextManager[Connection], source: Path, progress: Progress) -> None:
    with beginning as connection, source.open(encoding="utf-8", newline="\n") as file:
        load_export(connection, file, progress)


def _check_state(state: BoardState, header: ExportHeader) -> None:
    if (state.head, state.head_hash) != (header.head, header.head_hash):
        raise BadExport(f"The export's first line announces commit {header.head}, its rows end with {state.head}.")


@contextmanager
def _one_moment(location: Path | str) -> Iterator[Connection]:
    """Give a connection that sees the board as it is now, whatever is committed meanwhile."""
    if is_postgres(location):
        from agentsys.blackboard.postgres.storage import open_for_reading

        reader, beginning = open_for_reading(str(location)), _BEGIN_READING
    else:
        reader, beginning = open_reader(FilePlace.parse(location)), ("BEGIN",)
    with closing(reader), reader.connected() as connection:
        for statement in beginning:
            connection.exec_driver_sql(statement)
        try:
            yield connection
        finally:
            connection.exec_driver_sql("ROLLBACK")


@contextmanager
def _file_errors(target: Path) -> Iterator[None]:
    """Raise what the operating system says of a copy's place as the board's own errors."""
    try:
        yield
    except OSError as error:
        kind = BoardFull if error.errno == ENOSPC else StorageFailed
        raise kind(f"{target} cannot be written: {error}.") from error


@contextmanager
def _in_place_of(target: Path) -> Iterator[Path]:
    """Give the name of a file that takes the place of ``target`` when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target) as partial:
        yield partial
        sync(partial)
        drop_logs(target)
        partial.replace(target)
        sync_folder(target)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give the name of a file in the same folder that nobody else uses; what is left of it in the end is removed."""
    partial = target.with_name(f".{target.name}.{uuid4().hex[:8]}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        drop_logs(partial)


@contextmanager
def _alone(board: Path) -> Iterator[None]:
    """Hold the lock of a board's file that need not be there, nor its folder."""
    board.parent.mkdir(parents=True, exist_ok=True)
    with exclusively(board):
        yield


def _copy_pages(source: Path, target: Path, progress: Progress) -> None:
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as origin,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        # Without a read transaction of its own, a backup would begin anew at every commit of another process.
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM sqlite_master").fetchone()
        origin.backup(copy, pages=BACKUP_PAGES, progress=lambda _, left, total: progress(total - left, total), sleep=0)
    _finish_file(target)


def _finish_file(path: Path) -> None:
    """Make a board one single file, on the disk."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    sync(path)


def _verified(place: FilePlace) -> BoardState:
    """Return the state of a board in a file after checking every board there."""
    with closing(open_reader(place)) as reader:
        reader.check()
        state = reader.state()
    for board in boards_in(place.path):
        if board != place.board:
            with closing(open_reader(FilePlace(place.path, board))) as reader:
                reader.check()
    return state


def _count_openings_of(old: Path, new: Path) -> None:
    """Let the numbers of openings go on after those of the boards that are replaced: none may come twice."""
    try:
        epochs = [state_of(FilePlace(old, board)).epoch for board in boards_in(old)]
    except BoardError:
        # There is none, or it is replaced because it cannot be read.
        return
    with closing(sqlite3.connect(new)) as connection, connection:
        for board in boards_in(new):
            table = f"{FilePlace(new, board).prefix}board"
            connection.execute(f"UPDATE {table} SET epoch = max(epoch, ?)", (max(epochs, default=0),))  # noqa: S608


def _put_aside(board: Path) -> None:
    """Rename a board with its log, which must never lie beside another file of the name."""
    aside = Path(f"{board}{REPLACED}")
    if board.exists():
        drop_logs(aside)
        board.replace(aside)
    with suppress(FileNotFoundError):
        Path(f"{board}-wal").replace(f"{aside}-wal")
    drop_logs(board)
