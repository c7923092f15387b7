"""Files that a command writes at its end: whether they can be written is known before the work begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from agentsys.errors import ConfigurationError


def check_file(option: str, file: Path | None) -> None:
    """Raise :class:`ConfigurationError` where ``file``, which ``option`` names, could not be written."""
    if file is None:
        return
    with _told(option, file):
        _check_folder(file.parent)
        if file.exists():
            with file.open("ab"):
                pass


def make_folder(option: str, folder: Path) -> None:
    """Make ``folder`` where it is missing. Raises :class:`ConfigurationError` where no file could be written in it."""
    with _told(option, folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_folder(folder)


def _check_folder(folder: Path) -> None:
    # What may be written where, only the system knows: permissions are not all of it.
    with TemporaryFile(dir=folder):
        pass


@contextmanager
def _told(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{option} {path} cannot be written: {error.strerror or error}.",
            remedy="Name a place in a folder that is there and may be written.",
        ) from error
