"""Files and folders that are on the disk before one goes on."""

import os
from pathlib import Path


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
