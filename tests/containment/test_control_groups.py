"""Limits of control groups, which contained programs may read: DuckDB ends where it sees but cannot read them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentsys.containment.control_groups import limit_files
from agentsys.containment.process import run_contained


def made(root: Path, *names: str) -> list[Path]:
    files = [root / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("max\n")
    return files


@pytest.mark.parametrize(
    ("own", "wanted", "others"),
    [
        pytest.param(
            "0::/user.slice/app.scope\n",
            ["cpu.max", "user.slice/app.scope/cpu.max", "user.slice/app.scope/memory.max", "user.slice/memory.max"],
            ["system.slice/cpu.max", "user.slice/app.scope/cgroup.procs"],
            id="second version",
        ),
        pytest.param(
            "4:memory:/box\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n",
            ["cpu/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_quota_us", "memory/box/memory.limit_in_bytes"],
            ["memory/other/memory.limit_in_bytes", "cpu/box/cpu.cfs_quota_us", "memory/box/memory.usage_in_bytes"],
            id="first version",
        ),
        pytest.param("4:memory:/\n0::/here\n", ["unified/here/memory.max"], ["unified/there/memory.max"], id="both"),
    ],
)
def test_only_the_limits_of_the_own_groups_are_named(
    tmp_path: Path, own: str, wanted: list[str], others: list[str]
) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "root"
    groups.write_text(own)
    expected = made(root, *wanted)
    made(root, *others)
    assert limit_files(groups, root) == sorted(expected)


def test_a_system_without_control_groups_has_none(tmp_path: Path) -> None:
    assert limit_files(tmp_path / "missing", tmp_path) == []


def test_a_contained_program_reads_the_limits_it_sees() -> None:
    files = [str(file) for file in limit_files()]
    code = f"for name in {files}:\n    open(name).read()\nprint('read')"
    done = run_contained([sys.executable, "-I", "-c", code], require=())
    assert (done.status, done.output) == (0, b"read\n"), done.errors


def test_a_contained_program_opens_a_database() -> None:
    # Under -I, DuckDB comes from the packages that are always readable.
    code = "import duckdb; print(duckdb.connect().execute('SELECT 42').fetchone()[0])"
    done = run_contained([sys.executable, "-I", "-c", code], require=())
    assert (done.status, done.output) == (0, b"42\n"), done.errors
