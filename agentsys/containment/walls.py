"""Which walls this machine has, and what they hold. What no wall holds is said, never pretended."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from agentsys.containment import seccomp
from agentsys.containment.confine import landlock_version
from agentsys.containment.control_groups import limit_files
from agentsys.errors import RunError

LEAST_LANDLOCK: Final = 3
"""Before this version a program could cut files short that it may not open."""

MEANINGS: Final = {
    "time": "ends at its deadline",
    "output": "prints no more than its bound",
    "environment": "sees no variable that was not granted",
    "memory": "takes no more memory and computing time than granted, and writes no longer files",
    "files": "reads and writes no file that was not granted",
    "network": "opens no connection",
    "processes": "starts no other process and signals none",
    "names": "cannot ask whether a file exists that was not granted, and how large it is",
}
"""What can be held of a contained program, in words."""

STRONG: Final = frozenset(MEANINGS) - {"names"}
"""What must be held of a program that nobody trusts."""


class ContainmentUnavailable(RunError):
    """This machine cannot hold what must be held of a program."""

    code = "AGS-0642"
    remedy = (
        "Install bubblewrap, or use Linux 6.2 or later on x86-64 or ARM64; `agentsys doctor` says what is held. To run "
        'all the same, say so: `containment = "weak"` under `[tools]`.'
    )


@dataclass(frozen=True, slots=True)
class Walls:
    """The walls to put up: ``bubblewrap`` is the helper's path, ``landlock`` its version in the kernel, 0 for none."""

    bubblewrap: str = ""
    landlock: int = 0
    seccomp: bool = False
    limits: bool = False

    @property
    def held(self) -> frozenset[str]:
        """What is held, by the keys of :data:`MEANINGS`."""
        held = {"time", "output", "environment"}
        held |= {"memory"} if self.limits else set()
        held |= {"files"} if self.bubblewrap or self.landlock >= LEAST_LANDLOCK else set()
        held |= {"network"} if self.bubblewrap or self.seccomp else set()
        held |= {"processes"} if self.seccomp else set()
        held |= {"names"} if self.bubblewrap else set()
        return frozenset(held)

    def require(self, wanted: Collection[str]) -> None:
        """Raise :class:`ContainmentUnavailable` unless all of ``wanted`` is held."""
        missing = [MEANINGS[name] for name in MEANINGS if name in wanted and name not in self.held]
        if missing:
            raise ContainmentUnavailable(f"Nothing here makes sure that a program {', or that it '.join(missing)}.")

    def __str__(self) -> str:
        names = ["bubblewrap" if self.bubblewrap else "", f"landlock {self.landlock}" if self.landlock else ""]
        names += ["seccomp" if self.seccomp else "", "resource limits" if self.limits else ""]
        return ", ".join(name for name in names if name) or "a deadline alone"


@cache
def walls_here() -> Walls:
    """Return the walls that this machine has. Tries the helper once."""
    version = landlock_version()
    return Walls(
        bubblewrap=_bubblewrap(),
        landlock=version if version >= LEAST_LANDLOCK else 0,
        seccomp=seccomp.is_supported(),
        limits=sys.platform.startswith("linux"),
    )


def interpreter_files() -> tuple[list[Path], list[Path]]:
    """Return the files that this Python and its libraries are made of or ask, and the devices that they use."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [Path(sysconfig.get_paths()[name]) for name in names]
    libraries = sysconfig.get_config_var("LIBDIR")
    found += [Path(libraries)] if libraries else []
    found += [Path(sys.executable), Path(sys.executable).resolve(), Path(sys.prefix) / "pyvenv.cfg"]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"]
    found += [*map(Path, system), *limit_files()]
    devices = [Path("/dev") / name for name in ("null", "zero", "random", "urandom")]
    return sorted({path for path in found if path.exists()}), [path for path in devices if path.exists()]


def _bubblewrap() -> str:
    """Return the helper's path if it works: where users may make no namespaces, it is there and does nothing."""
    helper = shutil.which("bwrap")
    if helper is None:
        return ""
    tried = [helper, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--cap-drop", "ALL", sys.executable]
    try:
        done = subprocess.run([*tried, "-I", "-S", "-c", ""], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return helper if done.returncode == 0 else ""
