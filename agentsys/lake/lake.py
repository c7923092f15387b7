"""Opens a folder of data files as a lake: every file profiled or named as skipped, tables grouped into families."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from agentsys.lake.families import group_tables
from agentsys.lake.faults import (
    CacheUnusableError,
    FileCorruptError,
    FileFaultError,
    FileOutsideLakeError,
    FileTooLargeError,
    FileUnreadableError,
    LakeEmptyError,
    LakeNotFoundError,
)
from agentsys.lake.profiles import (
    Family,
    FileProfile,
    LakeLimits,
    LakeProgress,
    SkippedFile,
    TableProfile,
    file_label,
)
from agentsys.lake.reading.cache import ProfileCache, default_cache
from agentsys.lake.reading.compression import plain_name

if TYPE_CHECKING:
    from agentsys.lake.index import LakeIndex
    from agentsys.lake.reading.materialise import Materialiser


def check_folder(path: Path | str) -> None:
    """Raise :class:`LakeNotFoundError` unless a lake's files could be there."""
    if not Path(path).is_dir():
        raise LakeNotFoundError(f"{path} is not a folder.")


@dataclass(frozen=True)
class Lake:
    """A profiled lake. ``files`` and ``families`` are sorted by path and name."""

    path: Path
    files: list[FileProfile]
    families: list[Family]
    skipped: list[SkippedFile]

    @staticmethod
    def open(
        path: Path | str,
        *,
        cache: Path | None = None,
        progress: Callable[[LakeProgress], None] | None = None,
        limits: LakeLimits | None = None,
    ) -> Lake:
        """Profile every file below ``path``; what is in the cache is not read again.

        Raises LakeNotFoundError, LakeEmptyError or CacheUnusableError; a fault of one file only skips that file.
        """
        root = Path(path).resolve()
        check_folder(path)
        store = ProfileCache((cache or default_cache()).resolve(), root)
        return _Opening(root, store, limits or LakeLimits(), progress).run()

    @cached_property
    def index(self) -> LakeIndex:
        """The model-free ranking of families for a question, built at first use."""
        from agentsys.lake.index import LakeIndex

        return LakeIndex(self.families)

    def family(self, name: str) -> Family:
        """Return the family of that name; raises KeyError."""
        return {family.name: family for family in self.families}[name]


class _Opening:
    """The one pass over a lake's files."""

    def __init__(
        self,
        root: Path,
        store: ProfileCache,
        limits: LakeLimits,
        progress: Callable[[LakeProgress], None] | None,
    ) -> None:
        self._root, self._store, self._limits, self._progress = root, store, limits, progress
        self._files: list[FileProfile] = []
        self._skipped: list[SkippedFile] = []
        self._materialiser: Materialiser | None = None

    def run(self) -> Lake:
        paths = sorted(self._walk())
        try:
            for done, relative in enumerate(paths, 1):
                self._add(relative)
                if self._progress:
                    self._progress(LakeProgress(done, len(paths), relative))
        finally:
            self._close_materialiser()
        self._store.save_manifest()
        if not self._files:
            reasons = "; ".join(f"{item.path}: {item.code} {item.reason}" for item in self._skipped[:5])
            raise LakeEmptyError(f"{self._root} holds no readable table. {reasons}".rstrip())
        files, families = group_tables(self._files)
        return Lake(self._root, files, families, sorted(self._skipped, key=lambda item: item.path))

    def _close_materialiser(self) -> None:
        if self._materialiser is not None:
            self._materialiser.close()
            self._materialiser = None

    def _walk(self) -> Iterator[str]:
        found = 0
        for folder, folders, names in os.walk(self._root, onerror=self._folder_fault):
            here = Path(folder)
            linked = [name for name in folders if (here / name).is_symlink()]
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".") and name not in linked and here / name != self._store.folder
            ]
            for name in sorted([*linked, *names]):
                if name.startswith("."):
                    continue
                relative = (here / name).relative_to(self._root).as_posix()
                shown = _shown(relative)
                found += 1
                if found > self._limits.files:
                    self._skip(shown, FileTooLargeError(f"The lake has more than {self._limits.files} files."))
                    return
                if shown != relative:
                    self._skip(shown, FileUnreadableError(f"The name of {shown} is no UTF-8: give it another."))
                elif not (here / name).resolve().is_relative_to(self._root):
                    self._skip(relative, FileOutsideLakeError(f"{relative} is a link to outside the lake."))
                elif name not in linked:
                    yield relative

    def _folder_fault(self, error: OSError) -> None:
        relative = _shown(Path(error.filename).relative_to(self._root).as_posix())
        self._skip(relative, FileUnreadableError(f"The folder cannot be listed: {error.strerror}."))

    def _skip(self, relative: str, fault: FileFaultError) -> None:
        self._skipped.append(SkippedFile(relative, fault.code, fault.message))

    def _add(self, relative: str) -> None:
        path = self._root / relative
        try:
            if not path.is_file():
                raise FileUnreadableError(f"{relative} is neither a file nor a folder.")
            if path.stat().st_size > self._limits.file_bytes:
                raise FileTooLargeError(f"{relative} has {path.stat().st_size} bytes, above {self._limits.file_bytes}.")
            digest = self._store.digest(relative, path)
            extension = PurePosixPath(plain_name(relative)).suffix.lower()
            tables = self._store.load(digest, extension) or self._build(relative, digest, extension)
            placed = tuple(_placed(table, relative, number) for number, table in enumerate(tables, 1))
            self._files.append(FileProfile(relative, path.stat().st_size, digest, placed, file_label(relative)))
        except FileFaultError as fault:
            self._skip(relative, fault)
        except CacheUnusableError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CacheUnusableError(f"{relative} cannot be prepared in {self._store.folder}: {error}.") from error
            self._skip(relative, FileUnreadableError(f"{relative} cannot be read: {error.strerror or error}."))

    def _build(self, relative: str, digest: str, extension: str) -> tuple[TableProfile, ...]:
        path = self._root / relative
        with self._store.scratch() as scratch:
            built = Path(mkdtemp(prefix="entry-", dir=scratch))
            tables = self._read(path, built, scratch)
            if self._store.digest(relative, path) != digest:
                raise FileUnreadableError(f"{relative} changed while it was read.")
            self._store.store(digest, extension, built, tables)
        return self._store.load(digest, extension) or ()

    def _read(self, path: Path, built: Path, scratch: Path) -> tuple[TableProfile, ...]:
        from agentsys.lake.reading.materialise import Materialiser
        from agentsys.lake.reading.readers import read_tables

        if self._materialiser is None:
            self._materialiser = Materialiser(self._limits, self._store.folder / f"spill-{os.getpid()}")
        try:
            sources = read_tables(path, self._limits, scratch)
            return tuple(
                self._materialiser.table(source, built / f"table_{number}.parquet")
                for number, source in enumerate(sources)
            )
        except (FileFaultError, CacheUnusableError, OSError):
            raise
        except Exception as error:  # whatever a parser throws at broken content must not stop the lake
            self._close_materialiser()  # after some errors DuckDB refuses all further work
            cause = (str(error).splitlines() or [""])[0][:200].replace(str(self._root), "").replace(str(built), "")
            raise FileCorruptError(f"{path.name} cannot be parsed: {type(error).__name__}: {cause}") from error


def _shown(path: str) -> str:
    """Return a path as text that can be stored and printed: bytes of it that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def _placed(table: TableProfile, relative: str, number: int) -> TableProfile:
    return replace(table, id=f"{relative}#{number}", file=relative)
