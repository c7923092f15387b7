"""Files as they are inside their compression: gzip, bzip2, xz or zstandard around one file."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from agentsys.lake.faults import FileCorruptError, FileTooLargeError
from agentsys.lake.profiles import LakeLimits

EXTENSIONS: Final = frozenset({".gz", ".bz2", ".xz", ".zst"})
_GZIP, _BZIP2, _XZ, _ZSTANDARD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_PIECE: Final = 1 << 20


def plain_name(file: str) -> str:
    """Return a file's name, or path, without the extension of its compression: ``a/b.csv`` for ``a/b.csv.gz``."""
    name = PurePosixPath(file)
    return str(name.with_suffix("")) if name.suffix.lower() in EXTENSIONS else file


def bare_name(file: str) -> str:
    """Return the last part of a path without its extensions: ``b`` for ``a/b.csv.gz``."""
    return PurePosixPath(plain_name(file)).stem


def unpacked(path: Path, limits: LakeLimits, scratch: Path) -> Path:
    """Return ``path``, or where it is compressed, the path of an unpacked copy in the folder ``scratch``.

    Raises FileCorruptError, and FileTooLargeError for one that unpacks to more than ``limits`` allow.
    """
    with path.open("rb") as packed:
        source = _reader(packed, packed.read(len(_XZ)))
        if source is None:
            return path
        packed.seek(0)
        # In a folder of its own: in the other, the file's name may be that of something else.
        copy = scratch / "unpacked" / plain_name(path.name)
        copy.parent.mkdir()
        most = min(limits.file_bytes, max(limits.in_memory_bytes, limits.unpacked_times * path.stat().st_size))
        try:
            with source, copy.open("wb") as target:
                while piece := source.read(_PIECE):
                    target.write(piece)
                    if target.tell() > most:
                        raise FileTooLargeError(f"{path.name} unpacks to more than {most} bytes.")
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise FileCorruptError(f"{path.name} cannot be unpacked: {error}.") from error
    return copy


def _reader(packed: IO[bytes], magic: bytes) -> Any:
    """Return what unpacks an open file, judged by its first bytes; None for one that is not compressed."""
    if magic.startswith(_GZIP):
        return gzip.open(packed)
    if magic.startswith(_BZIP2):
        return bz2.open(packed)
    if magic.startswith(_XZ):
        return lzma.open(packed)
    if magic.startswith(_ZSTANDARD):
        import pyarrow as pa

        return pa.CompressedInputStream(packed, "zstd")
    return None
