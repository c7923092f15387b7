"""The board: the one object through which a team's shared state is read, changed and watched."""

import copy
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from agentsys.blackboard.clearance import ClearedView
from agentsys.blackboard.commits import Commit, Isolation, nothing_committed
from agentsys.blackboard.committer import Committer
from agentsys.blackboard.database import Durability
from agentsys.blackboard.effects import Effect, EffectState
from agentsys.blackboard.entries import Entry, Json, check_name
from agentsys.blackboard.file_writer import FileWriter
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.places import FilePlace
from agentsys.blackboard.postgres.address import is_postgres
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.sharing import SharedCommitter
from agentsys.blackboard.sqlite import SqliteStorage, open_reader
from agentsys.blackboard.storage import BoardClosed, BoardMissing, CursorState, Reader
from agentsys.blackboard.subscriptions import Changed, Subscription, SubscriptionMismatch
from agentsys.blackboard.transactions import Transaction
from agentsys.blackboard.upkept import UpkeptBoard
from agentsys.blackboard.wakeups import Polling, WakeUps
from agentsys.errors import BoardError

if TYPE_CHECKING:
    from agentsys.blackboard.postgres.sharing import LeasedCommitter

TEMPORARY: Final = ":memory:"
POLL_SECONDS: Final = 0.03
"""How often a process that does not lead looks for commits of others."""
SCAN_PAGE: Final = 200


class ReadOnlyBoard(BoardError):
    """A board opened read-only was asked to change."""

    code = "AGS-0206"
    remedy = "Open it with `Board.open` in the one process that writes."


class DriverMissing(BoardError):
    """A board in PostgreSQL was opened without the extra that brings the driver."""

    code = "AGS-0224"
    remedy = "Run `pip install 'agentsys-runtime[postgres]'`."


class InvalidSnapshot(BoardError):
    """A past or future state was asked for that the board does not have."""

    code = "AGS-0214"
    remedy = "Pass a commit sequence number between 0 (empty) and `Board.head`."


