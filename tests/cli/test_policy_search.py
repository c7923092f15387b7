"""``agentsys tune`` and ``agentsys evolve`` from the command line."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.cli import policy_search
from agentsys.cli.app import app
from agentsys.errors import ConfigurationError
from agentsys.serving.simulator.workload import WorkloadSpec, generate
from agentsys.settings import Settings

EVOLVE = ("evolve", "--generations", "2", "--children", "2")


@pytest.fixture
def traces(tmp_path: Path) -> list[str]:
    arguments = []
    for option, seed in (("--training", 3), ("--held-out", 4)):
        file = tmp_path / f"{seed}.json"
        generate(WorkloadSpec(workflows=8, rate=4.0, length_scale=0.5, seed=seed)).save(file)
        arguments += [option, str(file)]
    return arguments


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_tune_prints_a_table_of_settings_and_writes_it_if_it_is_better(traces: list[str], tmp_path: Path) -> None:
    output = tmp_path / "tuned.toml"
    told = run("tune", "--trials", "3", *traces, "--output", str(output))
    Settings.model_validate(tomllib.loads(told["toml"]))
    assert told["accepted"] is (told["held_out_tuned"] < told["held_out_defaults"])
    assert output.exists() is told["accepted"]


def test_tune_keeps_the_defaults_where_nothing_better_was_found(traces: list[str], tmp_path: Path) -> None:
    output = tmp_path / "tuned.toml"
    result = CliRunner().invoke(app, ["tune", "--trials", "1", *traces, "--output", str(output)])
    assert "keep the defaults" in result.stderr
    assert not output.exists()


def test_evolve_is_the_same_for_the_same_seed_and_goes_on(traces: list[str], tmp_path: Path) -> None:
    state = str(tmp_path / "state.json")
    once = run(*EVOLVE, *traces, "--no-gate", "--state", state)
    assert once == run(*EVOLVE, *traces, "--no-gate")
    assert once == run(*EVOLVE, *traces, "--no-gate", "--state", state)
    assert once["accepted"] is (once["held_out_after"] < once["held_out_before"])
    other = CliRunner().invoke(app, [*EVOLVE, *traces, "--no-gate", "--state", state, "--seed", "1"])
    assert other.exit_code == 1
    assert "AGS-0474" in other.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["tune", "--output"],
        ["tune", "--study"],
        ["evolve", "--state"],
        ["bench", "compare", "before.json", "after.json", "--plot"],
    ],
)
@pytest.mark.parametrize("place", ["none/result", "file/result", "folder"])
def test_a_result_that_cannot_be_written_is_told_before_the_work(
    command: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(policy_search, "_traces", None)
    result = CliRunner().invoke(app, [*command, str(tmp_path / place)])
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (2, True)
    assert "AGS-0100" in result.stderr and f"{command[-1]} {tmp_path / place} cannot be written" in result.stderr
    assert set(tmp_path.rglob("*")) == {tmp_path / "file", tmp_path / "folder"}


@pytest.mark.parametrize("place", ["file", "file/results", "/proc/results"])
def test_a_benchmark_whose_result_cannot_be_written_does_not_begin(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["bench", "structure", "--output", str(tmp_path / place)])
    assert result.exit_code == 2 and "AGS-0100" in result.stderr and "cannot be written" in result.stderr
    assert not result.stdout


def test_a_benchmark_says_what_it_measures_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(options: object) -> None:
        raise ConfigurationError("It was measured.")

    monkeypatch.setattr("agentsys.benchmarks.structure.main", measured)
    told = CliRunner().invoke(app, ["bench", "structure", "--output", str(tmp_path)]).stderr.splitlines()
    assert told[0].startswith("structure: lengths of files") and "It was measured." in told[1]
