"""Profiles and typed Parquet files, kept by the hash of a file's content.

A folder per content: ``<hash>-<extension>-v<version>/`` with ``tables.json`` and one Parquet file a table. A manifest
per lake remembers size and times, so that an unchanged file is not even read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import platformdirs
from pydantic import TypeAdapter

from agentsys.lake.faults import CacheUnusableError
from agentsys.lake.profiles import TableProfile

VERSION: Final = 8
"""To be raised with every change of how files are read, so that no older reading is used again."""

SETTLED_NANOSECONDS: Final = 1_000_000_000
"""Since a file's last change, before its time tells whether it has changed again."""

_TABLES: Final = TypeAdapter(tuple[TableProfile, ...])


def default_cache() -> Path:
    """Return the folder in the user's cache that holds profiles of lakes."""
    return Path(platformdirs.user_cache_dir("agentsys")) / "lake"


class ProfileCache:
    """The cache of one lake. Raises CacheUnusableError where its folder cannot be written."""

    def __init__(self, folder: Path, lake: Path) -> None:
        self.folder = folder
        name = hashlib.sha256(str(lake).encode()).hexdigest()[:32]
        self._manifest_path = folder / f"manifest-{name}-v{VERSION}.json"
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._manifest = self._load_manifest()
        self._changed = False

    def digest(self, relative: str, path: Path) -> str:
        """Return the SHA-256 of a file's content, from the manifest where size and times are unchanged."""
        status = path.stat()
        # The second time cannot be set: programs that copy or unpack give files the modification time that they had.
        seen = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self._manifest.get(relative)
        if known and known[:3] == seen:
            return str(known[3])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # What changed just now may change again without a later time.
        if time.time_ns() - status.st_ctime_ns > SETTLED_NANOSECONDS:
            self._manifest[relative] = [*seen, digest]
            self._changed = True
        return digest

    def load(self, digest: str, extension: str) -> tuple[TableProfile, ...] | None:
        """Return the cached tables of a content, None where they are absent or damaged."""
        entry = self._entry(digest, extension)
        try:
            tables = _TABLES.validate_json((entry / "tables.json").read_bytes())
        except (OSError, ValueError):
            return None
        placed = tuple(replace(table, parquet=entry / table.parquet) for table in tables)
        return placed if all(table.parquet.exists() for table in placed) else None

    def store(self, digest: str, extension: str, built: Path, tables: tuple[TableProfile, ...]) -> None:
        """Move the folder ``built``, with its Parquet files, into the cache in one step.

        What another process stored meanwhile stays: it has the same content, and may be in use.
        """
        if self.load(digest, extension) is not None:
            return
        entry = self._entry(digest, extension)
        with _writing(self.folder):
            (built / "tables.json").write_bytes(_TABLES.dump_json(tables))
            shutil.rmtree(entry, ignore_errors=True)
            built.replace(entry)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give a temporary folder beside the cached ones, so that moving out of it is atomic."""
        with _writing(self.folder):
            folder = tempfile.TemporaryDirectory(prefix="building-", dir=self.folder)
        # The body reads the lake's files: its errors are not the cache's.
        with folder as name:
            yield Path(name)

    def save_manifest(self) -> None:
        """Write the manifest in one step, if it has changed."""
        if not self._changed:
            return
        with _writing(self.folder):
            temporary = self._manifest_path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(self._manifest), encoding="utf-8")
            temporary.replace(self._manifest_path)

    def _entry(self, digest: str, extension: str) -> Path:
        return self.folder / f"{digest[:32]}-{extension.lstrip('.') or 'plain'}-v{VERSION}"

    def _load_manifest(self) -> dict[str, list[int | str]]:
        try:
            loaded = json.loads(self._manifest_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheUnusableError(f"The cache folder {folder} cannot be written: {error}.") from error
