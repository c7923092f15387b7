"""What the tests with peers from npm share: the packages as locked, and our own server in a process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOKEN = "peers-only"


@pytest.fixture(scope="session")
def sdk() -> Path:
    """Install the peers exactly as locked, and return the folder they are in."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, capture_output=True, timeout=300)
    return HERE


@pytest.fixture
def url() -> Iterator[str]:
    command = [sys.executable, str(HERE / "server.py"), TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()
