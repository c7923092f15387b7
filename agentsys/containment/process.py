"""Runs a program contained: starts it behind the walls, feeds it, takes its output, and ends it at its limits."""

from __future__ import annotations

import contextlib
import marshal
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

from agentsys.containment import confine, seccomp
from agentsys.containment.limits import Grants, Limits
from agentsys.containment.walls import STRONG, Walls, interpreter_files, walls_here
from agentsys.errors import RunError

POLL_SECONDS: Final = 0.05
"""How often what a program writes is measured."""
DRAIN_SECONDS: Final = 5.0
"""How long the rest of a program's output is waited for once it has ended."""
_ENTRY_BYTES: Final = 4096
_LAUNCHER: Final = Path(confine.__file__)


class ContainmentFailed(RunError):
    """A wall that this machine has could not be put up, so the program was not started."""

    code = "AGS-0643"
    remedy = "Run `agentsys doctor`, which tries the containment out and says what is missing."


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a contained program ended: by itself, or ``stopped`` at a limit. ``status`` is its exit status, that of a
    signal negative; ``seconds`` it ran.
    """

    output: bytes
    errors: bytes
    status: int
    stopped: Literal["", "time", "output", "disk", "computing"]
    seconds: float


def run_contained(
    program: Sequence[str],
    *,
    input: bytes = b"",
    limits: Limits | None = None,
    grants: Grants | None = None,
    walls: Walls | None = None,
    require: Collection[str] = STRONG,
) -> Outcome:
    """Run a program of this Python's (``[sys.executable, …]``) in an empty folder; blocks until it has ended.

    ``walls`` are by default all that this machine has. Raises :class:`ContainmentUnavailable` where they do not hold
    what is in ``require``, and :class:`ContainmentFailed`.
    """
    limits, grants, walls = limits or Limits(), grants or Grants(), walls or walls_here()
    walls.require(set(require) - ({"network"} if grants.network else set()))
    # Resolved: a rule for a symbolic link would be one for where it leads.
    folder = Path(tempfile.mkdtemp(prefix="agentsys-contained-")).resolve()
    try:
        return _Running(_command(program, limits, grants, walls, folder), folder, limits, grants, walls).end(input)
    finally:
        _remove(folder)


class _Running:
    """A contained program while it runs."""

    def __init__(self, command: list[str], folder: Path, limits: Limits, grants: Grants, walls: Walls) -> None:
        self._folder, self._limits, self._walls = folder, limits, walls
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=_environment(grants, folder),
            close_fds=True,
            start_new_session=True,
        )
        pipes = (self._process.stdout, self._process.stderr)
        self._streams = [_Stream(pipe, limits.output_bytes, self._ended.set) for pipe in pipes]

    def end(self, input: bytes) -> Outcome:
        """Feed the program, wait for its end or bring it about, and return how it ended."""
        threading.Thread(target=self._feed, args=(input,), daemon=True).start()
        awaiting = threading.Thread(target=self._await, daemon=True)
        awaiting.start()
        stopped: Any = self._watch()
        self._kill()
        awaiting.join()
        status = self._process.wait()
        output, errors = (stream.taken() for stream in self._streams)
        refused = status == confine.REFUSED and errors.startswith(b"not contained: ")
        if refused or (self._walls.bubblewrap and status == 1 and errors.startswith(b"bwrap: ")):
            raise ContainmentFailed(f"The program was not started: {errors.decode(errors='replace').strip()}.")
        if not stopped and any(stream.full for stream in self._streams):
            # It ended before all was read.
            stopped = "output"
        if self._walls.bubblewrap and status > 128:
            status = 128 - status
        if not stopped and hasattr(signal, "SIGXCPU") and status == -signal.SIGXCPU:
            stopped = "computing"
        return Outcome(output, errors, status, stopped, time.monotonic() - self._started)

    def _watch(self) -> str:
        deadline = self._started + self._limits.seconds
        while True:
            ended = self._ended.wait(max(min(POLL_SECONDS, deadline - time.monotonic()), 0.0))
            if any(stream.full for stream in self._streams):
                return "output"
            if ended:
                return ""
            if time.monotonic() >= deadline:
                return "time"
            if _size(self._folder) > self._limits.disk_bytes:
                return "disk"

    def _feed(self, input: bytes) -> None:
        assert self._process.stdin is not None
        # A program that ends without reading has said all the same.
        with contextlib.suppress(OSError), self._process.stdin as pipe:
            pipe.write(input)

    def _await(self) -> None:
        """Wait for the program's end without reaping it: until then its number is no other process's."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        self._ended.set()

    def _kill(self) -> None:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()


