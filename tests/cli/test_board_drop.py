"""Boards dropped on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.boards import run, write


def test_it_asks_and_says_what_went(tmp_path: Path) -> None:
    path = tmp_path / "team.db"
    write(path, 3)
    refused = run("drop", path, typed="n\n")
    assert refused.exit_code != 0 and "It holds 3 commits" in refused.stderr and path.exists()
    dropped = run("drop", path, typed="y\n")
    assert dropped.exit_code == 0 and "dropped 3 commits, ending with" in dropped.stdout and not path.exists()


def test_one_commit_is_told_as_one(tmp_path: Path) -> None:
    path = tmp_path / "team.db"
    write(path, 1)
    assert "1 commit, each" in run("verify", "--board", path).stdout
    assert "would drop: 0 commits," in run("compact", "--board", path, "--keep", "1", "--dry-run").stdout
    assert "1 commit, 0." in run("export", tmp_path / "export.jsonl", "--board", path).stdout
    write(tmp_path / "other.db", 1)
    erased = run("erase", "t", "k", "--yes", "--board", tmp_path / "other.db")
    assert "erased 1 value of 1 entry, on record" in erased.stdout
    verified = run("verify", "--board", tmp_path / "other.db")
    assert "2 commits, each as it was committed; 1 value was erased" in verified.stdout
    dropped = run("drop", path, typed="y\n")
    assert "It holds 1 commit. Drop" in dropped.stderr and "dropped 1 commit, ending" in dropped.stdout


def test_programs_are_told_in_json(tmp_path: Path) -> None:
    path = tmp_path / "team.db"
    write(path, 1)
    write(f"{path}?board=notes", 2)
    told = json.loads(run("drop", f"{path}?board=notes", "--yes", "--json").stdout)
    assert (told["head"], told["space_given_back"]) == (2, True)
    assert [item["board"] for item in json.loads(run("list", "--board", path, "--json").stdout)] == ["main"]


def test_one_that_is_not_there_is_told(tmp_path: Path) -> None:
    for given in ((), ("--yes",)):
        told = run("drop", tmp_path / "nothing.db", *given)
        assert told.exit_code == 1 and "AGS-0209" in told.stderr
    assert run("drop").exit_code == 2
