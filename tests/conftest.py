"""What tests of several folders share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lake_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where published lakes are opened, by all workers of a run: a slow machine reads one for half a minute."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "lakes"
