"""What a contained program may use and reach. Everything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """``seconds`` of time and ``cpu_seconds`` of computing; ``memory_bytes`` of address space, the interpreter's own
    included (``None``: the program bounds itself); ``file_bytes`` of one file and ``disk_bytes`` of all that it writes;
    ``open_files``; ``output_bytes`` of each of its two streams.
    """

    seconds: float = 20.0
    cpu_seconds: float = 20.0
    memory_bytes: int | None = 1024 * MIB
    file_bytes: int = 64 * MIB
    disk_bytes: int = 256 * MIB
    open_files: int = 128
    output_bytes: int = 4 * MIB


@dataclass(frozen=True, slots=True)
class Grants:
    """Files and folders that may be read and written, and variables of the environment. The interpreter's own files
    and an empty folder to work in, which goes when the program ends, are always granted.
    """

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
