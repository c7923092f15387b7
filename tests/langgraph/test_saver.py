"""The saver passes every test and every optional capability of LangGraph's own conformance suite."""

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES

from agentsys.blackboard.board import Board
from agentsys.langgraph.saver import BlackboardSaver


@pytest.mark.parametrize("forks", ["refuse", "allow"])
async def test_langgraphs_conformance_suite(forks):
    @checkpointer_test(name=f"BlackboardSaver, forks {forks}")
    async def blackboard_saver():
        with Board.open(":memory:") as board:
            yield BlackboardSaver(board, forks=forks)

    report = await validate(blackboard_saver)
    failures = {name: result.failures for name, result in report.results.items() if result.failures}
    assert failures == {}
    assert {name for name, result in report.results.items() if result.passed} == {
        item.value for item in ALL_CAPABILITIES
    }
