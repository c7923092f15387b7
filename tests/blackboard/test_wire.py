"""Requests and answers as they cross machines."""

import json
import math
import signal
from enum import StrEnum

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


class Mode(StrEnum):
    FAST = "fast"


def test_what_is_a_text_or_a_number_by_kinship_is_sent_as_one(postgres_board: str) -> None:
    with Board.open(postgres_board) as leading, Board.open(postgres_board) as following:
        for board in (leading, following):
            tx = board.begin("user:ann")
            arguments = {"mode": Mode.FAST, "signal": signal.SIGINT}
            effect = EffectIntent(f"e{board.epoch}", "r", "s", "t", EffectClass.PURE, arguments, tx.reads_label)
            tx.plan_effect(effect)
            board.submit(tx).result(20)
        assert [effect.intent.arguments for effect in leading.effects()] == [{"mode": "fast", "signal": 2}] * 2


def test_what_cannot_be_sent_or_read_fails_alone(postgres_board: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Board.open(postgres_board), Board.open(postgres_board) as following:
        tx = following.begin("user:ann")
        tx.plan_effect(EffectIntent("e", "r", "half a character: \ud800", "t", EffectClass.PURE, {}, tx.reads_label))
        with pytest.raises(StorageFailed, match="cannot be sent: UnicodeEncodeError"):
            following.submit(tx).result(20)
        asked = following._committer._queue
        collect = asked.collect
        monkeypatch.setattr(asked, "collect", lambda: dict.fromkeys(collect(), '{"LaterKind":[1]}'))
        tx = following.begin("user:ann")
        tx.put("t", "k", 1, type="note")
        with pytest.raises(StorageFailed, match="answer cannot be read: KeyError"):
            following.submit(tx).result(20)
        monkeypatch.undo()
        assert following.submit(tx).result(20).seq == 1


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
