"""Approvals on the board: asked, decided once, out of agents' reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsys import topics
from agentsys.approvals import AlreadyDecided, Approval, UnknownApproval
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel


@pytest.fixture
async def runtime(tmp_path: Path):
    async with Runtime(Board.open(tmp_path / "board.db"), ScriptedModel(str)) as made:
        transaction = made.board.begin("runtime", run="r")
        label = Label.trusted("web")
        Approval("a", "r", "main", "call", "send", {"to": "x"}, "integrity", "why", 1.0, label=label).write(transaction)
        made.board.submit(transaction).result()
        yield made


async def test_a_decision_is_made_once_and_keeps_the_label(runtime: Runtime):
    assert [one.id for one in runtime.approvals("pending", "r")] == ["a"]
    decided = await runtime.decide("a", "refuse", note="no")
    assert decided == runtime.approvals("refused")[0]
    assert (decided.decided_by, decided.note) == (OWNER, "no")
    assert decided.label.influencers == {"web", OWNER}
    with pytest.raises(AlreadyDecided):
        await runtime.decide("a", "approve")
    assert runtime.approvals("pending") == []


async def test_an_unknown_approval_is_refused(runtime: Runtime):
    with pytest.raises(UnknownApproval):
        await runtime.decide("b", "approve")


def test_the_topic_is_reserved():
    assert topics.is_reserved(topics.APPROVALS)
    assert topics.may_match_reserved(Predicate(topic_prefix="app"))
    assert not topics.may_match_reserved(Predicate(topic_prefix="notes/"))
