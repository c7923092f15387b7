"""``query_files``: SQL over a folder, without reach beyond it, labelled by the files that were read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.lake.lake import Lake
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.toolbox.files import files_tools


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "towns.csv").write_text("town,people\nBarnstable,48916\nChatham,6594\nTruro,2454\n")
    (folder / "rain.csv").write_text("place,month,inches\nBarnstable,june,3.1\nTruro,june,2.9\n")
    return Lake.open(folder, cache=tmp_path / "cache")


async def test_a_model_can_find_the_tables_and_ask_them(lake: Lake) -> None:
    async def workflow(context: Any, sql: Any) -> Any:
        described = (await context.call("describe_files", question="people")).value
        assert "TABLE towns" in described and "people" in described
        return (await context.call("query_files", sql=sql)).value

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=files_tools(lake), workflows=[workflow])
        result = await runtime.run("workflow", "SELECT town FROM towns ORDER BY people LIMIT 1")
        assert result.value["rows"] == [["Truro"]] and result.value["sources"][0]["files"] == ["towns.csv"]
        assert "file:towns.csv" in result.label.influencers
        for forbidden in ("SELECT * FROM read_text('/etc/passwd')", "DROP TABLE towns", "SELECT * FROM nowhere"):
            failed = await runtime.run("workflow", forbidden)
            assert failed.failure is not None and "AGS-054" in failed.failure.message


async def test_a_result_is_labelled_by_the_files_it_was_read_from(lake: Lake) -> None:
    query = next(one for one in files_tools(lake) if one.name == "query_files")
    result = query.function(sql="SELECT count(*) FROM rain")
    assert result.value["rows"] == [[2]] and result.label.influencers == {"file:rain.csv"}
    assert query.source is not None and query.source.influencers == {"file:rain.csv", "file:towns.csv"}
