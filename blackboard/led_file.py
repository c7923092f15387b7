"""The boards of a file, in the process that leads it: a committer for each, and one writing connection for all."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from agentsys.blackboard.commits import Commit, CommitRequest
from agentsys.blackboard.committer import Committer
from agentsys.blackboard.database import Durability, SqliteFile
from agentsys.blackboard.file_writer import FileWriter
from agentsys.blackboard.joint import Part, commit_on_all
from agentsys.blackboard.shrinking import FileSize, shrink
from agentsys.blackboard.sqlite import SqliteStorage
from agentsys.blackboard.storage import BoardClosed, StorageFailed

TOGETHER: Final = "together"
SHRINK: Final = "shrink"
OF_THE_FILE: Final = (TOGETHER, SHRINK)
"""The methods that are about no single board."""
DURABLE: Final = "durable"
"""Asks the leader to be as durable as ``full``, whatever it was opened with, for as long as it leads."""
Parts: TypeAlias = Sequence[tuple[str, CommitRequest]]


class Listener(Protocol):
    """Who in this process is told of a board's commits."""

    def publish(self, commits: Sequence[Commit]) -> None: ...

    def learn(self, head: int) -> None:
        """Take note of commits that were made otherwise than through the committer."""


@dataclass(slots=True)
class _Served:
    """One board; without a listener this process serves it for others only."""

    storage: SqliteStorage
    committer: Committer
    listener: Listener | None = None


class LedFile:
    """Commits to the boards of a file, each opened when it is first asked for. The caller holds the file's lock."""

    def __init__(self, path: Path, durability: Durability, alive: Callable[[int], bool]) -> None:
        """``alive`` says whether the process that opened any of the boards as an epoch still has it open."""
        self._alive = alive
        self._writer = FileWriter(path, durability)
        self._guard = threading.RLock()
        self._boards: dict[str, _Served] = {}
        self._closed = False
        self._whole = ThreadPoolExecutor(1, thread_name_prefix="agentsys-file")

    def call(self, board: str, method: str, arguments: tuple[Any, ...]) -> "Future[Any]":
        """Return the future of what a request comes to; raises what opening the board raises, :class:`BoardClosed`."""
        if method in OF_THE_FILE:
            return self._submit_to_file(self._commit_together if method == TOGETHER else self._shrink, arguments)
        if method == DURABLE:
            return self._made_durable()
        committer = self._served(board).committer
        if method == "commit":
            return committer.submit(*arguments)
        if method == "maintain":
            return committer.maintain(*arguments)
        if method == "cursor":
            return committer.create_cursor(*arguments)
        if method == "epoch":
            return committer.begin_epoch()
        raise StorageFailed(f"The process that leads knows no request {method!r}.")

    def listen(self, board: str, listener: Listener) -> tuple[SqliteStorage, bool]:
        """Tell ``listener`` of a board's commits; return its storage, and whether it was opened for that."""
        with self._guard:
            opened = board not in self._boards
            served = self._served(board)
            served.listener = listener
            return served.storage, opened

    def committer(self, board: str) -> Committer:
        """Return what commits to one of the boards."""
        return self._served(board).committer

    def release(self, board: str) -> None:
        """Commit what is queued for a board, and serve it again only when somebody asks."""
        served = self._boards.get(board)
        if served is None:
            # It could not be opened, or nobody asked for it since this process took over.
            return
        # Requests that come meanwhile are refused, and sent again.
        served.committer.close()
        with self._guard:
            del self._boards[board]
        served.storage.close()

    def stop(self) -> None:
        """Commit what is queued for all boards, and nothing more."""
        with self._guard:
            self._closed = True
            boards = list(self._boards.values())
        self._whole.shutdown()
        for served in boards:
            served.committer.close()

    def close(self) -> None:
        """Let the file go, after :meth:`stop`."""
        for served in self._boards.values():
            served.storage.close()
        self._writer.close()

    def _served(self, board: str) -> _Served:
        served = self._boards.get(board)
        if served is not None:
            return served
        with self._guard:
            self._check_open()
            if board not in self._boards:
                storage = SqliteStorage(self._writer, board)
                self._boards[board] = _Served(
                    storage, Committer(storage, lambda commits: self._publish(board, commits), self._alive)
                )
            return self._boards[board]

    def _check_open(self) -> None:
        if self._closed:
            raise BoardClosed("The board was closed before this was submitted.")

    def _publish(self, board: str, commits: Sequence[Commit]) -> None:
        listener = self._boards[board].listener
        if listener is not None:
            listener.publish(commits)

    def _made_durable(self) -> "Future[None]":
        """Return what is done already: the requests that follow it rely on it."""
        self._check_open()
        self._writer.be_durable()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _submit_to_file(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> "Future[Any]":
        with self._guard:
            self._check_open()
            return self._whole.submit(work, *arguments)

    def _commit_together(self, parts: Parts) -> list[Commit]:
        """Commit on all boards or none. Each board's committer finds out by itself, at its next commit."""
        with SqliteFile(self._writer.path).translated_errors(), ExitStack() as turn:
            while True:
                boards = [self._served(board) for board, _ in parts]
                turn.enter_context(self._writer.transaction())
                if all(self._boards.get(name) is board for (name, _), board in zip(parts, boards, strict=True)):
                    break
                # One of them was closed while this waited for its turn, and has to be opened before a turn.
                turn.close()
            asked = [
                Part(board.storage.held(), request, self._alive)
                for (_, request), board in zip(parts, boards, strict=True)
            ]
            commits = commit_on_all(asked)
        for board, commit in zip(boards, commits, strict=True):
            if board.listener is not None:
                board.listener.learn(commit.seq)
        return commits

    def _shrink(self) -> tuple[FileSize, FileSize]:
        with self._writer.alone() as driver:
            return shrink(self._writer.path, driver)
