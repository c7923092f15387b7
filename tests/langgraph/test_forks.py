"""LangGraph's own forks and time travel work under write ownership; a fork that comes too late is refused."""

import operator
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import StateUpdate

from agentsys.blackboard.board import Board
from agentsys.langgraph.ownership import StaleCheckpoint
from agentsys.langgraph.saver import BlackboardSaver
from tests.langgraph.write_ownership import ASYNC_CHECKS, named

THREAD = named("forked")


class Path(TypedDict):
    steps: Annotated[list[str], operator.add]


def walking_graph(saver):
    graph = StateGraph(Path)
    graph.add_node("first", lambda state: {"steps": ["first"]})
    graph.add_node("second", lambda state: {"steps": ["second"]})
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    return graph.compile(checkpointer=saver)


@pytest.fixture(params=["refuse", "allow"])
def saver(request, tmp_path):
    with Board.open(tmp_path / "board.db") as board:
        yield BlackboardSaver(board, forks=request.param)


@pytest.fixture
def walked(saver):
    compiled = walking_graph(saver)
    compiled.invoke({"steps": ["begin"]}, THREAD)
    return compiled


def before_second(compiled):
    return next(state for state in compiled.get_state_history(THREAD) if state.next == ("second",))


def steps(compiled):
    return compiled.get_state(THREAD).values["steps"]


def test_an_update_of_an_old_checkpoint_begins_a_branch(walked):
    old = before_second(walked)
    branch = walked.update_state(old.config, {"steps": ["other"]}, as_node="first")
    walked.invoke(None, branch)
    assert steps(walked) == ["begin", "first", "other", "second"]
    assert walked.get_state(old.config).values["steps"] == ["begin", "first"]


def test_a_replay_from_an_old_checkpoint_begins_a_branch(walked):
    walked.invoke(None, before_second(walked).config)
    assert steps(walked) == ["begin", "first", "second"]
    assert [state.metadata["source"] for state in walked.get_state_history(THREAD)].count("fork") == 1


def test_new_input_at_an_old_checkpoint_begins_a_branch(walked):
    walked.invoke({"steps": ["again"]}, before_second(walked).config)
    assert steps(walked)[:3] == ["begin", "first", "again"]


def test_a_checkpoint_can_be_copied(walked):
    old = before_second(walked)
    copied = walked.bulk_update_state(old.config, [[StateUpdate(None, "__copy__")]])
    assert walked.get_state(copied).values == old.values
    assert walked.get_state(THREAD).config["configurable"]["checkpoint_id"] == copied["configurable"]["checkpoint_id"]


def test_the_claim_does_not_enter_the_metadata(walked):
    state = walked.get_state(THREAD)
    walked.invoke({"steps": []}, state.config)
    assert not [name for state in walked.get_state_history(THREAD) for name in state.metadata if "claim" in name]


def put_by_hand(saver, config, like):
    return saver.put(config, {**like.checkpoint, "id": f"{like.checkpoint['id'][:-1]}z"}, like.metadata, {})


def test_a_fork_is_refused_if_the_thread_moved_on_since_it_was_read(walked):
    saver = walked.checkpointer
    read = saver.get_tuple(before_second(walked).config)
    walked.invoke({"steps": ["meanwhile"]}, THREAD)
    if saver._forks == "allow":
        put_by_hand(saver, read.config, read)
        return
    with pytest.raises(StaleCheckpoint) as refused:
        put_by_hand(saver, read.config, read)
    assert refused.value.code == "AGS-0240"
    with pytest.raises(StaleCheckpoint):
        saver.put_writes(read.config, [("steps", ["late"])], "task")
    assert steps(walked)[-3:] == ["meanwhile", "first", "second"]


def test_what_names_no_claim_must_name_the_head(walked):
    saver = walked.checkpointer
    newest, old = saver.get_tuple(THREAD), saver.get_tuple(before_second(walked).config)

    def without_claim(found):
        plain = found.config["configurable"]
        return {"configurable": {name: plain[name] for name in ("thread_id", "checkpoint_ns", "checkpoint_id")}}

    if saver._forks == "refuse":
        with pytest.raises(StaleCheckpoint):
            put_by_hand(saver, without_claim(old), newest)
    put_by_hand(saver, without_claim(newest), newest)


@pytest.mark.parametrize("check", ASYNC_CHECKS, ids=lambda check: check.__name__)
async def test_the_ownership_checks_notice_forks_that_are_allowed(check):
    with Board.open(":memory:") as board, pytest.raises(AssertionError):
        await check(BlackboardSaver(board, forks="allow"))
