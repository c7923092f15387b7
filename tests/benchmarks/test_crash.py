"""Killing processes that write and act: nothing is lost, halved or doubled, and each planted fault is caught."""

from dataclasses import replace

import pytest

from agentsys.benchmarks.crash.faults import gaps, halves, losses, wrong_effects
from agentsys.benchmarks.crash.planted import FAULTS
from agentsys.benchmarks.crash.trial import PROCESSES, SERVER, run_trial
from agentsys.benchmarks.postgres_server import OWN, running_server
from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect, EffectClass, EffectIntent, EffectState
from agentsys.blackboard.labels import Label

KILLS = 10
CERTAIN = 5
"""Trials within which a fault that shows only when the kill falls into the right moment has shown."""


def test_kills_of_leader_and_others_lose_halve_and_double_nothing() -> None:
    trial = run_trial(KILLS, seed=3)
    assert trial.faults == []
    assert sum(len(times) for times in trial.recoveries.values()) == KILLS
    assert trial.kills == KILLS + PROCESSES and trial.leaders > 0 and trial.commits > KILLS
    assert trial.effects["succeeded"] > 0 and trial.effects["started"] == 0


def test_kills_of_the_database_server_lose_halve_and_double_nothing() -> None:
    with running_server() as server:
        trial = run_trial(6, seed=3, server=OWN, killable=server)
    assert trial.faults == []
    assert len(trial.recoveries[SERVER]) == trial.servers == 2 and trial.commits > 6
    assert trial.effects["started"] == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    assert any(run_trial(KILLS, seed=seed, fault=fault).faults for seed in range(CERTAIN))


COMMIT = Commit(3, "t", "p", None, 0, "serializable", 0.0, (), (), (), "", "")


def test_losses_halves_and_gaps_are_seen() -> None:
    assert list(losses({"t": 3}, [COMMIT])) == []
    assert len([*losses({"t": 4}, [COMMIT]), *losses({"u": 3}, [COMMIT])]) == 2
    assert list(halves({"a": 1}, {"a": 1})) == []
    assert len(list(halves({"a": 2, "b": 1}, {"a": 1}))) == 2
    assert list(gaps(["a/000001", "a/000002", "b/000001"])) == []
    assert len(list(gaps(["a/000001", "a/000003", "b/000002"]))) == 2


@pytest.mark.parametrize(
    ("effect_class", "state", "acknowledged", "done", "wrong"),
    [
        (EffectClass.IRREVERSIBLE, "succeeded", "succeeded", 1, False),
        (EffectClass.IDEMPOTENT, "succeeded", "succeeded", 2, False),
        (EffectClass.IRREVERSIBLE, "in_doubt", None, 1, False),
        (EffectClass.IRREVERSIBLE, "in_doubt", None, 0, False),
        (EffectClass.QUERYABLE, "failed", None, 0, False),
        (EffectClass.IRREVERSIBLE, "succeeded", "succeeded", 2, True),
        (EffectClass.QUERYABLE, "in_doubt", None, 2, True),
        (EffectClass.IRREVERSIBLE, "succeeded", None, 0, True),
        (EffectClass.IRREVERSIBLE, "intended", None, 1, True),
        (EffectClass.QUERYABLE, "failed", None, 1, True),
        (EffectClass.IDEMPOTENT, "started", None, 0, True),
        (EffectClass.IRREVERSIBLE, "in_doubt", "succeeded", 1, True),
    ],
)
def test_what_is_wrong_with_an_effect_is_seen(
    effect_class: EffectClass, state: str, acknowledged: str | None, done: int, wrong: bool
) -> None:
    intent = EffectIntent("e", None, "s", "t", effect_class, {}, Label())
    effect = Effect(intent, EffectState(state), 1, 1, None, None, 1, 0.0)
    outcomes = {} if acknowledged is None else {"e": acknowledged}
    assert bool(list(wrong_effects([effect], outcomes, ["e"] * done))) == wrong
    unknown = replace(effect, intent=replace(intent, id="other"), state=EffectState.INTENDED)
    assert list(wrong_effects([unknown], {}, ["e"])) == ["effect e was done and is not on record"]
