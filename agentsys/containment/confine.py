"""Takes its own rights away, then becomes the contained program: ``python -I -S confine.py SPECIFICATION PROGRAM …``.

It runs in the new process, before the program, so that no code runs between a fork and an exec in the caller, which
may have threads. It imports little of the standard library, and nothing else: half of what walls cost is its start.
The specification is a file, removed once it is read, with a marshalled dictionary: ``limits`` by the name of the
kernel's resource, ``landlock`` (``readable``, ``writable``, ``network``) or ``None``, ``seccomp`` (a filter) or
``None``, ``environment``.
Where a wall cannot be put up, the program does not start.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import stat
import struct
import sys

TYPE_CHECKING = False  # as in typing, which would take a fifth of the start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

REFUSED: Final = 71
"""Exit status where a wall could not be put up; the reason is on standard error."""

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_TRUNCATE: Final = 1 << 14
_IOCTL_DEVICE: Final = 1 << 15
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_READING: Final = _EXECUTE | _READ_FILE | _READ_DIR
# What each version of Landlock can restrict, from the third on: before, files could be cut short.
_ALL_BY_VERSION: Final = {3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP: Final = 0b11
_SCOPES: Final = 0b11


def main() -> None:
    """Entry point."""
    with open(sys.argv[1], "rb") as file:  # noqa: PTH123 - pathlib takes long to import
        specification = marshal.load(file)  # noqa: S302 - from the caller, who runs this program
    os.unlink(sys.argv[1])  # noqa: PTH108
    program = sys.argv[2:]
    try:
        _bound(specification["limits"])
        _checked("no_new_privs", _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        if specification["landlock"] is not None:
            restrict_files(**specification["landlock"])
        if specification["seccomp"] is not None:
            _filter_calls(specification["seccomp"])
        os.execve(program[0], program, specification["environment"])  # noqa: S606 - the point of this module
    except (OSError, ValueError) as error:
        sys.stderr.write(f"not contained: {error}\n")
        sys.exit(REFUSED)


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has, 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(int(_libc().syscall(_CREATE_RULESET, None, 0, 1)), 0)


def restrict_files(readable: Sequence[str], writable: Sequence[str], *, network: bool) -> None:
    """Refuse this process, for good, all files but those beneath the paths given. Raises ``OSError``.

    From version 4 on also TCP, unless ``network``; from 6 on also signals and abstract sockets to other processes.
    """
    version = landlock_version()
    handled = max((all_ for least, all_ in _ALL_BY_VERSION.items() if least <= version), default=0)
    if not handled:
        raise OSError(f"Landlock has version {version}")
    attributes = struct.pack(
        "QQQ", handled, _TCP if version >= 4 and not network else 0, _SCOPES if version >= 6 else 0
    )
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _checked("landlock", _libc().syscall(_CREATE_RULESET, attributes[:size], size, 0))
    for path in readable:
        _allow(ruleset, path, _READING)
    for path in writable:
        _allow(ruleset, path, handled & ~_EXECUTE)
    _checked("landlock", _libc().syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, descriptor)
        _checked(path, _libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _bound(limits: dict[str, int]) -> None:
    import resource  # absent where there are no such limits, and this module is imported there too

    for name, most in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            _, hard = resource.getrlimit(kind)
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            # A second of grace for computing time, so that the signal says which limit it was.
            resource.setrlimit(kind, (most, most + 1 if name == "RLIMIT_CPU" and most != hard else most))


def _filter_calls(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    filter_ = Program(len(program) // 8, program)
    _checked("seccomp", _libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main()
