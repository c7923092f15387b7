"""A slower disk for both sides of a comparison: every fsync of this process and its children takes so much longer.

Where a disk answers in 0.2 ms, the interpreter is what is measured, and not the design; a bar that was set on another
disk is only comparable on one like it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from agentsys.errors import ConfigurationError

DELAY: Final = "BOARD_BENCH_FSYNC_DELAY_MICROSECONDS"

_SOURCE: Final = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int late(int descriptor, const char *name) {{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *delay = getenv("{DELAY}");
    if (delay) usleep((useconds_t)atoi(delay));
    return real(descriptor);
}}

int fsync(int descriptor) {{ return late(descriptor, "fsync"); }}
int fdatasync(int descriptor) {{ return late(descriptor, "fdatasync"); }}
"""


def slowed(milliseconds: str | None) -> float:
    """Start this program again on a disk whose fsyncs take ``milliseconds`` longer; there, return how much longer.

    Without ``milliseconds`` the disk is as it is. Raises :class:`ConfigurationError`.
    """
    if milliseconds is None:
        return 0.0
    if DELAY in os.environ:
        return int(os.environ[DELAY]) / 1000
    try:
        delay = int(float(milliseconds) * 1000)
    except ValueError as error:
        raise ConfigurationError(
            f"fsync={milliseconds!r} is no number of milliseconds.", remedy="Give one, as in --set fsync=3.6."
        ) from error
    library = _compiled(Path(tempfile.mkdtemp(prefix="agentsys-slow-disk-")))
    environment = {**os.environ, DELAY: str(delay), "LD_PRELOAD": str(library)}
    return os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _compiled(folder: Path) -> Path:
    source, library = folder / "slow_disk.c", folder / "slow_disk.so"
    source.write_text(_SOURCE)
    try:
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigurationError(
            f"The slower disk needs the C compiler `cc`: {error}.", remedy="Install one, or leave fsync= out."
        ) from error
    return library
