"""The discovery benchmark's own parts, on a generated lake with one planted miss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentsys.benchmarks import discovery
from agentsys.benchmarks.harness import Options
from agentsys.errors import ConfigurationError
from agentsys.lake import lake as lake_module

PATHS = ["in/A.csv", "in/By State/Ohio.csv", "in/By State/Utah.csv", "in/names.html"]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("a.CSV", {"in/A.csv"}),
        ("By State/*.csv", {"in/By State/Ohio.csv", "in/By State/Utah.csv"}),
        ("by state/*.csv", {"in/By State/Ohio.csv", "in/By State/Utah.csv"}),
        ("all csv in By State/", {"in/By State/Ohio.csv", "in/By State/Utah.csv"}),
        ("in/names.html", {"in/names.html"}),
        ("absent.csv", set()),
    ],
)
def test_sources_resolve_to_files(source: str, files: set[str]) -> None:
    assert discovery.gold_files([source], PATHS) == files


def write_data(folder: Path, gold: str) -> None:
    for name in discovery.LAKES:
        files = folder / "data" / name / "input"
        files.mkdir(parents=True)
        (files / "rivers.csv").write_text("river,length\nRhine,1230\nElbe,1094\n")
        (files / "mountains.csv").write_text("mountain,height\nZugspitze,2962\nWatzmann,2713\n")
        tasks = [
            {"id": f"{name}-{number}", "query": "How long is the river Elbe?", "data_sources": [gold]}
            for number in (1, 2)
        ]
        (folder / "workload").mkdir(exist_ok=True)
        (folder / "workload" / f"{name}.json").write_text(json.dumps(tasks))
    verified = [{"id": f"{name}-{number}"} for name in discovery.LAKES for number in (1, 2)]
    (folder / "verified_tasks.json").write_text(json.dumps({"verified": verified}))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_module, "default_cache", lambda: tmp_path / "cache")


def test_right_files_meet_the_bars(tmp_path: Path) -> None:
    write_data(tmp_path, "Rivers.csv")
    result = discovery.main(Options(arguments={"data": str(tmp_path)}))
    assert all(bar.met for bar in result.bars)
    assert [row[3] for row in result.rows] == [1.0] * len(result.rows)


def test_a_planted_miss_fails_the_bar(tmp_path: Path) -> None:
    write_data(tmp_path, "mountains.csv")
    result = discovery.main(Options(arguments={"data": str(tmp_path)}))
    assert not any(bar.met for bar in result.bars if bar.name.startswith("recall"))


def test_absent_data_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no KramaBench data"):
        discovery.main(Options(arguments={"data": str(tmp_path)}))


def test_initials_of_a_name_meet_a_short_file_name(tmp_path: Path) -> None:
    folder = tmp_path / "initials"
    folder.mkdir()
    (folder / "sf-temps.csv").write_text("day,temp\n2010-01-01,47.8\n2010-01-02,45.1\n")
    (folder / "seattle-temps.csv").write_text("temp,day,wind,place\n39.4,2010-01-01,2,pier\n39.2,2010-01-02,3,pier\n")
    lake = lake_module.Lake.open(folder, cache=tmp_path / "cache")
    best = lake.index.offer("What was the highest temperature in San Francisco?")[0]
    assert best.family.files == ["sf-temps.csv"]
