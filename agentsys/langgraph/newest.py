"""What this process wrote or read last in each lineage, so that the next step need not read it from the board.

Nothing here is trusted: a transaction relies on it, so that its commit conflicts where the board holds something else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.addresses import Place
from agentsys.langgraph.channels import State

KEPT_BYTES: Final = 64 * 2**20


@dataclass(slots=True)
class Newest:
    """A lineage's newest checkpoint: its entry and state, the head that names it, all tasks' writes on it by key."""

    head: Entry
    checkpoint: Entry
    state: State
    writes: dict[str, Entry]


class NewestCheckpoints:
    """The newest checkpoint of each lineage. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Newest] = OrderedDict()
        self._size = 0
        self._guard = threading.Lock()

    def read(self, place: Place, head: Entry, checkpoint: Entry, state: State, writes: Iterable[Entry]) -> None:
        """Keep what was read: the newest checkpoint with all that was written on it."""
        self._keep(place, Newest(head, checkpoint, state, {entry.key: entry for entry in writes}))

    def put(self, place: Place, checkpoint: str, commit: Commit, state: State) -> None:
        """Keep the ``checkpoint`` that ``commit`` wrote, on which no task has written yet."""
        written = _written(commit, place)
        self._keep(place, Newest(written[place.head], written[place.checkpoint(checkpoint)], state, {}))

    def written(self, place: Place, checkpoint: str, commit: Commit) -> None:
        """Keep what ``commit`` wrote on ``checkpoint``, if that is still the newest."""
        written = _written(commit, place)
        with self._guard:
            known = self._kept.get(place.name)
            if known is None or known.checkpoint.key != place.checkpoint(checkpoint):
                return
            if known.head.seq < commit.seq:
                known.head = written.pop(place.head, known.head)
            known.writes.update(written)

    def forget(self, place: Place, head: Entry | None) -> None:
        """Forget a lineage that turned out not to be at ``head``, unless what is kept is another one by now."""
        with self._guard:
            known = self._kept.get(place.name)
            if known is not None and known.head is head:
                self._drop(place.name)

    def state(self, place: Place, entry: Entry) -> State | None:
        """Return the state of the checkpoint in ``entry`` if it is what is kept, in the very version."""
        with self._guard:
            known = self._kept.get(place.name)
        found = known is not None and (known.checkpoint.key, known.checkpoint.seq) == (entry.key, entry.seq)
        return known.state if known is not None and found else None

    def head(self, place: Place) -> Entry | None:
        """Return the head as it was known last."""
        with self._guard:
            known = self._kept.get(place.name)
        return None if known is None else known.head

    def rely(self, transaction: Transaction, place: Place, key: str, checkpoint: str) -> None:
        """Let ``transaction`` rely on what is known of ``key``: ``checkpoint`` itself, or a task's writes on it."""
        with self._guard:
            known = self._kept.get(place.name)
            if known is None or known.checkpoint.key != place.checkpoint(checkpoint):
                return
            entry = known.checkpoint if known.checkpoint.key == key else known.writes.get(key)
        transaction.rely_on(place.topic, key, entry)

    def _keep(self, place: Place, newest: Newest) -> None:
        with self._guard:
            before = self._kept.get(place.name)
            if before is not None and before.head.seq > newest.head.seq:
                return
            self._drop(place.name)
            self._kept[place.name] = newest
            self._size += newest.state.size
            while self._size > KEPT_BYTES:
                self._drop(next(iter(self._kept)))

    def _drop(self, name: str) -> None:
        known = self._kept.pop(name, None)
        if known is not None:
            self._size -= known.state.size


def _written(commit: Commit, place: Place) -> dict[str, Entry]:
    return {entry.key: entry for entry in commit.writes if entry.topic == place.topic}
