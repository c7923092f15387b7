"""Files of boards on the disk: what is there before one goes on, and what must not lie beside them."""

import os
from pathlib import Path
from typing import Final

LOGS: Final = ("-wal", "-shm", "-journal")
"""What SQLite puts behind the name of a file for the files beside it."""


def sync(path: Path) -> None:
    """Wait until what a file, or a folder, holds is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until it is on the disk that a file has this name, or that there is none of it."""
    sync(path.parent)


def drop_logs(path: Path) -> None:
    """Remove what SQLite would take for commits to the file that comes to this name."""
    for suffix in LOGS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)
