"""KramaBench tasks answered by hand-written plans over the lake's own families, in the query sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentsys.lake.lake import Lake
from agentsys.lake.queries.plan import Plan, PlanStep
from agentsys.lake.queries.sandbox import QueryResult, QuerySandbox
from tests.e2e.oracle_plans import CHAINED, ENVIRONMENT_PLANS, LEGAL_PLANS, ORACLE_PLANS
from tests.e2e.scorer import is_right

KRAMABENCH = Path(__file__).parents[2].parent / "shared" / "data" / "kramabench"

pytestmark = pytest.mark.skipif(
    not KRAMABENCH.is_dir(), reason="the KramaBench files are not at ../shared/data/kramabench beside the checkout"
)

RunPlan = Callable[[str, Plan], QueryResult]


@pytest.fixture(scope="session")
def run_plan(lake_cache: Path) -> RunPlan:
    """Run a plan over a task's lake; each lake is opened once."""
    sandboxes: dict[str, QuerySandbox] = {}

    def run(task_id: str, plan: Plan) -> QueryResult:
        lake = task_id.partition("-")[0]
        if lake not in sandboxes:
            sandboxes[lake] = QuerySandbox(Lake.open(KRAMABENCH / "data" / lake / "input", cache=lake_cache).families)
        return sandboxes[lake].run(plan)

    return run


def gold(task_id: str) -> dict[str, Any]:
    tasks = json.loads((KRAMABENCH / "verified_tasks.json").read_text())["verified"]
    return next(task for task in tasks if task["id"] == task_id)


def value_of(result: QueryResult) -> Any:
    """Return the answer a result stands for: one value, or the list of its only column."""
    values = [row[0] if len(row) == 1 else list(row) for row in result.rows]
    return values[0] if len(values) == 1 else values


def run_task(task_id: str, run_plan: RunPlan) -> Any:
    return value_of(run_plan(task_id, ORACLE_PLANS[task_id]))


@pytest.mark.parametrize("task_id", sorted(ORACLE_PLANS))
def test_the_plan_gives_the_verified_answer(task_id: str, run_plan: RunPlan) -> None:
    expected = gold(task_id)
    answer = run_task(task_id, run_plan)
    assert is_right(expected["answer"], answer, expected["answer_type"]), f"{answer!r} is not {expected['answer']!r}"


def test_the_plans_span_both_lakes() -> None:
    assert len(ORACLE_PLANS) >= 12
    assert min(len(LEGAL_PLANS), len(ENVIRONMENT_PLANS)) >= 5
    assert len(CHAINED) >= 2
    assert ORACLE_PLANS.keys() >= CHAINED


@pytest.mark.parametrize("task_id", sorted(ORACLE_PLANS))
def test_no_answer_is_written_into_its_plan(task_id: str) -> None:
    answer = gold(task_id)["answer"]
    written = " ".join(step.sql for step in ORACLE_PLANS[task_id].steps).lower()
    for value in answer if isinstance(answer, list) else [answer]:
        assert str(value).lower() not in written


@pytest.mark.parametrize(
    ("task_id", "family", "files"),
    [
        ("legal-hard-24", "state_msa_identity_theft_data", ["California.csv"]),
        ("environment-hard-17", "water_body_testing", ["water-body-testing-2006.csv"]),
        ("environment-hard-17", "monthly_precipitations", ["monthly_precipitations_chatham.csv"]),
        ("environment-hard-20", "water_body_testing", ["water-body-testing-2015.csv"]),
    ],
)
def test_provenance_names_the_files_a_chain_arrived_at(
    task_id: str, family: str, files: list[str], run_plan: RunPlan
) -> None:
    sources = {source.family: source for source in run_plan(task_id, ORACLE_PLANS[task_id]).sources}
    assert [Path(file).name for file in sources[family].files] == files
    assert sources[family].narrowed


@pytest.mark.parametrize("task_id", sorted(CHAINED))
def test_a_chained_answer_follows_its_earlier_step(task_id: str, run_plan: RunPlan) -> None:
    plan = ORACLE_PLANS[task_id]
    *earlier, deciding, last = plan.steps
    turned = (
        deciding.sql.replace(" DESC", "") if " DESC" in deciding.sql else deciding.sql.replace("LIMIT", "DESC LIMIT")
    )
    other = Plan((*earlier, PlanStep(deciding.name, turned), last))
    assert value_of(run_plan(task_id, other)) != run_task(task_id, run_plan)
