"""Giving a file's free space back to the disk: SQLite keeps what compactions free, for later commits to fill.

`VACUUM` writes the live pages anew, in one transaction through the write-ahead log. Readers go on at their state,
commits wait, and whatever dies in between leaves the file as it was. A file that shrinks by itself
(``auto_vacuum``) would need pointer pages, for which every commit pays.
"""

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentsys.errors import BoardError

_FOLDERS: Final = ("/var/tmp", "/usr/tmp", "/tmp", ".")  # noqa: S108
"""Where SQLite puts temporary files, unless the environment says otherwise. Source: sqlite.org/tempfiles.html §5."""


class ShrinkRefused(BoardError):
    """The board's file cannot be made smaller now. The boards are as they were."""

    code = "AGS-0263"
    remedy = (
        "Free space on the disk named, or name another folder for temporary files in SQLITE_TMPDIR; or wait until "
        "exports and backups have ended. Then `agentsys board compact --shrink`."
    )


class NoFileToShrink(BoardError):
    """A board that is not in a file was asked to give its file's free space back."""

    code = "AGS-0264"
    remedy = (
        "In PostgreSQL autovacuum lets later commits fill the space; `VACUUM FULL` gives it back, while nobody works."
    )


@dataclass(frozen=True, slots=True)
class FileSize:
    """The bytes that a file of boards takes, its write-ahead log included, and those of them that hold nothing."""

    taken: int
    free: int


def file_size(path: Path, driver: Any) -> FileSize:
    """Return the size of the file that ``driver``, a connection, has open."""
    (free,) = driver.execute("PRAGMA freelist_count").fetchone()
    (page,) = driver.execute("PRAGMA page_size").fetchone()
    log = path.with_name(f"{path.name}-wal")
    return FileSize(path.stat().st_size + (log.stat().st_size if log.exists() else 0), free * page)


def stored_size(path: Path) -> FileSize:
    """Return the size of a file of boards, whoever has it open."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return file_size(path, connection)


def shrink(path: Path, driver: Any) -> tuple[FileSize, FileSize]:
    """Give free space back, over the one writing connection; return the sizes before and after.

    Raises :class:`ShrinkRefused`, also where somebody reads for long: what went would stay in the file and its log.
    """
    # What the log holds would be written twice.
    _fold(path, driver)
    before = file_size(path, driver)
    _check_room(path, before.taken - before.free)
    driver.execute("VACUUM")
    _fold(path, driver)
    return before, file_size(path, driver)


def _fold(path: Path, driver: Any) -> None:
    """Take all that the log holds over into the file, and empty it."""
    busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise ShrinkRefused(f"{path}: somebody goes on reading it as it was before, as exports and backups do.")


def _check_room(path: Path, live: int) -> None:
    """Check that both copies of the live pages fit that are there for a while: a temporary file, and the log."""
    temporary = _temporary_folder()
    needed = {path.parent.absolute(): live}
    if _device(temporary) == _device(path.parent):
        needed[path.parent.absolute()] += live
    else:
        needed[temporary] = live
    for folder, size in needed.items():
        room = shutil.disk_usage(folder).free
        if room < size:
            raise ShrinkRefused(
                f"{path}: shrinking needs {size / 2**20:,.1f} MiB in {folder} for a while, and {room / 2**20:,.1f} are "
                "free there."
            )


def _temporary_folder() -> Path:
    named = [os.environ[name] for name in ("SQLITE_TMPDIR", "TMPDIR") if name in os.environ]
    return next((Path(folder) for folder in (*named, *_FOLDERS) if os.access(folder, os.W_OK | os.X_OK)), Path())


def _device(folder: Path) -> int:
    return folder.stat().st_dev
