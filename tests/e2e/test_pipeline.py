"""The whole pipeline on KramaBench: discovery by volunteering agents, a scripted planner, the sandbox, the record.

The planner is scripted: for each question it gives the hand-written plan. All else is the product's: which families
volunteer and are granted, the grammar of plans, the gateway, the sandbox, labels, provenance and the board.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.lake.agents import family_agents
from agentsys.lake.ask import ASK, ask_workflow
from agentsys.lake.lake import Lake
from agentsys.lake.planners import FreePlanner
from agentsys.lake.tools import lake_tools
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from tests.e2e.oracle_plans import ORACLE_PLANS
from tests.e2e.scorer import is_right

KRAMABENCH = Path(__file__).parents[2].parent / "shared" / "data" / "kramabench"

pytestmark = pytest.mark.skipif(
    not KRAMABENCH.is_dir(), reason="the KramaBench files are not at ../shared/data/kramabench beside the checkout"
)


def questions() -> dict[str, str]:
    tasks = [task for name in ("legal", "environment") for task in _json(KRAMABENCH / "workload" / f"{name}.json")]
    return {task["id"]: task["query"] for task in tasks if task["id"] in ORACLE_PLANS}


def gold(task_id: str) -> dict[str, Any]:
    return next(task for task in _json(KRAMABENCH / "verified_tasks.json")["verified"] if task["id"] == task_id)


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def lakes(lake_cache: Path) -> dict[str, Lake]:
    return {
        name: Lake.open(KRAMABENCH / "data" / name / "input", cache=lake_cache) for name in ("legal", "environment")
    }


NEEDS = {
    "environment-hard-20": (
        "TABLE water_body_testing",
        "water testing samples of beaches with violations",
    ),
    "legal-hard-24": ("TABLE state_rankings_fraud", "rankings of states by fraud and other reports"),
}
"""What a planner that misses a table asks for: the schema it looks for, and its words for the data."""


def planner(prompt: str) -> str:
    """Return the hand-written plan of the question in the prompt, or ask for the data it lacks."""
    task_id = next(task for task, question in questions().items() if question in prompt)
    schema, need = NEEDS.get(task_id, ("", ""))
    if schema not in prompt:
        return json.dumps({"need": need})
    return json.dumps(ORACLE_PLANS[task_id].to_json())


@pytest.fixture
async def runtimes(lakes: dict[str, Lake], tmp_path: Path) -> AsyncIterator[dict[str, Runtime]]:
    made = {
        name: Runtime(
            Board.open(tmp_path / f"{name}.db"),
            ScriptedModel(planner),
            agents=family_agents(lake),
            tools=lake_tools(lake),
            workflows=[ask_workflow(FreePlanner())],
        )
        for name, lake in lakes.items()
    }
    yield made
    for runtime in made.values():
        await runtime.close()


@pytest.mark.parametrize("task_id", sorted(ORACLE_PLANS))
async def test_the_run_gives_the_verified_answer(task_id: str, runtimes: dict[str, Runtime]) -> None:
    runtime = runtimes[task_id.partition("-")[0]]
    result = await runtime.run(ASK, {"question": questions()[task_id]})
    value, expected = result.value, gold(task_id)
    assert is_right(expected["answer"], value["answer"], expected["answer_type"]), value["answer"]
    read = {f"file:{file}" for source in value["sources"] for file in source["files"]}
    assert read and read <= result.label.influencers, "a file shaped the answer and is not in its label"
    assert (await runtime.replay(result.run)).identical
    runtime.board.verify()


async def test_a_question_that_nothing_matches_says_so(runtimes: dict[str, Runtime]) -> None:
    result = await runtimes["legal"].run(ASK, {"question": "zzyzx qwertyuiop?"})
    assert result.failure is not None
    assert result.failure.code == "AGS-0640"


async def test_a_need_that_nothing_meets_ends(runtimes: dict[str, Runtime], lakes: dict[str, Lake]) -> None:
    runtime = runtimes["legal"]
    runtime.model = ScriptedModel(lambda _: '{"need": "zzyzx qwertyuiop"}')
    result = await runtime.run(ASK, {"question": questions()["legal-easy-3"]})
    assert result.failure is not None
    assert result.failure.code == "AGS-0641"


async def test_a_failed_plan_goes_back_to_the_model_with_its_fault(lakes: dict[str, Lake], tmp_path: Path) -> None:
    question = questions()["legal-easy-3"]
    prompts: list[str] = []

    def slow_learner(prompt: str) -> str:
        prompts.append(prompt)
        return "SELECT nothing FROM nowhere" if len(prompts) < 3 else planner(prompt)

    runtime = Runtime(
        Board.open(tmp_path / "board.db"),
        ScriptedModel(slow_learner),
        agents=family_agents(lakes["legal"]),
        tools=lake_tools(lakes["legal"]),
        workflows=[ask_workflow(FreePlanner())],
    )
    result = await runtime.run(ASK, {"question": question})
    assert result.value["answer"] == pytest.approx(13.1628)
    assert "nowhere" in prompts[1] and "AGS-0542" in prompts[1]
    await runtime.close()
