"""The board against a plain dictionary, under random transactions, savepoints, snapshots and re-openings."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Isolation, Transaction

Model = dict[tuple[str, str], Any]

TOPICS = st.sampled_from(["a", "ab", "b"])
KEYS = st.sampled_from(["1", "2"])
VALUES = st.one_of(st.integers(0, 2), st.fixed_dictionaries({"n": st.integers(0, 1)}))
PREDICATES = st.sampled_from([Predicate(topic="a"), Predicate(topic_prefix="a"), Predicate(equals={"n": 1})])


def matching(model: Model, predicate: Predicate) -> Model:
    """The model's own reading of the three predicates used here."""
    return {
        address: value
        for address, value in model.items()
        if (predicate.topic is None or address[0] == predicate.topic)
        and address[0].startswith(predicate.topic_prefix or "")
        and (not predicate.equals or (isinstance(value, dict) and value["n"] == 1))
    }


class Mirror:
    """A transaction beside what the model says it should see."""

    def __init__(self, board: Board, isolation: Isolation, base: Model) -> None:
        self.board = board
        self.tx: Transaction = board.begin("machine", isolation=isolation)
        self.base = base
        self.own: list[tuple[tuple[str, str], Any]] = []
        self.reads: Model = {}
        self.queries: list[tuple[Predicate, Model]] = []
        self.marks: list[tuple[int, int]] = []
        self.done = False

    def seen(self) -> Model:
        seen = dict(self.base)
        for address, value in self.own:
            if value is None:
                seen.pop(address, None)
            else:
                seen[address] = value
        return seen

    def overtaken(self, now: Model, changed: set[tuple[str, str]]) -> bool:
        """Whether the model says this transaction must not commit."""
        if self.tx.isolation == "snapshot":
            return bool(changed & {address for address, _ in self.own})
        return any(
            address in changed and (value, now.get(address)) != (None, None) for address, value in self.reads.items()
        )


class BoardMachine(RuleBasedStateMachine):
    transactions: Bundle[Mirror] = Bundle("transactions")

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.board = Board.open(self.folder / "board.db", durability="normal")
        self.history: list[Model] = [{}]
        self.written: list[set[tuple[str, str]]] = [set()]

    @rule(target=transactions, isolation=st.sampled_from(["serializable", "snapshot"]))
    def begin(self, isolation: Isolation) -> Mirror:
        return Mirror(self.board, isolation, dict(self.history[-1]))

    @rule(mirror=transactions, topic=TOPICS, key=KEYS)
    def get(self, mirror: Mirror, topic: str, key: str) -> None:
        if mirror.done or mirror.board is not self.board:
            return
        entry = mirror.tx.get(topic, key)
        assert (entry.value if entry else None) == mirror.seen().get((topic, key))
        if (topic, key) not in dict(mirror.own):
            mirror.reads[topic, key] = mirror.base.get((topic, key))

    @rule(mirror=transactions, predicate=PREDICATES)
    def query(self, mirror: Mirror, predicate: Predicate) -> None:
        if mirror.done or mirror.board is not self.board:
            return
        found = {entry.address: entry.value for entry in mirror.tx.query(predicate)}
        assert found == matching(mirror.seen(), predicate)
        mirror.queries.append((predicate, matching(mirror.base, predicate)))

    @rule(mirror=transactions, topic=TOPICS, key=KEYS, value=VALUES)
    def put(self, mirror: Mirror, topic: str, key: str, value: Any) -> None:
        if not mirror.done:
            mirror.tx.put(topic, key, value, type="item")
            mirror.own.append(((topic, key), value))

    @rule(mirror=transactions, topic=TOPICS, key=KEYS)
    def delete(self, mirror: Mirror, topic: str, key: str) -> None:
        if mirror.done or mirror.board is not self.board:
            return
        self.get(mirror, topic, key)
        mirror.tx.delete(topic, key)
        if (topic, key) in mirror.seen():
            mirror.own.append(((topic, key), None))

    @rule(mirror=transactions)
    def savepoint(self, mirror: Mirror) -> None:
        if not mirror.done:
            mirror.marks.append((mirror.tx.savepoint(), len(mirror.own)))

    @rule(mirror=transactions)
    def roll_back(self, mirror: Mirror) -> None:
        if not mirror.done and mirror.marks:
            mark, length = mirror.marks.pop()
            mirror.tx.rollback_to(mark)
            del mirror.own[length:]

    @rule(mirror=transactions)
    def commit(self, mirror: Mirror) -> None:
        if mirror.done:
            return
        mirror.done = True
        now = self.history[-1]
        changed = set().union(*self.written[mirror.tx.snapshot + 1 :])
        try:
            commit = self.board.commit(mirror.tx)
        except Conflict:
            assert mirror.overtaken(now, changed) or self._set_changed(mirror)
            return
        if not mirror.own:
            assert commit.seq == mirror.tx.snapshot
            return
        assert not mirror.overtaken(now, changed) and not self._set_changed(mirror)
        assert commit.seq == len(self.history)
        after = dict(now)
        for address, value in mirror.own:
            if value is None:
                after.pop(address, None)
            else:
                after[address] = value
        self.history.append(after)
        self.written.append({entry.address for entry in commit.writes})

    def _set_changed(self, mirror: Mirror) -> bool:
        """Whether some commit since the snapshot wrote an entry that was or became a member of a set read."""
        if mirror.tx.isolation == "snapshot":
            return False
        return any(
            address in matching(self.history[seq - 1], predicate) or address in matching(self.history[seq], predicate)
            for predicate, _ in mirror.queries
            for seq in range(mirror.tx.snapshot + 1, len(self.history))
            for address in self.written[seq]
        )

    @rule()
    def reopen(self) -> None:
        # Transactions of the old board can read no more, but what they buffered can still be committed.
        self.board.close()
        self.board = Board.open(self.folder / "board.db", durability="normal")

    @rule(data=st.data(), predicate=PREDICATES)
    def look_back(self, data: st.DataObject, predicate: Predicate) -> None:
        at = data.draw(st.integers(0, len(self.history) - 1))
        found = {entry.address: entry.value for entry in self.board.query(predicate, at=at)}
        assert found == matching(self.history[at], predicate)

    @invariant()
    def the_board_is_the_model(self) -> None:
        if hasattr(self, "board"):
            assert self.board.head == len(self.history) - 1
            assert {entry.address: entry.value for entry in self.board.query(Predicate())} == self.history[-1]

    def teardown(self) -> None:
        if hasattr(self, "board"):
            assert self.board.verify() == len(self.history) - 1
            self.board.close()
            shutil.rmtree(self.folder)


SETTINGS = settings(stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TestBoardMachine = BoardMachine.TestCase
TestBoardMachine.settings = settings(SETTINGS, max_examples=20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
class TestBoardMachineLong(BoardMachine.TestCase):
    settings = settings(SETTINGS, max_examples=500)