class _Stream:
    """What a program prints, up to a bound."""

    def __init__(self, pipe: IO[bytes] | None, most: int, on_full: Any) -> None:
        assert pipe is not None
        self.full = False
        self._pipe, self._most, self._on_full = pipe, most, on_full
        self._pieces: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def taken(self) -> bytes:
        """Return what was printed, once the program has ended."""
        # Where other processes are not held, one may outlive it and keep the pipe open.
        self._thread.join(DRAIN_SECONDS)
        return b"".join(self._pieces)[: self._most]

    def _read(self) -> None:
        size = 0
        with self._pipe:
            # Raw: a full buffer is not waited for.
            while piece := os.read(self._pipe.fileno(), 1 << 16):
                size += len(piece)
                if size > self._most:
                    self.full = True
                    self._on_full()
                if size - len(piece) <= self._most:
                    self._pieces.append(piece)


def _command(program: Sequence[str], limits: Limits, grants: Grants, walls: Walls, folder: Path) -> list[str]:
    """Return the command that puts the walls up, the outermost first, and then runs ``program``."""
    if not walls.limits:
        return list(program)
    files, devices = interpreter_files()
    readable = [str(path) for path in [*files, *grants.readable]]
    writable = [str(path) for path in [*grants.writable, folder]]
    beneath = {
        "readable": [*readable, *map(str, devices), str(_LAUNCHER), "/proc/self"],
        "writable": [*writable, "/dev/null"],
        "network": grants.network,
    }
    specification = {
        "limits": _resources(limits),
        "landlock": beneath if walls.landlock else None,
        "seccomp": seccomp.syscall_filter(network=grants.network) if walls.seccomp else None,
        "environment": _environment(grants, folder),
    }
    outer = [*_namespaces(walls.bubblewrap, readable, writable, devices, folder, grants)] if walls.bubblewrap else []
    # In a file, which the launcher removes: the kernel bounds the length of an argument, and many files may be granted.
    written = folder / "specification"
    written.write_bytes(marshal.dumps(specification))
    return [*outer, sys.executable, "-I", "-S", str(_LAUNCHER), str(written), *program]


def _namespaces(
    helper: str, readable: list[str], writable: list[str], devices: list[Path], folder: Path, grants: Grants
) -> Iterator[str]:
    yield from (helper, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--proc", "/proc")
    if grants.network:
        yield "--share-net"
    for path in [*readable, str(_LAUNCHER)]:
        yield from ("--ro-bind-try", path, path)
    for device in map(str, devices):
        yield from ("--dev-bind", device, device)
    for path in writable:
        yield from ("--bind-try", path, path)
    # Its root is a file system in memory, which no limit counts.
    yield from ("--remount-ro", "/", "--chdir", str(folder), "--")


def _resources(limits: Limits) -> dict[str, int]:
    found = {
        "RLIMIT_CPU": math.ceil(limits.cpu_seconds),
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 0,
    }
    return found if limits.memory_bytes is None else found | {"RLIMIT_AS": limits.memory_bytes}


def _environment(grants: Grants, folder: Path) -> dict[str, str]:
    # Threads of libraries reserve address space for each core; HOME and TMPDIR are where a program may write.
    fixed = {"HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", "PATH": os.defpath}
    return {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1", **fixed, **grants.environment}


def _remove(folder: Path) -> None:
    for where, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(where) / name
            if not path.is_symlink():
                # A folder that nobody may list cannot be emptied.
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> float:
    """Return the bytes that a folder's files take, links not followed; an entry takes some, however small.

    What cannot be looked into counts as without bound.
    """
    hidden: list[OSError] = []
    total = 0
    for where, folders, names in os.walk(folder, onerror=hidden.append):
        for name in [*folders, *names]:
            with contextlib.suppress(OSError):
                total += max(os.lstat(Path(where) / name).st_size, _ENTRY_BYTES)
    return math.inf if any(isinstance(error, PermissionError) for error in hidden) else total
