"""The store does what LangGraph's interface demands, keeps labels, and loses no update in silence."""

import asyncio
import operator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import GetOp, InvalidNamespaceError, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.errors import LabelError
from agentsys.langgraph.store import BlackboardStore

MEMORIES = ("user:ann", "memories")


def letters(texts):
    """A scripted embedding: how often a, b and c occur."""
    return [[float(text.count(letter)) for letter in "abc"] for text in texts]


INDEX = {"dims": 3, "embed": letters, "fields": ["text"]}


@pytest.fixture
def board(tmp_path):
    with Board.open(tmp_path / "board.db") as board:
        yield board


@pytest.fixture(params=["ours", "LangGraph's own"])
def store(request, board):
    """What follows holds for the store that LangGraph ships just as well."""
    return BlackboardStore(board, index=INDEX) if request.param == "ours" else InMemoryStore(index=INDEX)


def test_put_get_delete(store):
    store.put(MEMORIES, "food", {"likes": "figs"})
    item = store.get(MEMORIES, "food")
    assert (item.namespace, item.key, item.value) == (MEMORIES, "food", {"likes": "figs"})
    assert item.created_at <= item.updated_at and item.created_at.tzinfo is not None
    assert store.get(MEMORIES, "drink") is None
    store.delete(MEMORIES, "food")
    store.delete(MEMORIES, "food")
    assert store.get(MEMORIES, "food") is None


def test_search_by_namespace_and_filter(store):
    for number in range(5):
        store.put(("docs", "a" if number % 2 else "b"), f"d{number}", {"number": number, "tag": {"kind": "note"}})
    store.put(("docsmore",), "other", {"number": 9})

    def keys(*namespace, **options):
        return sorted(item.key for item in store.search(namespace, **options))

    assert keys("docs") == ["d0", "d1", "d2", "d3", "d4"]
    assert keys("docs", "a") == ["d1", "d3"]
    assert keys("docs", filter={"number": {"$gte": 2, "$lt": 4}}) == ["d2", "d3"]
    assert keys("docs", filter={"number": 4, "tag": {"kind": "note"}}) == ["d4"]
    assert keys("docs", filter={"number": {"$ne": 0}}, limit=2, offset=1) != keys("docs", limit=2)
    assert len(store.search(("docs",), limit=2, offset=4)) == 1


def test_search_by_embeddings(store):
    store.put(("texts",), "many", {"text": "aaaa"})
    store.put(("texts",), "mixed", {"text": "aabb"})
    store.put(("texts",), "unindexed", {"text": "aaaa"}, index=False)
    found = store.search(("texts",), query="a")
    assert [item.key for item in found] == ["many", "mixed", "unindexed"]
    assert found[0].score == pytest.approx(1.0) and found[2].score is None


def test_list_namespaces(store):
    for namespace in [("a", "x", "end"), ("a", "y", "end"), ("b", "x", "end"), ("b",)]:
        store.put(namespace, "key", {"is": "there"})
    assert store.list_namespaces() == [("a", "x", "end"), ("a", "y", "end"), ("b",), ("b", "x", "end")]
    assert store.list_namespaces(prefix=("a",)) == [("a", "x", "end"), ("a", "y", "end")]
    assert store.list_namespaces(prefix=("*", "x")) == [("a", "x", "end"), ("b", "x", "end")]
    assert store.list_namespaces(suffix=("x", "end")) == [("a", "x", "end"), ("b", "x", "end")]
    assert store.list_namespaces(max_depth=1) == [("a",), ("b",)]
    assert store.list_namespaces(limit=1, offset=1) == [("a", "y", "end")]


def test_a_batch_reads_the_state_before_it(store):
    store.put(("n",), "k", {"v": 1})
    results = store.batch([PutOp(("n",), "k", {"v": 2}), GetOp(("n",), "k"), PutOp(("n",), "k", {"v": 3})])
    assert results[0] is None and results[1].value == {"v": 1} and store.get(("n",), "k").value == {"v": 3}


def test_names_that_mean_something_elsewhere_are_only_names(store):
    store.put(("a/b", "%2F"), "k:/%", {"v": 1})
    store.put(("a", "b"), "other", {"v": 2})
    assert store.get(("a/b", "%2F"), "k:/%").value == {"v": 1}
    assert [item.namespace for item in store.search(("a/b",))] == [("a/b", "%2F")]


