"""The board against a dictionary: transactions, merges, savepoints, snapshots, subscriptions, compactions at random.

Of a state that was compacted the board may still know the right answer, or say that it is gone; never a wrong one.
"""

import shutil
import tempfile
import uuid
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Isolation
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.leases import SnapshotLease
from agentsys.blackboard.merges import Add
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.reads import SqlReader
from agentsys.blackboard.storage import HistoryCompacted
from agentsys.blackboard.transactions import Transaction
from agentsys.blackboard.verification import COMPACTIONS

Model = dict[tuple[str, str], Any]

TOPICS = st.sampled_from(["a", "ab", "b"])
KEYS = st.sampled_from(["1", "2"])
COUNTERS = "counters"
# Large enough to be stored apart.
LARGE_VALUE = "x" * 5_000
VALUES = st.one_of(st.integers(0, 2), st.fixed_dictionaries({"n": st.integers(0, 1)}), st.just(LARGE_VALUE))
ADDRESSES = [(topic, key) for topic in ("a", "ab", "b", COUNTERS) for key in ("1", "2")]
SUBSCRIBED = {"all": Predicate(), "a": Predicate(topic_prefix="a"), "ones": Predicate(equals={"n": 1})}
NAMES = st.sampled_from(sorted(SUBSCRIBED))
PREDICATES = st.sampled_from([Predicate(topic="a"), Predicate(topic_prefix="a"), Predicate(equals={"n": 1})])


def matching(model: Model, predicate: Predicate) -> Model:
    """The model's own reading of the three predicates used here."""
    return {
        address: value
        for address, value in model.items()
        if (predicate.topic is None or address[0] == predicate.topic)
        and address[0].startswith(predicate.topic_prefix or "")
        and (not predicate.equals or (isinstance(value, dict) and value.get("n") == 1))
    }