class Board(UpkeptBoard):
    """A board in one file, or in a PostgreSQL database that several machines share. Use it as a context manager.

    Thread-safe; commits block until they are durable. Several processes may write one board: the first leads, the
    others send it their commits, and when it ends another takes over. Any number read (:meth:`open_read_only`).
    """

    def __init__(self, source: FilePlace | str | None, durability: Durability | None) -> None:
        """Use :meth:`open` or :meth:`open_read_only`."""
        self._advanced = threading.Condition()
        self._wakeups = WakeUps()
        self._head = 0
        self._closed = False
        self._rest = ExitStack()
        """What is given up last."""
        self._committer: Committer | SharedCommitter | LeasedCommitter | None = None
        self._epoch: int | None = None
        self._knows_head: Callable[[], bool] = lambda: False
        self._whole: Board | None = None
        """What this is a view of (:meth:`through`)."""
        self._is_told = False
        """Whether ``learn`` is called with every new commit, by whomever, sooner or later."""
        if isinstance(source, str):
            self._open_database(source, durability)
        elif durability is None:
            assert source is not None
            self._reader: Reader = open_reader(source)
        elif source is None:
            self._open_temporary()
        else:
            self._open_shared(source, durability)

    @staticmethod
    def open(path: Path | str, *, durability: Literal["full", "normal"] = "full") -> "Board":
        """Open or create the board at ``path`` for writing; ``":memory:"`` is a board that vanishes when closed.

        ``FILE?board=NAME`` is one of several in a file, ``postgresql://user@host/database?board=NAME`` one in a
        database (see ``docs/deployment.md``).
        Raises :class:`BoardBusy` if this process has it open already or the process that leads it does not answer,
        :class:`BoardCorrupt`, :class:`SchemaTooNew`.
        """
        return Board(None if str(path) == TEMPORARY else _source(path), durability)

    @staticmethod
    def open_read_only(path: Path | str) -> "Board":
        """Open the board at ``path`` for reading, whoever writes it. Raises :class:`BoardMissing`."""
        return Board(_source(path), None)

    @property
    def head(self) -> int:
        """The newest commit's sequence number; 0 while the log is empty."""
        reader = self._open_reader()
        return self._head if self._knows_head() else reader.state().head

    @property
    def heard(self) -> int:
        """The head as this process was told it: for who looks often, as no database server is asked, and may lag."""
        told = self if self._whole is None else self._whole
        return told._head if told._is_told else self.head

    @property
    def epoch(self) -> int:
        """The number of this opening for writing; of a board opened read-only, the number of openings so far."""
        return self._epoch if self._epoch is not None else self._open_reader().state().epoch

    def get(self, topic: str, key: str, *, at: int | None = None) -> Entry | None:
        """Return the entry, now or as it was after commit ``at``."""
        entry = self._open_reader().version_at(topic, key, self._snapshot(at))
        return None if entry is None or entry.deleted else entry

    def query(self, predicate: Predicate, *, at: int | None = None, limit: int | None = None) -> list[Entry]:
        """Return the matching entries ordered by (topic, key), now or as they were after commit ``at``."""
        return self._open_reader().query_at(predicate, self._snapshot(at), limit)

    def through(self, wrap: Callable[[Reader], Reader]) -> "Board":
        """Return this board as it is read through ``wrap``. It cannot be written, and ends with this one."""
        seen = copy.copy(self)
        seen._reader, seen._committer = wrap(self._open_reader()), None
        seen._knows_head, seen._is_told, seen._whole = lambda: False, False, self._whole or self
        return seen

    def begin(
        self,
        principal: str,
        *,
        run: str | None = None,
        isolation: Isolation = "serializable",
        urgency: float = math.inf,
        audience: Readers | None = None,
        at: int | None = None,
    ) -> Transaction:
        """Begin a transaction over the present state, or over that after commit ``at`` (one known here needs no trip).

        Smaller ``urgency`` (a time) commits sooner when many wait.
        With an ``audience`` it sees, and conflicts with, only what all of that audience may read.
        """
        view = self._open_reader()
        seen = view if audience is None else ClearedView(view, audience)
        return Transaction(seen, self._snapshot(at), principal, run, isolation, urgency, audience)

    def commit(self, tx: Transaction) -> Commit:
        """Commit ``tx`` and wait until it is durable; committing it again returns the same commit.

        Raises :class:`Conflict`, and :class:`BoardFull` or :class:`StorageFailed`, after which ``tx`` may be
        committed again.
        """
        return self.submit(tx).result()

    def submit(self, tx: Transaction) -> Future[Commit]:
        """Queue ``tx`` and return a future of what :meth:`commit` returns."""
        request = tx.seal(self.epoch)
        committer = self.committer()
        if not request.changes_nothing or request.owner != request.tx_id:
            return committer.submit(request)
        done: Future[Commit] = Future()
        done.set_result(nothing_committed(request, tx.snapshot))
        return done

    def committer(self) -> "Committer | SharedCommitter | LeasedCommitter":
        """Return what commits to this board. Raises :class:`ReadOnlyBoard` and :class:`BoardClosed`."""
        self._open_reader()
        if self._committer is None:
            raise ReadOnlyBoard("This board was opened read-only.")
        return self._committer

    def hold(self, lost: Transaction, seconds: float) -> Transaction:
        """Return a new transaction that alone may write what ``lost`` touched, for at most ``seconds``.

        It is for one that loses again and again; others' commits wait meanwhile, so be short. It waits itself while
        another holds some of the same. The hold ends with the transaction's commit, whatever comes of it. Commits over
        several boards (``commit_together``) know of no holds: they do not wait, and end none.
        """
        request = replace(lost.seal(self.epoch), hold=seconds, resubmitted=False)
        self.wait_for(self.committer().submit(request).result().seq)
        held = self.begin(
            lost.principal, run=lost.run, isolation=lost.isolation, urgency=lost.urgency, audience=request.audience
        )
        held.owner = lost.owner
        return held

    def log(self, *, after: int | None = None, limit: int | None = None, run: str | None = None) -> list[Commit]:
        """Return the commits after sequence number ``after`` in order, all or those of one run.

        Without ``after`` from the horizon on; raises :class:`HistoryCompacted` if ``after`` lies before it.
        """
        return self._open_reader().commits(after, limit=limit, run=run)

    def commits(self, *, before: int | None = None, limit: int | None = None, run: str | None = None) -> list[Commit]:
        """Return the newest commits before sequence number ``before``, newest first, all or those of one run."""
        return self._open_reader().latest(before, limit=limit, run=run)

    def history(self, topic: str, key: str) -> list[Entry]:
        """Return every version of an entry since the horizon, oldest first, deletions included."""
        return self._open_reader().history(topic, key)

    def wait_for(self, seq: int, timeout: float | None = None) -> bool:
        """Wait until commit ``seq`` exists and return whether it does; ``timeout`` in seconds."""
        if self._is_told:
            # The news of a commit may be on its way still.
            if self.head < seq:
                with self._advanced:
                    self._advanced.wait_for(lambda: self._head >= seq or self._closed, timeout)
            return self._head >= seq or (not self._closed and self.head >= seq)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self.head < seq:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            time.sleep(min(POLL_SECONDS, remaining))
        return True

    def watching(self, predicate: Predicate) -> AbstractContextManager[Changed]:
        """Give a signal that is set when a commit may have changed what ``predicate`` covers, perhaps also else."""
        return self._wakeups.waiting(predicate) if self._is_told else nullcontext(Polling(POLL_SECONDS))

    def subscribe(self, name: str, predicate: Predicate, *, after: int | None = None) -> Subscription:
        """Return the durable subscription ``name``, created at position ``after`` unless it exists.

        By default it begins with the log. Raises :class:`SubscriptionMismatch` if it exists with another predicate,
        :class:`InvalidSnapshot` for a position past the log's end, :class:`HistoryCompacted` for one from which it is
        gone.
        """
        start = self.horizon if after is None else self._snapshot(after)
        wanted = CursorState(check_name(name, "subscription"), predicate, start)
        stored = self.committer().create_cursor(wanted).result()
        if stored.predicate != predicate:
            raise SubscriptionMismatch(f"Subscription {name} exists for {stored.predicate.to_json()}.")
        return Subscription(self, name, predicate)

    def cursor(self, name: str) -> CursorState | None:
        """Return the stored state of a subscription."""
        return self._open_reader().cursor(name)

    def matching(self, predicate: Predicate, after: int, limit: int | None) -> list[Commit]:
        """Return commits after ``after`` that wrote an entry ``predicate`` matches, or deleted one it covers."""
        found: list[Commit] = []
        while limit is None or len(found) < limit:
            page = self._open_reader().commits(after, limit=SCAN_PAGE, predicate=predicate)
            found += [commit for commit in page if any(_concerns(predicate, entry) for entry in commit.writes)]
            if len(page) < SCAN_PAGE:
                break
            after = page[-1].seq
        return found[:limit]

    def effects(self, run: str | None = None, state: EffectState | str | None = None) -> list[Effect]:
        """Return effects in their present state, in the order of their last step."""
        return self._open_reader().effects(run=run, state=None if state is None else EffectState(state))

    def effect(self, effect_id: str) -> Effect | None:
        """Return one effect in its present state."""
        found = self._open_reader().effects(ids=[effect_id])
        return found[0] if found else None

    def alive(self, epoch: int) -> bool:
        """Whether the process that opened the board as ``epoch`` still has it open, this one included."""
        # A closed board's lock file is closed, and its number may be another file's by then.
        self._open_reader()
        if self._committer is None or isinstance(self._committer, Committer):
            return epoch == self.epoch
        return self._committer.alive(epoch)

    def begun_by_the_living(self, effect: Effect) -> bool:
        """Whether ``effect`` was started by a process that still has the board open, this one included."""
        return effect.state is EffectState.STARTED and self.alive(effect.epoch)

    def start_effect(self, effect_id: str, *, principal: str = "runtime") -> Effect:
        """Record durably that the next attempt of an effect begins. Raises :class:`EffectRefused`."""
        tx = self.begin(principal, run=self._run_of(effect_id))
        tx.start_effect(effect_id)
        return self.commit(tx).effects[-1]

    def finish_effect(
        self,
        effect_id: str,
        outcome: Literal["succeeded", "failed", "in_doubt", "compensated"],
        result: Json = None,
        label: Label | None = None,
        *,
        principal: str = "runtime",
    ) -> Effect:
        """Record durably what became of an effect; without ``label`` the result counts as external free text."""
        tx = self.begin(principal, run=self._run_of(effect_id))
        tx.finish_effect(effect_id, outcome, result, label)
        return self.commit(tx).effects[-1]

    def close(self) -> None:
        """Commit what is queued, release the file and the lock; a second call does nothing."""
        with self._advanced:
            if self._closed:
                return
            self._closed = True
            self._advanced.notify_all()
        self._wakeups.wake_all()
        try:
            if self._committer is not None:
                self._committer.close()
            self._reader.close()
        finally:
            self._rest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open_temporary(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="agentsys-board-"))
        self._rest.callback(shutil.rmtree, folder, ignore_errors=True)
        file = FileWriter(folder / "board.db", "off")
        self._rest.callback(file.close)
        storage = SqliteStorage(file)
        self._reader, self._epoch = storage, storage.epoch
        self._knows_head, self._is_told = lambda: True, True
        self._committer = Committer(storage, self.publish)

    def _open_shared(self, place: FilePlace, durability: Durability) -> None:
        try:
            place.path.parent.mkdir(parents=True, exist_ok=True)
            shared = SharedCommitter(place, durability, self)
        except OSError as error:
            raise BoardMissing(f"{place} cannot be opened for writing: {error}.") from error
        self._committer, self._reader, self._epoch = shared, shared.reader, shared.epoch
        with self._advanced:
            # A process that comes to lead later goes on asking the file: others may have committed in between.
            self._is_told = shared.leads_from_start
            self._knows_head = lambda: shared.leads_from_start
            self._head = max(self._head, shared.reader.state().head)

    def _open_database(self, location: str, durability: Durability | None) -> None:
        # Imported here, as the driver is an extra.
        try:
            from agentsys.blackboard.postgres.sharing import LeasedCommitter
            from agentsys.blackboard.postgres.storage import open_for_reading
        except ImportError as error:
            raise DriverMissing(f"The board is in PostgreSQL, whose driver cannot be loaded: {error}.") from error
        if durability is None:
            self._reader = open_for_reading(location)
            return
        leased = LeasedCommitter(location, durability, self.publish, self.learn)
        self._committer, self._reader, self._epoch = leased, leased.reader, leased.epoch
        self._knows_head, self._is_told = leased.knows_head, True

    def publish(self, commits: Sequence[Commit]) -> None:
        """Tell those who wait of ``commits``. It is for the committer."""
        with self._advanced:
            # One over several boards may have come after them, and been learned of before.
            self._head = max(self._head, commits[-1].seq)
            self._advanced.notify_all()
        self._wakeups.publish(commits)

    def learn(self, head: int) -> None:
        """Take note of commits of which only the number is known. It is for the committer."""
        with self._advanced:
            if head <= self._head:
                return
            self._head = head
            self._advanced.notify_all()
        self._wakeups.wake_all()

    def _snapshot(self, at: int | None) -> int:
        if at is not None and 0 <= at <= self._head:
            return at
        head = self.head
        if at is None:
            return head
        if not 0 <= at <= head:
            raise InvalidSnapshot(f"The board has commits 0 to {head}, not {at}.")
        return at

    def _run_of(self, effect_id: str) -> str | None:
        effect = self.effect(effect_id)
        return None if effect is None else effect.intent.run

    def _open_reader(self) -> Reader:
        if self._closed:
            raise BoardClosed("The board was closed.")
        return self._reader


def _source(location: Path | str) -> FilePlace | str:
    return str(location) if is_postgres(location) else FilePlace.parse(location).absolute()


def _concerns(predicate: Predicate, entry: Entry) -> bool:
    return predicate.covers(entry) if entry.deleted else predicate.matches(entry)
