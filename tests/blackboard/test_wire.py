"""Requests and answers as they cross machines."""

import json
import math

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.merges import Add, Discard, Insert
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardFull, StorageFailed
from agentsys.blackboard.wire import from_text, to_text


def test_requests_commits_and_conflicts_survive(postgres_board: str) -> None:
    with Board.open(postgres_board) as board:
        setup = board.begin("user:ann")
        setup.put("t", "k", {"a": [1, 1.0, True, None, "ü"]}, type="note")
        commit = board.commit(setup)
        assert from_text(to_text(commit)) == commit
        tx = board.begin("user:ann", run="r", urgency=math.inf)
        tx.get("t", "k")
        tx.get("t", "absent")
        tx.query(Predicate(topic="t", equals={"a": 1}))
        tx.merge("t", "count", Add(2), type="count")
        tx.merge("t", "set", Insert((1, "b")), type="set")
        tx.merge("t", "set", Discard((1,)), type="set")
        tx.plan_effect(EffectIntent("e", "r", "s", "t", EffectClass.PURE, {"x": [1]}, tx.reads_label))
        tx.start_effect("e")
        request = tx.seal(board.epoch)
        assert from_text(to_text(request)) == request
        overtaking = board.begin("user:ann")
        overtaking.put("t", "k", 2, type="note")
        board.commit(overtaking)
        with pytest.raises(Conflict) as caught:
            board.commit(tx)
        copy = from_text(to_text(caught.value))
        assert (copy.tx_id, copy.items, str(copy)) == (caught.value.tx_id, caught.value.items, str(caught.value))


def test_errors_arrive_as_what_they_are() -> None:
    error = from_text(to_text(BoardFull("The disk is full.")))
    assert type(error) is BoardFull and error.message == "The disk is full."
    assert type(from_text('{"error":["AGS-9999","?"]}')) is StorageFailed


@pytest.mark.parametrize("text", ['{"Path":["/"]}', '{"eval":["1"]}', '{"Commit":[]}', "{}", "no json"])
def test_what_is_not_listed_is_not_built(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_text(text)
    with pytest.raises(TypeError):
        to_text(json)
