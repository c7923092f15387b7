"""The power is cut at any moment: writes not yet synced are dropped or torn. And disks that fail or are full.

The board runs over the real SQLite in a process whose writes and syncs are recorded. What a disk may hold after a cut
is made up from that record: everything synced, and of each later write all, nothing, or some of its sectors.
"""

import errno
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentsys.benchmarks.crash.faults import find_faults
from agentsys.blackboard.board import Board

CUTS = 40
SECTOR = 512
RECORDER = Path(__file__).with_name("disk_recorder.c")
PROCESS = Path(__file__).with_name("disk_process.py")

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None,
    reason="the recorder is preloaded as Linux does it, and compiled with cc",
)


@dataclass(frozen=True)
class Operation:
    """One recorded call: a write of ``data``, a sync, a truncation to ``offset``, or an unlinking."""

    kind: str
    path: str
    offset: int
    data: bytes


@dataclass
class File:
    """What is certainly on the disk, and what was written since."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

    def sync(self) -> None:
        for operation in self.pending:
            self._apply(operation)
        self.pending.clear()

    def cut(self, choices: random.Random) -> bytes:
        """Return what the file may hold after the power was cut."""
        for operation in self.pending:
            fate = choices.choice(["kept", "dropped", "torn"])
            if operation.kind == "t" and fate != "dropped":
                self._apply(operation)
            elif operation.kind == "w":
                for part in sectors(operation) if fate == "torn" else [operation] if fate == "kept" else []:
                    if fate == "kept" or choices.random() < 0.5:
                        self._apply(part)
        return bytes(self.synced)

    def _apply(self, operation: Operation) -> None:
        end = operation.offset + len(operation.data)
        if operation.kind == "t":
            del self.synced[operation.offset :]
        self.synced.extend(bytes(max(end - len(self.synced), 0)))
        self.synced[operation.offset : end] = operation.data


def sectors(operation: Operation) -> Iterator[Operation]:
    start = 0
    while start < len(operation.data):
        size = SECTOR - (operation.offset + start) % SECTOR
        yield Operation("w", operation.path, operation.offset + start, operation.data[start : start + size])
        start += size


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(RECORDER), "-ldl", "-pthread"], check=True)
    return library


def run(recorder: Path, board: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "LD_PRELOAD": str(recorder),
        "AGENTSYS_DISK_PREFIX": str(board),
        "AGENTSYS_DISK_TRACE": str(board.with_name("trace")),
        "AGENTSYS_DISK_FAIL": str(board.with_name("fail")),
    }
    command = [sys.executable, str(PROCESS), str(board), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def trace_of(board: Path) -> list[Operation]:
    data = board.with_name("trace").read_bytes()
    found, at = [], 0
    while at < len(data):
        kind = chr(data[at])
        name, offset, size = struct.unpack_from("=qqq", data, at + 1)
        at += 25
        path = data[at : at + name].decode()
        found.append(Operation(kind, path, offset, data[at + name : at + name + size]))
        at += name + size
    return found


def after_cut(operations: Sequence[Operation], board: Path, folder: Path, choices: random.Random) -> list[list[object]]:
    """Write into ``folder`` what the disk may hold after ``operations``; return what had been acknowledged."""
    files: dict[str, File] = defaultdict(File)
    acknowledged = bytearray()
    for operation in operations:
        if operation.path.endswith("-acknowledged"):
            acknowledged += operation.data
        elif operation.kind == "u":
            files.pop(operation.path, None)
        elif operation.kind == "s":
            files[operation.path].sync()
        else:
            files[operation.path].pending.append(operation)
    for path, file in files.items():
        (folder / Path(path).name).write_bytes(file.cut(choices))
    return [json.loads(line) for line in acknowledged.splitlines()]


def faults_after_cuts(board: Path, folder: Path, cuts: int) -> list[str]:
    operations, choices = trace_of(board), random.Random(11)
    found = []
    for number in range(cuts):
        place = folder / f"cut-{number}"
        place.mkdir()
        acknowledged = after_cut(operations[: choices.randrange(len(operations))], board, place, choices)
        with Board.open(place / board.name) as opened:
            found += find_faults(opened, acknowledged, [])
            tx = opened.begin("after")
            tx.put("after", "cut", number, type="item")
            assert opened.commit(tx).seq == opened.head == opened.verify()
        shutil.rmtree(place)
    return found


def test_a_power_cut_loses_nothing_acknowledged_and_halves_nothing(recorder: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.db"
    run(recorder, board, "full")
    kinds = [(operation.kind, operation.path.removeprefix(str(board))) for operation in trace_of(board)]
    assert kinds.count(("w", "")) > 20 and ("s", "") in kinds, "no checkpoint fell into the trace"
    assert kinds.count(("s", "-wal")) > 20, "the record lacks the log's syncs"
    assert faults_after_cuts(board, tmp_path, CUTS) == []


def test_a_board_that_does_not_sync_is_caught_losing_commits_and_nothing_else(recorder: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.db"
    run(recorder, board, "normal")
    found = faults_after_cuts(board, tmp_path, 15)
    assert found and all("is lost" in fault for fault in found)


@pytest.mark.parametrize(
    ("kind", "number", "error"),
    [("w", errno.EIO, "StorageFailed"), ("s", errno.EIO, "StorageFailed"), ("w", errno.ENOSPC, "BoardFull")],
    ids=["writes fail", "syncs fail", "the disk is full"],
)
def test_a_disk_in_trouble_is_refused_readable_and_recovered_from(
    recorder: Path, tmp_path: Path, kind: str, number: int, error: str
) -> None:
    board = tmp_path / "board.db"
    assert json.loads(run(recorder, board, "fail", kind, str(number))) == [[error, error], 3, 3, 4, 4]
    with Board.open(board) as opened:
        assert opened.verify() == 4
