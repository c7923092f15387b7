"""What changed is stored and no more; every checkpoint reads as it was put, also after others were removed."""

import operator
from typing import Annotated, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph

from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardCorrupt
from agentsys.errors import ConfigurationError
from agentsys.langgraph.channels import LONGEST_CHAIN, ValueReader
from agentsys.langgraph.deltas import difference
from agentsys.langgraph.encoding import packed, unpacked
from agentsys.langgraph.saver import BlackboardSaver
from tests.langgraph.write_ownership import named

THREAD = named("growing")
STEPS = LONGEST_CHAIN + 8


class Log(TypedDict):
    lines: Annotated[list[str], operator.add]
    constant: str
    rounds: int


def append(old, new):
    return [*old, *(line for lines in new for line in lines)]


class DeltaLog(TypedDict):
    lines: Annotated[list[str], DeltaChannel(append)]
    rounds: int


def looping_graph(saver, state=Log):
    graph = StateGraph(state)
    graph.add_node("step", lambda now: {"lines": [f"line {now['rounds']} " * 20], "rounds": now["rounds"] + 1})
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda now: "step" if now["rounds"] < STEPS else "__end__")
    return graph.compile(checkpointer=saver)


@pytest.fixture
def board(tmp_path):
    with Board.open(tmp_path / "board.db") as board:
        yield board


def compiled_after(saver, state=Log):
    compiled = looping_graph(saver, state)
    compiled.invoke({"constant": "c" * 2_000, "lines": [], "rounds": 0}, {**THREAD, "recursion_limit": 2 * STEPS})
    return compiled


@given(st.binary(max_size=300), st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 40))
def test_a_difference_leads_to_the_new_bytes(old, before, after, cut):
    new = before + old[cut:] + after
    delta = difference(old, new)
    assert delta is None or delta.apply(old) == new


def test_growth_at_the_end_behind_a_longer_length_is_one_run():
    body = bytes(range(256)) * 4
    delta = difference(b"\x9f" + body, b"\xdc\x00\x10" + body + b"tail")
    assert delta is not None and (delta.length, delta.size) == (len(body), 3 + 4)


@given(st.binary(max_size=500))
def test_what_is_packed_is_unpacked(data):
    assert unpacked(packed(data)) == data


def test_every_checkpoint_reads_as_it_was_put(board):
    compiled = compiled_after(BlackboardSaver(board))
    another = looping_graph(BlackboardSaver(board))
    states = [state for state in another.get_state_history(THREAD) if "rounds" in state.values]
    for state in states:
        rounds = state.values["rounds"]
        assert state.values["lines"] == [f"line {number} " * 20 for number in range(rounds)]
        assert state.values["constant"] == "c" * 2_000
    assert len(states) == STEPS + 1
    assert compiled.get_state(THREAD).values["rounds"] == STEPS


def test_what_did_not_change_is_stored_once_and_what_grew_by_its_growth(board):
    compiled_after(BlackboardSaver(board))
    records = [entry.value["values"] for entry in board.query(Predicate(topic_prefix="langgraph/", type="checkpoint"))]
    assert sum("data" in record["constant"] for record in records if "constant" in record) == 1
    lines = [record["lines"] for record in records if "lines" in record]
    assert 1 < sum("base" not in line for line in lines if "data" in line) < STEPS / 4
    assert sum("base" in line for line in lines) > STEPS / 2


@pytest.mark.parametrize("newly_opened", [False, True])
def test_pruning_keeps_the_newest_whole(board, newly_opened):
    saver = BlackboardSaver(board)
    compiled = compiled_after(saver)
    before = compiled.get_state(THREAD)
    BlackboardSaver(board).prune(["growing"])
    if newly_opened:
        compiled = looping_graph(BlackboardSaver(board))
    assert compiled.get_state(THREAD).values == before.values
    assert len(list(compiled.get_state_history(THREAD))) == 1
    compiled.update_state(THREAD, {"lines": ["after"]}, as_node="step")
    assert looping_graph(BlackboardSaver(board)).get_state(THREAD).values["lines"][-2:] == [
        before.values["lines"][-1],
        "after",
    ]


def test_deleting_a_run_leaves_what_others_built_on_it(board):
    compiled = looping_graph(BlackboardSaver(board))
    first = {**THREAD, "recursion_limit": 2 * STEPS, "metadata": {"run_id": "first"}}
    compiled.invoke({"constant": "c", "lines": [], "rounds": 0}, first)
    second = {**THREAD, "metadata": {"run_id": "second"}}
    expected = compiled.invoke({"lines": ["more"]}, second)
    compiled.checkpointer.delete_for_runs(["first"])
    states = list(looping_graph(BlackboardSaver(board)).get_state_history(THREAD))
    assert states[0].values == expected
    assert {state.metadata["run_id"] for state in states} == {"second"}


def test_a_copied_thread_goes_on_by_itself(board):
    compiled = compiled_after(BlackboardSaver(board))
    compiled.checkpointer.copy_thread("growing", "copy")
    compiled.checkpointer.delete_thread("growing")
    assert compiled.get_state(THREAD).values == {}
    copied = compiled.get_state(named("copy"))
    assert copied.values["rounds"] == STEPS
    compiled.update_state(named("copy"), {"lines": ["after"]}, as_node="step")
    assert compiled.get_state(named("copy")).values["lines"][-1] == "after"


def test_a_copy_into_a_thread_that_went_on_leaves_it_where_it_is(board):
    compiled = compiled_after(BlackboardSaver(board))
    compiled.checkpointer.copy_thread("growing", "copy")
    compiled.update_state(named("copy"), {"lines": ["after"]}, as_node="step")
    compiled.checkpointer.copy_thread("growing", "copy")
    assert compiled.get_state(named("copy")).values["lines"][-1] == "after"


def test_delta_channels_survive_pruning(board):
    compiled = compiled_after(BlackboardSaver(board), DeltaLog)
    before = compiled.get_state(THREAD).values
    assert len(before["lines"]) == STEPS
    compiled.checkpointer.prune(["growing"])
    assert looping_graph(BlackboardSaver(board), DeltaLog).get_state(THREAD).values == before


def test_an_unknown_strategy_is_refused(board):
    with pytest.raises(ConfigurationError):
        BlackboardSaver(board).prune(["growing"], strategy="keep_some")


def test_a_missing_base_is_noticed(board):
    compiled_after(BlackboardSaver(board))
    transaction = board.begin("test")
    oldest = transaction.query(Predicate(topic_prefix="langgraph/", type="checkpoint"))[1]
    transaction.delete(oldest.topic, oldest.key, label=oldest.label)
    board.commit(transaction)
    with pytest.raises(BoardCorrupt):
        list(looping_graph(BlackboardSaver(board)).get_state_history(THREAD))


def test_the_newest_reads_alike_from_who_wrote_it_and_from_the_board(board, monkeypatch):
    saver = BlackboardSaver(board)
    compiled_after(saver)
    found = BlackboardSaver(board).get_tuple(THREAD)
    with monkeypatch.context() as without_reading:
        without_reading.delattr(ValueReader, "values")
        known = saver.get_tuple(THREAD)
    assert known.checkpoint == found.checkpoint
    assert known.pending_writes == found.pending_writes
