"""What the tests with peers from npm share: the packages as locked, and our own server in a process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TOKEN = "peers-only"


@cache
def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True, timeout=300)


@pytest.fixture
def here(request: pytest.FixtureRequest) -> Path:
    """The folder of the protocol under test, with its packages and its server."""
    return request.path.parent


@pytest.fixture
def sdk(here: Path) -> Path:
    """Install the peers exactly as locked, and return the folder they are in."""
    _install(here)
    return here


@pytest.fixture
def token() -> str:
    """What the server asks for."""
    return TOKEN


@pytest.fixture
def url(here: Path) -> Iterator[str]:
    command = [sys.executable, str(here / "server.py"), TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()
