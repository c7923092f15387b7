from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board


@pytest.fixture
def board() -> Iterator[Board]:
    opened = Board.open(":memory:")
    yield opened
    opened.close()


@dataclass
class PeerProcess:
    """A foreign agent in another process, and what it received."""

    url: str
    log: Path

    def received(self, kind: str = "message") -> list[str]:
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line["text"] for line in lines if line["kind"] == kind]


@pytest.fixture
def start_peer(tmp_path: Path) -> Iterator[Callable[..., PeerProcess]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> PeerProcess:
        log = tmp_path / f"peer{len(started)}.jsonl"
        log.touch()
        script = Path(__file__).with_name("peer.py")
        command = [sys.executable, str(script), str(log), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return PeerProcess(f"http://127.0.0.1:{int(process.stdout.readline())}", log)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def peer(start_peer: Callable[..., PeerProcess]) -> PeerProcess:
    return start_peer()
