"""Items of the store end when their time is over: by a sweep, or at once where reads omit what has ended."""

import time

import pytest
from langgraph.store.base import GetOp, PutOp
from langgraph.store.sqlite import SqliteStore

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.current import current_context
from agentsys.langgraph import store_expiry
from agentsys.langgraph.store import BlackboardStore

NAMES = ("user:ann", "notes")


class Clock:
    """Scripted time in minutes after now."""

    def __init__(self):
        self.minutes = 0.0

    def time(self):
        return time.time() + 60 * self.minutes


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(store_expiry, "time", clock)
    return clock


@pytest.fixture
def board(tmp_path):
    with Board.open(tmp_path / "board.db") as board:
        yield board


def keys(store):
    return sorted(item.key for item in store.search(NAMES, refresh_ttl=False))


def test_a_sweep_deletes_what_has_ended_and_nothing_else(board, clock):
    store = BlackboardStore(board)
    store.put(NAMES, "short", {"n": 1}, ttl=5)
    store.put(NAMES, "long", {"n": 2}, ttl=50)
    store.put(NAMES, "for ever", {"n": 3})
    assert store.sweep_ttl() == 0
    clock.minutes = 6
    assert keys(store) == ["for ever", "long", "short"]
    assert store.sweep_ttl() == 1
    assert keys(store) == ["for ever", "long"]
    clock.minutes = 1_000
    assert (store.sweep_ttl(), store.sweep_ttl()) == (1, 0)
    assert keys(store) == ["for ever"]


async def test_a_default_holds_for_what_says_nothing(board, clock):
    store = BlackboardStore(board, ttl={"default_ttl": 5})
    await store.aput(NAMES, "by default", {"n": 1})
    await store.aput(NAMES, "for ever", {"n": 2}, ttl=None)
    store.update(NAMES, "made by an update", lambda _: {"n": 3})
    clock.minutes = 6
    assert store.sweep_ttl() == 2
    assert keys(store) == ["for ever"]


@pytest.mark.parametrize("how", ["get", "search", "aget", "update"])
async def test_what_is_used_lives_on(board, clock, how):
    store = BlackboardStore(board)
    store.put(NAMES, "k", {"n": 1}, ttl=5)
    before = store.get(NAMES, "k", refresh_ttl=False)
    clock.minutes = 4
    if how == "get":
        store.get(NAMES, "k")
    elif how == "search":
        store.search(NAMES)
    elif how == "aget":
        await store.aget(NAMES, "k")
    else:
        store.update(NAMES, "k", lambda value: value)
    clock.minutes = 8
    assert store.sweep_ttl() == 0
    after = store.get(NAMES, "k", refresh_ttl=False)
    assert how == "update" or after.updated_at == before.updated_at
    clock.minutes = 10
    assert store.sweep_ttl() == 1


def test_a_read_may_leave_it_as_it_is(board, clock):
    configured = BlackboardStore(board, ttl={"refresh_on_read": False})
    configured.put(NAMES, "k", {"n": 1}, ttl=5)
    clock.minutes = 4
    configured.get(NAMES, "k")
    BlackboardStore(board).get(NAMES, "k", refresh_ttl=False)
    clock.minutes = 6
    assert configured.sweep_ttl() == 1


def test_what_has_ended_is_omitted_where_reads_shall(board, clock):
    store = BlackboardStore(board, ttl={"omit_expired": True})
    store.put(NAMES, "k", {"n": 1}, ttl=5)
    store.put(NAMES, "for ever", {"n": 2})
    store.put(("other",), "k", {"n": 3}, ttl=5)
    clock.minutes = 6
    assert store.get(NAMES, "k") is None
    assert keys(store) == ["for ever"]
    assert store.list_namespaces() == [NAMES]
    assert store.update(NAMES, "k", lambda value: {"began": value is None}) == {"began": True}
    assert store.get(NAMES, "k").value == {"began": True}


