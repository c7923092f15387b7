"""Tries the containment out: a program attempts what it must not do, and says where it succeeded."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agentsys.containment.limits import MIB, Limits
from agentsys.containment.process import run_contained
from agentsys.containment.walls import Walls, walls_here

_PLANTED: Final = "TRIAL_OF_CONTAINMENT"
_ATTEMPTS: Final = """
import json, os, socket, sys
outside = sys.stdin.read()

def fork():
    if os.fork() == 0:
        os._exit(0)
    os.wait()

attempts = {
    "files": lambda: open(outside).read(),
    "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9)),
    "processes": fork,
    "memory": lambda: bytearray(1 << 30),
    "names": lambda: os.stat(outside),
    "environment": lambda: os.environ["TRIAL_OF_CONTAINMENT"],
}
succeeded = []
for name, attempt in attempts.items():
    try:
        attempt()
        succeeded.append(name)
    except (OSError, MemoryError, KeyError, AttributeError):
        pass
print(json.dumps(succeeded))
"""


@contextmanager
def _planted() -> Iterator[None]:
    os.environ[_PLANTED] = "planted"
    try:
        yield
    finally:
        del os.environ[_PLANTED]


def escapes(walls: Walls | None = None) -> frozenset[str]:
    """Return what a program can do behind ``walls``, by default those of this machine, by the keys of ``MEANINGS``.

    Raises :class:`~agentsys.containment.process.ContainmentFailed` where a wall does not go up.
    """
    with _planted(), tempfile.TemporaryDirectory() as folder:
        outside = Path(folder).resolve() / "outside"
        outside.write_text("planted", encoding="utf-8")
        outcome = run_contained(
            [sys.executable, "-I", "-c", _ATTEMPTS],
            input=str(outside).encode(),
            limits=Limits(memory_bytes=512 * MIB),
            walls=walls or walls_here(),
            require=(),
        )
    return frozenset(json.loads(outcome.output))