async def test_async_twins(store):
    await store.aput(MEMORIES, "food", {"likes": "figs"})
    assert (await store.aget(MEMORIES, "food")).value == {"likes": "figs"}
    assert [item.key for item in await store.asearch(MEMORIES)] == ["food"]
    assert await store.alist_namespaces() == [MEMORIES]
    await store.adelete(MEMORIES, "food")
    assert await store.aget(MEMORIES, "food") is None


def one_more(value):
    return {"n": (value or {"n": 0})["n"] + 1}


def test_no_increment_is_lost(board):
    store = BlackboardStore(board)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(lambda: [store.update(("n",), "count", one_more) for _ in range(50)]) for _ in "1234"]:
            done.result()
    assert store.get(("n",), "count").value == {"n": 200}
    assert store.update(("n",), "count", lambda value: None) is None
    assert store.get(("n",), "count") is None


async def test_no_async_increment_is_lost(board):
    store = BlackboardStore(board)
    await asyncio.gather(*(store.aupdate(("n",), "count", one_more) for _ in range(20)))
    assert (await store.aget(("n",), "count")).value == {"n": 20}


def test_a_batch_that_read_what_was_changed_since_is_refused(board, monkeypatch):
    store, other = BlackboardStore(board), BlackboardStore(board)
    commit = board.commit

    def late(transaction):
        monkeypatch.undo()
        other.put(("n",), "k", {"v": "other"})
        return commit(transaction)

    for reading in (GetOp(("n",), "k"), SearchOp(("n",))):
        monkeypatch.setattr(board, "commit", late)
        with pytest.raises(Conflict):
            store.batch([reading, PutOp(("n",), "k", {"v": "mine"})])
        assert store.get(("n",), "k").value == {"v": "other"}
    monkeypatch.setattr(board, "commit", late)
    store.put(("n",), "k", {"v": "mine"})
    assert store.get(("n",), "k").value == {"v": "mine"}


def test_without_embeddings_a_query_goes_by_words(board):
    store = BlackboardStore(board)
    store.put(("notes",), "figs", {"text": "Ann likes figs and dates"})
    store.put(("notes",), "trains", {"text": "Trains to Vienna leave at noon"})
    found = store.search(("notes",), query="When do trains leave for Vienna?")
    assert [item.key for item in found] == ["trains", "figs"] and found[0].score > found[1].score
    assert len(store.search(("notes",), query="zebra")) == 2


def test_what_cannot_be_compared_does_not_match(board):
    store = BlackboardStore(board)
    store.put(("n",), "k", {"v": "text"})
    assert store.search(("n",), filter={"v": {"$gt": 3}}) == []
    with pytest.raises(ValueError, match=r"\$like"):
        store.search(("n",), filter={"v": {"$like": "t%"}})


def test_items_are_labelled_and_keep_their_making(board):
    label = Label.trusted("user:ann")
    store = BlackboardStore(board, label=label)
    store.put(("n",), "k", {"v": 1})
    made = store.get(("n",), "k").created_at
    store.put(("n",), "k", {"v": 2})
    again = store.get(("n",), "k")
    assert again.created_at == made <= again.updated_at
    assert [entry.label for entry in board.query(Predicate(topic_prefix="langgraph-store/"))] == [label]
    # Whoever reads what Ann alone may read cannot put it where everybody may.
    low = BlackboardStore(board, label=Label.trusted("user:bob"))
    with pytest.raises(LabelError):
        low.update(("n",), "k", lambda value: value)
    # That it ends what it does not read keeps nobody from putting something else.
    low.batch([PutOp(("n",), "k", None), PutOp(("n",), "other", {"v": 3})])
    assert [item.key for item in low.search(("n",))] == ["other"]


def test_a_namespace_that_others_would_split_is_refused(board):
    with pytest.raises(InvalidNamespaceError):
        BlackboardStore(board).batch([GetOp(("with.dot",), "k")])


class Count(TypedDict):
    n: Annotated[int, operator.add]


def test_a_graph_uses_it(board):
    def remember(state: Count, *, store):
        store.update(("graph",), "seen", one_more)
        return {"n": 1}

    graph = StateGraph(Count)
    graph.add_node("remember", remember)
    graph.add_edge(START, "remember")
    store = BlackboardStore(board)
    compiled = graph.compile(store=store)
    assert compiled.invoke({"n": 0}) == compiled.invoke({"n": 0}) == {"n": 1}
    assert store.get(("graph",), "seen").value == {"n": 2}
