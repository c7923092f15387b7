"""What is known of a lake without a model: its files, tables and columns, and the families they form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentsys.blackboard.labels import OWNER, Label, Readers

NUMERIC_TYPES: Final = frozenset({"BIGINT", "DOUBLE"})
SAMPLES: Final = 8

Scalar = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class LakeLimits:
    """Bounds that keep one odd file from taking the machine.

    Sizes in bytes. CSV and Parquet are streamed and only bounded by ``file_bytes``; other formats are held in memory
    and bounded by ``in_memory_bytes`` (of an XLSX, its unpacked size). A compressed file may unpack to
    ``unpacked_times`` its size, or to ``in_memory_bytes``.
    """

    file_bytes: int = 64 * 2**30
    in_memory_bytes: int = 256 * 2**20
    streamed_from_bytes: int = 16 * 2**20
    memory_bytes: int = 384 * 2**20
    unpacked_times: int = 100
    files: int = 100_000


@dataclass(frozen=True, slots=True)
class LakeProgress:
    """Files profiled so far, of how many, and the one just done (relative path)."""

    done: int
    total: int
    current: str


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is not part of the lake: relative path, error code, reason."""

    path: str
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column.

    ``name`` is sql-safe, ``original`` is the header as written, ``leaf`` the sql-safe lowest level of a multi-row
    header. ``unit`` is ``%`` or a currency sign where values carried one; ``$2M`` is stored as 2000000.
    ``minimum`` and ``maximum`` are numbers, or ISO dates or text (at most 80 characters) as strings.
    ``signature`` is a MinHash of the distinct values; ``terms`` the distinct texts (a sample beyond its limit).
    """

    name: str
    original: str
    leaf: str
    type: str
    null_fraction: float
    distinct: int
    minimum: Scalar
    maximum: Scalar
    samples: tuple[str, ...]
    unit: str = ""
    signature: tuple[int, ...] = ()
    terms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableProfile:
    """One table of a file; ``parquet`` holds its typed rows, ``title`` and ``notes`` the text around them."""

    id: str
    file: str
    family: str
    parquet: Path
    rows: int
    columns: tuple[ColumnProfile, ...]
    title: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class FileProfile:
    """One readable file: lake-relative path, size in bytes, hash of its content, its tables and its label.

    ``duplicate_of`` names an earlier file with the same bytes whose tables stand for this one's, or is empty.
    """

    path: str
    size: int
    sha256: str
    tables: tuple[TableProfile, ...]
    label: Label
    duplicate_of: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """Tables of one schema: what one file agent owns. ``name`` is an SQL-safe identifier, unique in the lake."""

    name: str
    description: str
    tables: tuple[TableProfile, ...]
    columns: tuple[ColumnProfile, ...]
    label: Label

    @property
    def files(self) -> list[str]:
        """Lake-relative paths, sorted, each once."""
        return sorted({table.file for table in self.tables})


def file_label(path: str) -> Label:
    """Return the label of what a lake-relative file says: shaped by that file, readable by the owner only."""
    return Label(frozenset({f"file:{path}"}), Readers.of(OWNER))
