"""One queue for the commits of several processes to a board in a file: wherever they are made, one process leads."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from agentsys.blackboard.commits import Commit, CommitRequest
from agentsys.blackboard.committer import Committer
from agentsys.blackboard.database import Durability
from agentsys.blackboard.led_file import SHRINK, TOGETHER, Listener, Parts
from agentsys.blackboard.open_file import OpenFile
from agentsys.blackboard.places import FilePlace
from agentsys.blackboard.shrinking import FileSize
from agentsys.blackboard.sqlite import open_reader
from agentsys.blackboard.storage import CursorState, Maintenance, Reader


class SharedCommitter:
    """Commits to one board of a file, here or in the process that leads the file."""

    def __init__(self, place: FilePlace, durability: Durability, listener: Listener) -> None:
        """Raises :class:`BoardBusy` and whatever opening the board raises."""
        self.place = place
        self._file = OpenFile.joined(place, durability, listener)
        try:
            storage, opened = self._file.led_board(place.board)
            self.leads_from_start: bool = storage is not None
            """Whether this process led the file when it opened the board."""
            if storage is not None and opened:
                self.epoch: int = storage.epoch
            else:
                self.epoch = self._file.request(place.board, "epoch").result()
            self._file.hold(self.epoch)
            self.reader: Reader = storage if storage is not None else open_reader(place)
        except BaseException:
            self._file.leave(place.board)
            raise

    @property
    def file(self) -> Path:
        """The file as every process knows it."""
        return self.place.path.resolve()

    def submit(self, request: CommitRequest) -> Future[Commit]:
        """Queue ``request``; the future fails with :class:`Conflict` or another :class:`BoardError`."""
        return self._file.request(self.place.board, "commit", request)

    def submit_together(self, parts: Parts) -> "Future[list[Commit]]":
        """Queue one commit over boards of this file, which this process all has open."""
        return self._file.request_of_file([board for board, _ in parts], TOGETHER, parts)

    def shrink(self) -> "Future[tuple[FileSize, FileSize]]":
        """Queue giving the file's free space back; the future holds its sizes before and after."""
        return self._file.request_of_file([self.place.board], SHRINK)

    def create_cursor(self, cursor: CursorState) -> Future[CursorState]:
        """Queue the creation of ``cursor``; the future holds what is stored under its name."""
        return self._file.request(self.place.board, "cursor", cursor)

    def maintain(self, step: Maintenance) -> Future[Any]:
        """Queue a step of upkeep; the future holds what came of it."""
        return self._file.request(self.place.board, "maintain", step)

    def alive(self, epoch: int) -> bool:
        """Whether the process that opened the board as ``epoch`` still has it open."""
        return self._file.alive(epoch)

    def close(self) -> None:
        """Commit what is queued, then let another process lead."""
        self._file.leave(self.place.board, self.epoch)
        self.reader.close()

    @property
    def _committer(self) -> Committer | None:
        """What commits to the board, if this process leads."""
        return self._file.committer(self.place.board)
