"""The files that say how much of the machine this process may use: libraries read them when they start.

No wall but bubblewrap keeps a program from asking whether a file exists, and DuckDB 2.0 dereferences null where one of
these does and cannot be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
OWN: Final = Path("/proc/self/cgroup")
_LIMITS: Final = (
    "cpu.max",
    "cpuset.cpus.effective",
    "memory.high",
    "memory.max",
    # Of the first version.
    "cpu.cfs_period_us",
    "cpu.cfs_quota_us",
    "cpuset.cpus",
    "memory.limit_in_bytes",
)


def limit_files(own: Path = OWN, root: Path = ROOT) -> list[Path]:
    """Return the files with the limits of this process's control groups and of those above them, as far as there are.

    ``own`` names the groups (proc_pid_cgroup(5)), ``root`` is where they are mounted.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    folders: set[Path] = set()
    for _hierarchy, controllers, group in (line.split(":", 2) for line in lines):
        # Those of the second version name no controllers; beside the first they are mounted apart.
        mounts = {controllers, *controllers.split(",")} if controllers else {"", "unified"}
        for mount in (root / name for name in mounts):
            folder = mount / group.lstrip("/")
            folders.update(one for one in (folder, *folder.parents) if one.is_relative_to(mount))
    return sorted(file for folder in folders for name in _LIMITS if (file := folder / name).is_file())