class Mirror:
    """A transaction beside what the model says it should see."""

    def __init__(self, board: Board, isolation: Isolation, base: Model) -> None:
        self.board = board
        self.tx: Transaction = board.begin("machine", isolation=isolation)
        self.base = base
        self.own: list[tuple[tuple[str, str], Any]] = []
        self.added: list[tuple[tuple[str, str], int]] = []
        self.moves: list[tuple[str, int, int]] = []
        self.reads: Model = {}
        self.queries: list[tuple[Predicate, Model]] = []
        self.marks: list[tuple[int, int, int, int]] = []
        self.done = False

    def seen(self) -> Model:
        seen = dict(self.base)
        for address, value in self.own:
            if value is None:
                seen.pop(address, None)
            else:
                seen[address] = value
        return seen

    def applied(self, now: Model) -> Model:
        """Return what ``now`` becomes by this transaction's writes."""
        after = dict(now)
        for address, value in self.own:
            if value is None:
                after.pop(address, None)
            else:
                after[address] = value
        for address, amount in self.added:
            after[address] = after.get(address, 0) + amount
        return after

    def compacted(self) -> bool:
        """Whether what this transaction sees may be gone."""
        return bool(self.tx.snapshot < self.board.horizon)

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
        self.location = self.new_location()
        self.board = Board.open(self.location, durability="normal")
        self.history: list[Model] = [{}]
        self.written: list[set[tuple[str, str]]] = [set()]
        self.positions: dict[str, int] = {}
        self.horizon = 0
        self.leases: list[SnapshotLease] = []

    @rule(target=transactions, isolation=st.sampled_from(["serializable", "snapshot"]))
    def begin(self, isolation: Isolation) -> Mirror:
        return Mirror(self.board, isolation, dict(self.history[-1]))

    @rule(mirror=transactions, topic=TOPICS, key=KEYS)
    def get(self, mirror: Mirror, topic: str, key: str) -> None:
        if mirror.done or mirror.board is not self.board:
            return
        try:
            entry = mirror.tx.get(topic, key)
        except HistoryCompacted:
            assert mirror.compacted()
            return
        assert (entry.value if entry else None) == mirror.seen().get((topic, key))
        if (topic, key) not in dict(mirror.own):
            mirror.reads[topic, key] = mirror.base.get((topic, key))

    @rule(mirror=transactions, predicate=PREDICATES)
    def query(self, mirror: Mirror, predicate: Predicate) -> None:
        if mirror.done or mirror.board is not self.board:
            return
        try:
            found = {entry.address: entry.value for entry in mirror.tx.query(predicate)}
        except HistoryCompacted:
            assert mirror.compacted()
            return
        # What its merges come to is part of what it could have seen.
        mirror.reads.update((address, mirror.base.get(address)) for address, _ in mirror.added)
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
        try:
            mirror.tx.delete(topic, key)
        except HistoryCompacted:
            assert mirror.compacted()
            return
        if (topic, key) in mirror.seen():
            mirror.own.append(((topic, key), None))

    @rule(mirror=transactions, key=KEYS, amount=st.integers(-2, 2))
    def merge(self, mirror: Mirror, key: str, amount: int) -> None:
        """Change a counter, which conflicts with nobody's change of it."""
        if not mirror.done:
            mirror.tx.merge(COUNTERS, key, Add(amount), type="counter")
            mirror.added.append(((COUNTERS, key), amount))

    @rule(mirror=transactions)
    def savepoint(self, mirror: Mirror) -> None:
        if not mirror.done:
            mirror.marks.append((mirror.tx.savepoint(), len(mirror.own), len(mirror.added), len(mirror.moves)))

    @rule(mirror=transactions, back=st.integers(1, 3))
    def roll_back(self, mirror: Mirror, back: int) -> None:
        """Roll back to the newest savepoint or one before it, which forgets those in between."""
        if not mirror.done and mirror.marks:
            mark, writes, merges, moves = mirror.marks[-min(back, len(mirror.marks))]
            del mirror.marks[-min(back, len(mirror.marks)) :]
            mirror.tx.rollback_to(mark)
            del mirror.own[writes:]
            del mirror.added[merges:]
            del mirror.moves[moves:]

    @rule(data=st.data(), name=NAMES)
    def subscribe(self, data: st.DataObject, name: str) -> None:
        """Subscribe from anywhere in the log; one that exists keeps its position."""
        after = self.past(data)
        if name not in self.positions and after < self.horizon:
            with pytest.raises(HistoryCompacted):
                self.board.subscribe(name, SUBSCRIBED[name], after=after)
            return
        self.positions.setdefault(name, after)
        assert self.board.subscribe(name, SUBSCRIBED[name], after=after).position == self.positions[name]

    @rule(mirror=transactions, name=NAMES, limit=st.sampled_from([1, 2, None]))
    def advance(self, mirror: Mirror, name: str, limit: int | None) -> None:
        """Poll, and move the cursor past what was polled together with what the transaction writes."""
        if name not in self.positions:
            return
        subscription = self.board.subscribe(name, SUBSCRIBED[name])
        polled = [commit.seq for commit in subscription.poll(limit)]
        position = self.positions[name]
        expected = [seq for seq in range(position + 1, len(self.history)) if self._concerns(SUBSCRIBED[name], seq)]
        assert polled == expected[:limit]
        if polled and not mirror.done:
            mirror.tx.advance(subscription, polled[-1])
            mirror.moves.append((name, position, polled[-1]))

    def _concerns(self, predicate: Predicate, seq: int) -> bool:
        """Whether commit ``seq`` wrote a match, or ended an entry at an address that the predicate admits."""
        after = self.history[seq]
        ended = {address: {"n": 1} for address in self.written[seq] if address not in after}
        kept = {address: after[address] for address in self.written[seq] if address in after}
        return bool(matching(kept, predicate) or matching(ended, predicate))

    @rule(mirror=transactions)
    def commit(self, mirror: Mirror) -> None:
        if mirror.done:
            return
        mirror.done = True
        now = self.history[-1]
        changed = set().union(*self.written[mirror.tx.snapshot + 1 :])
        try:
            commit = self.board.commit(mirror.tx)
        except HistoryCompacted:
            assert mirror.queries and mirror.tx.isolation == "serializable" and mirror.tx.snapshot < self.horizon
            return
        except Conflict:
            assert mirror.overtaken(now, changed) or self._set_changed(mirror) or self._cursor_moved(mirror)
            return
        if not mirror.own and not mirror.added and not mirror.moves:
            assert commit.seq == mirror.tx.snapshot
            return
        assert not mirror.overtaken(now, changed)
        assert not self._set_changed(mirror) and not self._cursor_moved(mirror)
        assert commit.seq == len(self.history)
        self.history.append(mirror.applied(now))
        self.written.append({entry.address for entry in commit.writes})
        self.positions.update({name: to_seq for name, _, to_seq in mirror.moves})

    @rule(writes=st.lists(st.tuples(TOPICS, KEYS, VALUES), min_size=1, max_size=6))
    def write(self, writes: list[tuple[str, str, Any]]) -> None:
        """Commit one after the other at once, so that there is a past."""
        for topic, key, value in writes:
            mirror = Mirror(self.board, "snapshot", dict(self.history[-1]))
            self.put(mirror, topic, key, value)
            self.commit(mirror)

    def past(self, data: st.DataObject) -> int:
        """Draw a commit, more often a late one."""
        head = len(self.history) - 1
        return max(0, head - data.draw(st.one_of(st.integers(0, 2), st.integers(0, head))))

    def _cursor_moved(self, mirror: Mirror) -> bool:
        return any(self.positions[name] != from_seq for name, from_seq, _ in mirror.moves)

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

    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        """Keep the states from anywhere on, as far as they are still there."""
        at = self.past(data)
        if at < self.horizon:
            with pytest.raises(HistoryCompacted):
                self.board.lease(at)
        else:
            self.leases.append(self.board.lease(at, seconds=3600))

    @rule()
    def end_leases(self) -> None:
        for lease in self.leases:
            lease.close()
        self.leases = []

    @rule(commits=st.integers(0, 3))
    def compact(self, commits: int) -> None:
        needed = [*self.positions.values(), *(lease.snapshot for lease in self.leases)]
        wanted = max(self.horizon, min([len(self.history) - 1 - commits, *needed]))
        assert self.board.compact(Keep(commits=commits)).horizon == wanted == self.board.horizon
        if wanted > self.horizon:
            self.horizon = wanted
            record = self.board.get(COMPACTIONS, str(wanted))
            assert record is not None
            self.history.append({**self.history[-1], record.address: record.value})
            self.written.append({record.address})

    @rule()
    def reopen(self) -> None:
        self.end_leases()
        # Transactions of the old board can read no more, but what they buffered can still be committed.
        self.board.close()
        self.board = Board.open(self.location, durability="normal")

    @rule(data=st.data(), predicate=PREDICATES)
    def look_back(self, data: st.DataObject, predicate: Predicate) -> None:
        at = data.draw(st.integers(0, len(self.history) - 1))
        if at < self.horizon:
            with pytest.raises(HistoryCompacted):
                self.board.query(predicate, at=at)
            return
        found = {entry.address: entry.value for entry in self.board.query(predicate, at=at)}
        assert found == matching(self.history[at], predicate)
        for topic, key in ADDRESSES:
            entry = self.board.get(topic, key, at=at)
            assert (entry.value if entry else None) == self.history[at].get((topic, key))

    @rule()
    def read_the_log(self) -> None:
        """The log tells what the model did, and each entry's history its versions in order."""
        kept = self.written[self.horizon + 1 :]
        assert [{entry.address for entry in commit.writes} for commit in self.board.log()] == kept
        for topic, key in ADDRESSES:
            seqs = [seq for seq, addresses in enumerate(self.written) if (topic, key) in addresses]
            versions = [
                (version, seq)
                for version, (seq, end) in enumerate(zip(seqs, [*seqs[1:], len(self.written)], strict=False), 1)
                if end > self.horizon
            ]
            assert [(entry.version, entry.seq) for entry in self.board.history(topic, key)] == versions

    @invariant()
    def the_board_is_the_model(self) -> None:
        if hasattr(self, "board"):
            assert self.board.head == len(self.history) - 1
            assert {entry.address: entry.value for entry in self.board.query(Predicate())} == self.history[-1]
            for name, position in self.positions.items():
                stored = self.board.cursor(name)
                assert stored is not None and stored.position == position

    def teardown(self) -> None:
        if hasattr(self, "board"):
            try:
                assert self.board.verify() == len(self.history) - 1
            finally:
                self.end_leases()
                self.board.close()
                self.remove()

    def new_location(self) -> str:
        self.folder = tempfile.mkdtemp()
        return f"{self.folder}/board.db"

    def remove(self) -> None:
        shutil.rmtree(self.folder)


