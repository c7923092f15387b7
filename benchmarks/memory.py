"""Peak memory of a command and its children, by sampling."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

import psutil

SAMPLE_SECONDS = 0.05


def peak_mib(command: Sequence[str]) -> float:
    """Run a command to its end and return the largest sum of resident memory of it and its children, in MiB.

    Pages that processes share are counted once for each. Raises ``CalledProcessError`` where the command fails.
    """
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(SAMPLE_SECONDS)
        detail = process.stderr.read() if process.stderr else b""
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=detail)
    return peak / 2**20


def _resident(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return 0
    return total
