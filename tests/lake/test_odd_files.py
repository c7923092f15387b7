"""Files as people have them: what is odd about one must neither change an answer nor stop the lake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsys.lake.lake import Lake
from agentsys.lake.queries.sandbox import QuerySandbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "lake"
    made.mkdir()
    return made


def opened(folder: Path, **options: Any) -> Lake:
    return Lake.open(folder, cache=folder.parent / "cache", **options)


def answer(lake: Lake, sql: str) -> list[tuple[Any, ...]]:
    return list(QuerySandbox(lake.families).run(sql).rows)


def test_a_column_that_is_empty_in_one_file_keeps_the_type_that_it_has_in_the_others(folder: Path) -> None:
    (folder / "sales-2019.csv").write_text("day,shop,amount\n2019-01-01,a,9\n2019-01-02,b,7\n")
    (folder / "sales-2020.csv").write_text("day,shop,amount\n2020-01-01,a,10\n2020-01-02,b,8\n")
    (folder / "sales-2021.csv").write_text("day,shop,amount\n2021-01-01,a,\n2021-01-02,b,\n")
    lake = opened(folder)
    assert [(column.name, column.type) for column in lake.families[0].columns][-1] == ("amount", "BIGINT")
    assert answer(lake, "SELECT max(amount), sum(amount), count(*) FROM sales") == [(10, 34, 6)]


def test_a_column_of_numbers_here_and_of_truth_values_there_is_read_as_its_profile_says(folder: Path) -> None:
    (folder / "flags-2019.csv").write_text("day,shop,open\n2019-01-01,a,1\n2019-01-02,b,0\n")
    (folder / "flags-2020.csv").write_text("day,shop,open\n2020-01-01,a,true\n2020-01-02,b,false\n")
    lake = opened(folder)
    (column,) = [column for column in lake.families[0].columns if column.name == "open"]
    result = QuerySandbox(lake.families).run("SELECT open FROM flags ORDER BY day")
    assert result.types == (column.type,) and result.rows == (("1",), ("0",), ("true",), ("false",))
