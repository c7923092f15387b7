"""The life of an effect, and what a new epoch may repeat."""

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import (
    EffectClass,
    EffectIntent,
    EffectMismatch,
    EffectRefused,
    EffectState,
)
from agentsys.blackboard.labels import Label


def intent(effect_class: EffectClass, *, identity: str = "e1", arguments: object = "now") -> EffectIntent:
    return EffectIntent(identity, "r1", "s1", "send", effect_class, {"when": arguments}, Label())


def plan(board: Board, wanted: EffectIntent) -> None:
    tx = board.begin("agent", run="r1")
    tx.plan_effect(wanted)
    board.commit(tx)


def test_an_effect_runs_from_intent_to_outcome(board: Board) -> None:
    tx = board.begin("agent", run="r1")
    tx.put("notes", "sending", 1, type="note")
    tx.plan_effect(intent(EffectClass.IRREVERSIBLE))
    assert board.commit(tx).effects[0].state is EffectState.INTENDED
    started = board.start_effect("e1")
    assert (started.state, started.attempt, started.epoch) == (EffectState.STARTED, 1, board.epoch)
    done = board.finish_effect("e1", "succeeded", {"id": 7}, Label())
    assert (done.state, done.result, done.result_label) == (EffectState.SUCCEEDED, {"id": 7}, Label())
    assert board.effects(run="r1") == [done] == board.effects(state="succeeded")
    assert board.effects(state="started") == [] and board.effect("e1") == done
    assert [commit.effects[0].state.value for commit in board.log()] == ["intended", "started", "succeeded"]
    assert all(commit.run == "r1" for commit in board.log())
    assert board.verify() == 3


def test_planning_twice_is_harmless_and_planning_differently_is_not(board: Board) -> None:
    plan(board, intent(EffectClass.PURE))
    board.start_effect("e1")
    plan(board, intent(EffectClass.PURE))
    effect = board.effect("e1")
    assert effect is not None and effect.state is EffectState.STARTED
    with pytest.raises(EffectMismatch, match="AGS-0217"):
        plan(board, intent(EffectClass.PURE, arguments="later"))


def test_the_arguments_are_as_they_were_when_the_effect_was_planned(board: Board) -> None:
    when = ["now"]
    tx = board.begin("agent", run="r1")
    tx.plan_effect(intent(EffectClass.PURE, arguments=when))
    when.append("later")
    assert board.commit(tx).effects[0].intent.arguments == {"when": ["now"]}


def test_a_rolled_back_effect_was_never_planned(board: Board) -> None:
    tx = board.begin("agent")
    mark = tx.savepoint()
    tx.plan_effect(intent(EffectClass.PURE))
    tx.rollback_to(mark)
    tx.put("notes", "a", 1, type="note")
    board.commit(tx)
    assert board.effects() == []


def test_an_outcome_commits_with_the_writes_that_follow_from_it(board: Board) -> None:
    plan(board, intent(EffectClass.IDEMPOTENT))
    board.start_effect("e1")
    tx = board.begin("agent")
    tx.finish_effect("e1", "failed", "no route", Label())
    tx.put("notes", "failed", 1, type="note")
    commit = board.commit(tx)
    assert len(commit.writes) == len(commit.effects) == 1
    assert board.start_effect("e1").attempt == 2


def test_one_transaction_can_take_several_steps(board: Board) -> None:
    tx = board.begin("agent")
    tx.plan_effect(intent(EffectClass.PURE))
    tx.start_effect("e1")
    tx.finish_effect("e1", "succeeded", 1, Label())
    assert [effect.state.value for effect in board.commit(tx).effects] == ["intended", "started", "succeeded"]
    assert [effect.state.value for effect in board.effects()] == ["succeeded"]
    assert board.verify() == 1


@pytest.mark.parametrize("effect_class", list(EffectClass))
def test_nothing_starts_twice_in_one_epoch(board: Board, effect_class: EffectClass) -> None:
    plan(board, intent(effect_class))
    board.start_effect("e1")
    with pytest.raises(EffectRefused, match="AGS-0216"):
        board.start_effect("e1")


@pytest.mark.parametrize("effect_class", list(EffectClass))
def test_after_a_crash_only_what_is_repeatable_restarts(location: str, effect_class: EffectClass) -> None:
    with Board.open(location) as board:
        first = board.epoch
        plan(board, intent(effect_class))
        board.start_effect("e1")
    with Board.open(location) as board:
        assert [effect.epoch for effect in board.effects(state="started")] == [first] and board.epoch == first + 1
        if effect_class.repeatable:
            assert (board.start_effect("e1").attempt, board.effects()[0].epoch) == (2, first + 1)
            return
        with pytest.raises(EffectRefused):
            board.start_effect("e1")
        assert board.finish_effect("e1", "in_doubt").state is EffectState.IN_DOUBT
        with pytest.raises(EffectRefused):
            board.start_effect("e1")
        assert board.finish_effect("e1", "succeeded").state is EffectState.SUCCEEDED


def test_only_compensable_effects_are_compensated(board: Board) -> None:
    for effect_class in (EffectClass.COMPENSABLE, EffectClass.IRREVERSIBLE):
        plan(board, intent(effect_class, identity=effect_class))
        board.start_effect(effect_class)
        board.finish_effect(effect_class, "succeeded")
    assert board.finish_effect("compensable", "compensated").state is EffectState.COMPENSATED
    with pytest.raises(EffectRefused):
        board.finish_effect("irreversible", "compensated")


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "in_doubt", "compensated"])
def test_an_effect_that_did_not_start_has_no_outcome(board: Board, outcome: str) -> None:
    plan(board, intent(EffectClass.COMPENSABLE))
    with pytest.raises(EffectRefused):
        board.finish_effect("e1", outcome)
    with pytest.raises(EffectRefused, match="never planned"):
        board.finish_effect("e2", outcome)