class SeveralMachine(BoardMachine):
    """The same beside another board in the file."""

    def new_location(self) -> str:
        location = super().new_location()
        Board.open(location).close()
        return f"{location}?board=team"


class PostgresMachine(BoardMachine):
    """The same over PostgreSQL; ``url`` is set by a fixture."""

    url = ""

    def new_location(self) -> str:
        self.name = f"m{uuid.uuid4().hex[:20]}"
        return f"{self.url}{'&' if '?' in self.url else '?'}board={self.name}"

    def remove(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA agentsys_{self.name} CASCADE")


@pytest.fixture(autouse=True, scope="module")
def _postgres(postgres_url: str) -> None:
    PostgresMachine.url = postgres_url


SETTINGS = settings(stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TestBoardMachine = BoardMachine.TestCase
TestBoardMachine.settings = settings(SETTINGS, max_examples=40)

TestSeveralMachine = SeveralMachine.TestCase
TestSeveralMachine.settings = settings(SETTINGS, max_examples=10)

TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(SETTINGS, max_examples=10)


class Drawn:
    """Data of which always the first is drawn."""

    def draw(self, strategy: object) -> int:
        return 0


def test_the_machine_notices_reads_of_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, drawn = BoardMachine(), Drawn()
    machine.open()
    machine.write([("a", "1", 1), ("a", "1", 2)])
    machine.compact(0)
    machine.look_back(drawn, Predicate(topic="a"))
    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        patch.setattr(SqlReader, "_check_past", lambda self, at, horizon: None)
        machine.look_back(drawn, Predicate(topic="a"))
    machine.teardown()


@pytest.mark.slow
@pytest.mark.timeout(3600)
class TestBoardMachineLong(BoardMachine.TestCase):
    settings = settings(SETTINGS, max_examples=1000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
class TestPostgresMachineLong(PostgresMachine.TestCase):
    settings = settings(SETTINGS, max_examples=500)
