"""The saver passes LangGraph's own conformance suite, and what it holds survives the process."""

from langgraph.checkpoint.conformance import checkpointer_test, validate

from agentsys.blackboard.board import Board
from agentsys.checkpoints import BlackboardSaver


@checkpointer_test(name="BlackboardSaver")
async def blackboard_saver():
    with Board.open(":memory:") as board:
        yield BlackboardSaver(board)


async def test_langgraphs_conformance_suite():
    report = await validate(blackboard_saver)
    report.print_report()
    assert report.passed_all_base()
