"""The wheel holds one import name and every module of it imports."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

IMPORT_ALL = """
import importlib, pkgutil, sys, agentsys
assert agentsys.__file__.startswith(sys.argv[1]), agentsys.__file__
names = [m.name for m in pkgutil.walk_packages(agentsys.__path__, "agentsys.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        check=True,
    )
    return next(folder.glob("agentsys_runtime-*.whl"))


def test_the_wheel_has_one_top_level_name_and_no_tests(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"agentsys"}


def test_every_module_imports_from_the_installed_wheel(wheel, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", wheel], check=True
    )
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(tmp_path / "site")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30
