"""When items of the store end: so many minutes after they were written or, unless a read says otherwise, read.

::

    langgraph-store-expiry/{label}/{label}/…    {key}    when an item with a ``ttl`` ends, in Unix seconds

It lies beside the item: a read that moves it neither makes the item newer nor conflicts with who changes it.
Source: LangGraph's ``TTLConfig``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from langgraph.store.base import TTLConfig

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardClosed
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.acting import raised

ROOT: Final = "langgraph-store/"
"""Before the topics of items."""
EXPIRY_ROOT: Final = "langgraph-store-expiry/"
EXPIRY: Final = "store_item_expiry"
PRINCIPAL: Final = "langgraph"
SWEEP_MINUTES: Final = 5.0

_log: Final = logging.getLogger(__name__)


class Expiry:
    """Ends items of the store on ``board`` as ``config`` says."""

    def __init__(self, board: Board, config: TTLConfig | None) -> None:
        self._board = board
        self._config: TTLConfig = config or {}

    @property
    def default(self) -> float | None:
        """Minutes that an item lives of which nothing is said."""
        return self._config.get("default_ttl")

    def put(self, transaction: Transaction, topic: str, key: str, minutes: float, label: Label) -> None:
        """Let the item at an address end after ``minutes`` from now."""
        ends = {"at": time.time() + 60 * minutes}
        transaction.put(_beside(topic), key, ends, type=EXPIRY, label=label, derived_from=())

    def living(self, items: Sequence[Entry], under: str) -> list[Entry]:
        """Return those of ``items`` that a read may show: all, unless ended ones are to be omitted.

        Their topics all begin with ``under``.
        """
        if not self._config.get("omit_expired") or all(_minutes(item) is None for item in items):
            return list(items)
        # Not through the reader's transaction, which a refresh of others would make fail.
        expiries = self._board.query(Predicate(topic_prefix=_beside(under), type=EXPIRY))
        now = time.time()
        ended = {expiry.address for expiry in expiries if _body(expiry)["at"] < now}
        return [item for item in items if _minutes(item) is None or (_beside(item.topic), item.key) not in ended]

    def refresh(self, items: Iterable[Entry]) -> None:
        """Let ``items`` that were read live on for their whole time, unless they were changed since."""
        asked: list[Future[Commit]] = []
        for item in items:
            minutes = _minutes(item)
            # An actor that knows more than the item's readers may must not tell them by this that it was here.
            if minutes is not None and raised(item.label) == item.label:
                transaction = self._board.begin(PRINCIPAL)
                transaction.guard(item)
                self.put(transaction, item.topic, item.key, minutes, item.label)
                asked.append(self._board.submit(transaction))
        for future in asked:
            _succeeded(future)

    def sweep(self) -> int:
        """Delete the items that have ended, and return how many; one that is changed or read meanwhile stays."""
        now = time.time()
        ended = [
            entry
            for entry in self._board.query(Predicate(topic_prefix=EXPIRY_ROOT, type=EXPIRY))
            if _body(entry)["at"] < now
        ]
        asked = [self._sweeping(entry) for entry in ended]
        return sum(_succeeded(future) and counts for future, counts in asked)

    def _sweeping(self, expiry: Entry) -> tuple[Future[Commit], bool]:
        """Begin to delete what has ended, and say whether an item is among it."""
        # A transaction for each: the label of what is deleted is that of all that was read.
        transaction = self._board.begin(PRINCIPAL)
        transaction.guard(expiry)
        topic = ROOT + expiry.topic.removeprefix(EXPIRY_ROOT)
        item = transaction.get(topic, expiry.key)
        counts = item is not None and _minutes(item) is not None
        if counts:
            transaction.delete(topic, expiry.key)
        transaction.delete(expiry.topic, expiry.key)
        return self._board.submit(transaction), counts


class Sweeper:
    """A thread that sweeps every so many minutes, until it is stopped or its board is closed."""

    def __init__(self, expiry: Expiry, minutes: float) -> None:
        self.ended: Future[None] = Future()
        """Cancelling it stops the sweeper."""
        self._expiry, self._seconds = expiry, 60 * minutes
        self._stop = threading.Event()
        self.ended.add_done_callback(lambda _: self._stop.set())
        self._thread = threading.Thread(target=self._run, name="agentsys-store-sweeper", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._stop.is_set()

    def stop(self, timeout: float | None = None) -> bool:
        """Stop, and return whether it has within ``timeout`` seconds."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                if swept := self._expiry.sweep():
                    _log.info("Deleted %d items of the store that had ended.", swept)
            except BoardClosed:
                break
            except Exception:
                _log.exception("Sweeping the store failed; it is tried again in %g seconds.", self._seconds)
        if self.ended.set_running_or_notify_cancel():
            self.ended.set_result(None)


def _beside(topic: str) -> str:
    return EXPIRY_ROOT + topic.removeprefix(ROOT)


def _minutes(item: Entry) -> float | None:
    minutes: float | None = _body(item).get("ttl")
    return minutes


def _succeeded(future: Future[Commit]) -> bool:
    try:
        future.result()
    except Conflict:
        # Somebody else wrote it just now, and said anew how long it lives.
        return False
    return True


def _body(entry: Entry) -> Any:
    return entry.value