def test_what_is_put_anew_lives_as_it_says_then(board, clock):
    store = BlackboardStore(board)
    store.put(NAMES, "for ever now", {"n": 1}, ttl=5)
    store.put(NAMES, "for ever now", {"n": 2})
    store.put(NAMES, "longer now", {"n": 1}, ttl=5)
    store.put(NAMES, "longer now", {"n": 2}, ttl=50)
    store.put(NAMES, "deleted", {"n": 1}, ttl=5)
    store.delete(NAMES, "deleted")
    clock.minutes = 6
    assert store.sweep_ttl() == 0
    assert keys(store) == ["for ever now", "longer now"]


def test_a_refresh_yields_to_who_changed_the_item(board, clock):
    store = BlackboardStore(board)
    store.put(NAMES, "k", {"n": 1}, ttl=50)
    found = board.query(Predicate(topic_prefix="langgraph-store/"))
    store.put(NAMES, "k", {"n": 2}, ttl=5)
    store._expiry.refresh(found)
    clock.minutes = 6
    assert store.sweep_ttl() == 1


def test_a_batch_that_reads_and_writes_is_not_refused_for_a_refresh(board, clock):
    store = BlackboardStore(board)
    store.put(NAMES, "k", {"n": 1}, ttl=5)
    submit = board.submit

    def submit_after_a_read(transaction):
        board.submit = submit
        BlackboardStore(board).get(NAMES, "k")
        return submit(transaction)

    board.submit = submit_after_a_read
    found, _ = store.batch([GetOp(NAMES, "k"), PutOp(NAMES, "other", {"n": 2})])
    assert found.value == {"n": 1}
    assert keys(store) == ["k", "other"]


def test_a_reader_who_knows_more_leaves_no_trace(board, clock):
    everybody = Label.trusted("user:ann", Readers(frozenset({"user:ann", "user:bob"})))
    store = BlackboardStore(board, label=everybody)
    store.put(NAMES, "k", {"n": 1}, ttl=5)
    head = board.head

    class Actor:
        label = everybody.join(Label.trusted("user:ann", Readers(frozenset({"user:ann"}))))

        def deliver(self, label):
            self.label = self.label.join(label)

        def learn(self, read):
            pass

    token = current_context.set(Actor())
    try:
        assert store.get(NAMES, "k").value == {"n": 1}
    finally:
        current_context.reset(token)
    assert board.head == head
    assert store.get(NAMES, "k").value == {"n": 1}
    assert board.head == head + 1


@pytest.mark.parametrize("minutes", [0, -1, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(board, minutes):
    with pytest.raises(ValueError, match="minutes"):
        BlackboardStore(board).put(NAMES, "k", {"n": 1}, ttl=minutes)


def test_a_sweeper_sweeps_until_it_is_stopped(board):
    store = BlackboardStore(board, ttl={"default_ttl": 0.001 / 60, "sweep_interval_minutes": 0.001 / 60})
    store.put(NAMES, "k", {"n": 1})
    ended = store.start_ttl_sweeper()
    assert store.start_ttl_sweeper() is ended
    while keys(store):
        time.sleep(0.001)
    assert store.stop_ttl_sweeper()
    assert ended.result(10) is None
    again = store.start_ttl_sweeper()
    again.cancel()
    assert store.stop_ttl_sweeper(10)


def test_langgraphs_store_sweeps_alike(board):
    """The same calls on LangGraph's store; it counts in real time."""
    with SqliteStore.from_conn_string(":memory:", ttl={"default_ttl": 5}) as theirs:
        theirs.setup()
        for store in (theirs, BlackboardStore(board, ttl={"default_ttl": 5})):
            store.put(NAMES, "k", {"n": 1})
            store.put(NAMES, "for ever", {"n": 2}, ttl=None)
            assert store.supports_ttl
            assert store.sweep_ttl() == 0
            assert keys(store) == ["for ever", "k"]
            ended = store.start_ttl_sweeper()
            assert store.stop_ttl_sweeper(10)
            assert ended.result(10) is None
