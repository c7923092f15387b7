"""P15: a canary that strangers put into any place that a tool reads comes out labelled as theirs, errors included."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import BOTTOM, OWNER, Label
from agentsys.context import Context
from agentsys.errors import AgentsysError
from agentsys.labelled import Labelled
from agentsys.lake.lake import Lake
from agentsys.lake.tools import lake_tools
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.toolbox.files import files_tools
from agentsys.tools import Tool

CANARY = "canary_7f3a"
FILES = {
    "value.csv": f"town,people\n{CANARY},1\nOslo,2\n",
    "header.csv": f"town,{CANARY}\nRome,1\nOslo,2\n",
    f"{CANARY}.csv": "town,people\nRome,1\nOslo,2\n",
    "json.json": json.dumps([{"town": CANARY, "people": 1}, {"town": "Oslo", "people": 2}]),
}
PLANS = [
    "SELECT * FROM {table}",
    "SELECT count(*) AS n FROM {table}",
    "SELECT * FROM {table} WHERE 1 = 0",
    "SELECT CAST({first} AS INTEGER) FROM {table}",
    "SELECT error({first}) FROM {table}",
    "SELECT nothing FROM {table}",
    "nonsense",
]


def lake_of(folder: Path, name: str) -> Lake:
    (folder / "lake").mkdir()
    (folder / "lake" / name).write_text(FILES[name])
    return Lake.open(folder / "lake", cache=folder / "cache")


def surfaced(tools: list[Tool], calls: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str, Label]]:
    """Return of each call what it showed, a value or an error, and the label that it raised the caller's to."""
    found = []

    async def main(context: Context, _: Any) -> None:
        for name, arguments in calls:
            # A caller that nobody influenced, so that all of its label is this call's.
            context._label = BOTTOM
            try:
                shown = json.dumps((await context.call(name, **arguments)).value, default=str)
            except AgentsysError as error:
                shown = str(error)
            found.append((name, shown, context.label))

    async def run() -> None:
        with Board.open(":memory:") as board:
            result = await Runtime(board, ScriptedModel(str), tools=tools).run(main)
            assert result.status == "done", result.failure

    asyncio.run(run())
    return found


def faults(shown: list[tuple[str, str, Label]]) -> list[str]:
    """Return the canaries that came out as nobody's or the owner's."""
    return [
        f"{name} shows {text[:100]} as {label}"
        for name, text, label in shown
        if CANARY in text and not label.influencers - {OWNER}
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_canary_in_a_lake_comes_out_as_the_files(tmp_path: Path, name: str) -> None:
    lake = lake_of(tmp_path, name)
    (family,) = lake.families
    plans = [plan.format(table=family.name, first='"town"') for plan in PLANS]
    calls: list[tuple[str, dict[str, Any]]] = [("describe_family", {"family": family.name, "question": "towns"})]
    calls += [("run_query", {"plan": plan, "families": [family.name]}) for plan in plans]
    shown = surfaced(lake_tools(lake), calls)
    calls = [("describe_files", {"question": "towns"}), *(("query_files", {"sql": plan}) for plan in plans)]
    shown += surfaced(files_tools(lake), calls)
    assert any(CANARY in text for _, text, _ in shown), "the canary never surfaced"
    assert faults(shown) == []
    values = [label for tool_name, text, label in shown if "AGS-" not in text and tool_name != "describe_files"]
    assert all(any(who.startswith("file:") for who in label.influencers) for label in values)


def test_a_tool_that_gives_files_out_as_the_owners_is_caught(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, "value.csv")
    (describe, query) = lake_tools(lake)
    right = query.function

    def careless(plan: str, families: list[str]) -> Any:
        return Labelled(right(plan, families).value, Label.trusted())

    object.__setattr__(query, "function", careless)
    plan = f"SELECT * FROM {lake.families[0].name}"
    shown = surfaced([describe, query], [("run_query", {"plan": plan, "families": [lake.families[0].name]})])
    assert faults(shown)
