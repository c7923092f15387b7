"""Exports, imports, backups and restores, on both databases and beside a writer; and copies that must be refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep, plan
from agentsys.blackboard.copies import (
    NoBackup,
    OtherHead,
    TargetExists,
    back_up,
    check_export,
    export_board,
    export_to_stream,
    import_board,
    restore,
)
from agentsys.blackboard.dropping import drop_board
from agentsys.blackboard.effects import EffectClass, EffectIntent
from agentsys.blackboard.labels import Label
from agentsys.blackboard.lock import BoardBusy
from agentsys.blackboard.portable import BadExport
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import BoardMissing, ChainBroken, SchemaTooNew, StorageFailed
from agentsys.errors import BoardError

MINE = Label.trusted("ann")
RECORDED = Path(__file__).parents[2] / "ui" / "recorded" / "demo.db"
WRITER = Path(__file__).with_name("committer_process.py")


def quietly(done: int, total: int) -> None:
    assert 0 <= done <= total


def fill(board: Board, prefix: str = "e", count: int = 5) -> None:
    """Write entries with several versions, a deletion, effects and a subscription that moved."""
    subscription = board.subscribe("reader", Predicate(topic="t"))
    for number in range(count):
        tx = board.begin("ann", run=f"r{number % 2}")
        tx.get("t", "k")
        tx.put("t", "k", {"n": number, "text": "ümlaut \u2028 \x00"}, type="item", label=MINE)
        tx.put("t", f"k{number}", [number, 0.1, None], type="item", label=MINE)
        intent = EffectIntent(f"{prefix}{number}", "r", "s", "send", EffectClass.IRREVERSIBLE, {"n": number}, MINE)
        tx.plan_effect(intent)
        board.commit(tx)
        board.start_effect(f"{prefix}{number}")
        board.finish_effect(f"{prefix}{number}", "in_doubt" if number % 2 else "succeeded", {"value": number}, MINE)
    commits = subscription.poll()
    tx = board.begin("ann")
    tx.delete("t", "k0")
    tx.advance(subscription, commits[-1].seq)
    board.commit(tx)


def contents(location: str | Path) -> dict[str, Any]:
    with Board.open_read_only(location) as board:
        head = board.verify()
        log = board.log()
        return {
            "head": head,
            "log": log,
            "effects": board.effects(),
            "cursor": board.cursor("reader"),
            "now": board.query(Predicate()),
            "then": board.query(Predicate(), at=max(board.horizon, head // 2)),
            "epoch": board.epoch,
        }


@pytest.fixture
def filled(location: str) -> str:
    with Board.open(location) as board:
        fill(board)
    return location


@contextmanager
def other_place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give a place for one more board; the fixture has one address only."""
    if kind == "sqlite":
        yield str(tmp_path / "other" / "board.db")
        return
    url: str = request.getfixturevalue("postgres_url")
    name = f"copy_{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"
    try:
        yield f"{url}{'&' if '?' in url else '?'}board={name}&lease=1"
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA IF EXISTS agentsys_{name} CASCADE")


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_export_makes_the_same_board_on_either_database(
    filled: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = tmp_path / "board.jsonl"
    exported = export_board(filled, file, quietly)
    with other_place(kind, tmp_path, request) as place:
        imported = import_board(file, place, quietly, head_hash=exported.head_hash)
        assert (imported.commits, imported.head_hash) == (exported.commits, exported.head_hash)
        assert contents(place) == contents(filled)
        again = tmp_path / "again.jsonl"
        export_board(place, again, quietly)
        first, second = [lines_of(read)[1:-1] for read in (file, again)]
        assert first == second, "line for line, but for when it was exported"
        with Board.open(place) as board:
            assert board.epoch > contents(filled)["epoch"], "no number of an opening comes twice"
            tx = board.begin("ann")
            tx.put("t", "k", "more", type="item")
            board.commit(tx)
            assert board.verify() == imported.commits + 1


def test_nothing_is_left_of_an_import_that_is_refused(
    filled: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = tmp_path / "board.jsonl"
    export_board(filled, file, quietly)
    for kind in ("sqlite", "postgres"):
        with other_place(kind, tmp_path, request) as place:
            with pytest.raises(ChainBroken):
                import_board(tampered(file, forged=True), place, quietly)
            with pytest.raises(BoardMissing):
                Board.open_read_only(place)
            import_board(file, place, quietly)
            with pytest.raises(TargetExists):
                import_board(file, place, quietly)
    assert [path.name for path in (tmp_path / "other").iterdir() if "partial" in path.name] == []
    with psycopg.connect(request.getfixturevalue("postgres_url")) as connection:
        left = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname LIKE 'agentsys\\_import%'").fetchall()
    assert left == []


def lines_of(file: Path) -> list[str]:
    # Text has line breaks of its own, which end no line of the file.
    with file.open(newline="\n") as opened:
        return list(opened)


def tampered(file: Path, *, forged: bool) -> Path:
    """Alter one value on its way; a forger also makes the digest right, and cannot make the chain right."""
    lines = lines_of(file)
    (place,) = [number for number, line in enumerate(lines) if '"k3"' in line and "[3,0.1,null]" in line]
    lines[place] = lines[place].replace("[3,0.1,null]", "[4,0.1,null]")
    if forged:
        lines = sealed(lines[:-1])
    other = file.with_name("tampered.jsonl")
    other.write_text("".join(lines))
    return other


def sealed(lines: list[str]) -> list[str]:
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return [*lines, json.dumps({"end": {"lines": len(lines), "sha256": digest}}) + "\n"]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    with Board.open(tmp_path / "source.db") as board:
        fill(board)
    export_board(tmp_path / "source.db", tmp_path / "board.jsonl", quietly)
    return tmp_path / "board.jsonl"


def changed_header(lines: list[str], **changes: Any) -> list[str]:
    return sealed([json.dumps({**json.loads(lines[0]), **changes}) + "\n", *lines[1:-1]])


def changed_column(lines: list[str], table: str, column: str, value: Any) -> list[str]:
    """Return an export in which every row of a table has ``value`` in a column."""
    made, columns, changing = [lines[0]], list[str](), False
    for line in lines[1:-1]:
        content = json.loads(line)
        if isinstance(content, dict):
            columns, changing = content["columns"], content["table"] == table
        elif changing:
            content[columns.index(column)] = value
        made.append(json.dumps(content) + "\n")
    return sealed(made)


FAULTS: dict[str, tuple[Callable[[list[str]], list[str]], type[BoardError]]] = {
    "empty": (lambda lines: [], BadExport),
    "cut off": (lambda lines: lines[:-3], BadExport),
    "no end": (lambda lines: lines[:-1], BadExport),
    "a line lost": (lambda lines: lines[:5] + lines[6:], BadExport),
    "a line twice": (lambda lines: [*lines[:5], *lines[4:]], BadExport),
    "more after the end": (lambda lines: [*lines, "[]\n"], BadExport),
    "no JSON": (lambda lines: sealed([*lines[:4], "{\n", *lines[5:-1]]), BadExport),
    "another format": (lambda lines: changed_header(lines, format="x"), BadExport),
    "a later version": (lambda lines: changed_header(lines, version=2), BadExport),
    "a later schema": (lambda lines: changed_header(lines, schema=99), SchemaTooNew),
    "a schema that is no number": (lambda lines: changed_header(lines, schema="2"), BadExport),
    "rows that are no number": (lambda lines: changed_header(lines, rows=None), BadExport),
    "nested too deep": (lambda lines: ["[" * 100_000 + "\n", *lines[1:]], BadExport),
    "no columns": (lambda lines: sealed([*lines[:-1], '{"table":"board","columns":1}\n']), BadExport),
    "no hash": (lambda lines: sealed(['{"format":"agentsys-board","version":1}\n', *lines[1:-1]]), BadExport),
    "another head": (lambda lines: changed_header(lines, head_hash="0" * 64), BadExport),
    "fewer rows": (lambda lines: changed_header(lines, rows=1), BadExport),
    "a foreign table": (
        lambda lines: sealed([*lines[:-1], '{"table":"x","columns":["sql"]}\n']),
        BadExport,
    ),
    "a foreign column": (lambda lines: sealed([*lines[:-1], '{"table":"board","columns":["x"]}\n']), BadExport),
    "a short row": (lambda lines: sealed([*lines[:-1], "[1]\n"]), BadExport),
    "a number that is too large": (lambda lines: changed_column(lines, "commit_log", "snapshot", 2**70), BadExport),
    "a time that is none": (lambda lines: changed_column(lines, "entry_version", "committed_at", "noon"), BadExport),
    "a row twice": (lambda lines: changed_column(lines, "commit_log", "seq", 1), BadExport),
    "a value nested too deep": (lambda lines: changed_column(lines, "entry_version", "value", "[" * 9999), ChainBroken),
    "a head that is no number": (lambda lines: changed_column(lines, "board", "head", "five"), ChainBroken),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_export_any_more_is_refused(export: Path, tmp_path: Path, fault: str) -> None:
    damage, error = FAULTS[fault]
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(damage(lines_of(export))))
    with pytest.raises(error):
        import_board(bad, tmp_path / "new.db", quietly)
    assert not (tmp_path / "new.db").exists()


def test_an_export_can_be_checked_without_importing_it(export: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    checked = check_export(export, quietly)
    assert sorted(tmp_path.iterdir()) == before
    with Board.open_read_only(tmp_path / "source.db") as board:
        assert checked.head_hash == board.log()[-1].hash
    with pytest.raises(OtherHead):
        check_export(export, quietly, head_hash="0" * 64)
    with pytest.raises(BadExport):
        check_export(tampered(export, forged=False), quietly)
    with pytest.raises(BadExport):
        check_export(tmp_path / "none.jsonl", quietly)


def test_an_export_of_older_tables_is_brought_up_to_the_present_ones(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    shutil.copyfile(RECORDED, old)
    exported = export_board(old, tmp_path / "old.jsonl", quietly)
    with (tmp_path / "old.jsonl").open() as file:
        assert json.loads(file.readline())["schema"] == 1
    import_board(tmp_path / "old.jsonl", new, quietly, head_hash=exported.head_hash)
    with Board.open_read_only(old) as before, Board.open(new) as board:
        assert board.verify() == exported.commits
        assert board.query(Predicate()) == before.query(Predicate())
        assert board.log() == before.log()


def test_a_compacted_board_comes_back_as_it_was(location: str, tmp_path: Path) -> None:
    with Board.open(location) as board:
        fill(board)
        board.compact(Keep(commits=3))
        horizon = board.horizon
        assert horizon > 0
        with board.lease(horizon):
            export_board(location, tmp_path / "board.jsonl", quietly)
    import_board(tmp_path / "board.jsonl", tmp_path / "new.db", quietly)
    assert contents(tmp_path / "new.db") == contents(location)
    with Board.open(tmp_path / "new.db") as board:
        assert board.horizon == horizon
        assert not [pin for pin in plan(board, Keep()).pins if pin.what.startswith("lease")], "no lease came along"


@pytest.fixture
def writing(location: str) -> Iterator[subprocess.Popen[str]]:
    """A process that commits all the time."""
    command = [sys.executable, str(WRITER), location, "writer", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(30):
            assert process.stdout.readline()
        draining = threading.Thread(target=process.stdout.read, daemon=True)
        draining.start()
        yield process
        assert process.poll() is None, "the copying stopped the writer"
        process.kill()


@pytest.mark.usefixtures("writing")
def test_an_export_beside_a_writer_is_of_one_moment(location: str, tmp_path: Path) -> None:
    heads = []
    for number in range(3):
        exported = export_board(location, tmp_path / f"{number}.jsonl", quietly)
        checked = check_export(tmp_path / f"{number}.jsonl", quietly)
        assert checked.head_hash == exported.head_hash
        heads.append(exported.commits)
    assert heads == sorted(set(heads)), "the writer went on"
    with Board.open_read_only(location) as board:
        assert board.log(after=heads[-1] - 1, limit=1)[0].hash == exported.head_hash


@pytest.mark.parametrize("location", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("writing")
def test_a_backup_beside_a_writer_is_of_one_moment(location: str, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    told: list[tuple[int, int]] = []
    heads = []
    for _ in range(3):
        heads.append(back_up(location, backup, lambda done, total: told.append((done, total))).commits)
        with Board.open_read_only(backup) as board:
            assert board.verify() == heads[-1]
    assert heads == sorted(set(heads)), "the writer went on"
    assert told[-1][0] == told[-1][1] > 0
    assert (
        sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("backup", ".backup")))[0]
        == "backup.db"
    )


def backed_up(path: Path, backup: Path) -> dict[str, Any]:
    """Fill a board, back it up, and return what it then held."""
    with Board.open(path) as board:
        fill(board)
    back_up(path, backup, quietly)
    return contents(path)


def test_a_backup_is_restored_in_place_of_a_board_that_is_kept(tmp_path: Path) -> None:
    path, backup = tmp_path / "board.db", tmp_path / "backup.db"
    saved = backed_up(path, backup)
    with Board.open(path) as board:
        fill(board, "later")
        with pytest.raises(BoardBusy):
            restore(backup, path, quietly, replace_existing=True)
        later = board.epoch
    with pytest.raises(TargetExists):
        restore(backup, path, quietly)
    after = contents(path)
    restored = restore(backup, path, quietly, replace_existing=True)
    assert restored.commits == saved["head"]
    assert {**contents(path), "epoch": 0} == {**saved, "epoch": 0}
    assert contents(f"{path}.replaced") == after
    with Board.open(path) as board:
        assert board.epoch > later


@pytest.mark.parametrize("left", ["log", "nonsense"])
def test_what_is_left_of_a_broken_board_does_not_touch_the_restored_one(tmp_path: Path, left: str) -> None:
    path, backup = tmp_path / "board.db", tmp_path / "backup.db"
    with Board.open(path) as board:
        fill(board)
    back_up(path, backup, quietly)
    log = Path(f"{path}-wal")
    if left == "log":
        # What a killed process leaves: commits that are in the write-ahead log alone.
        with Board.open(path) as board:
            fill(board, "later")
            log_bytes = log.read_bytes()
        log.write_bytes(log_bytes)
    else:
        path.write_bytes(b"x" * 5000)
    restore(backup, path, quietly, replace_existing=True)
    assert {**contents(path), "epoch": 0} == {**contents(backup), "epoch": 0}


def leave_log(path: Path, prefix: str) -> None:
    """Commit, and leave behind what a killed process does: commits that are in the write-ahead log alone."""
    log = Path(f"{path}-wal")
    with Board.open(path) as board:
        fill(board, prefix)
        kept = path.read_bytes(), log.read_bytes()
    path.write_bytes(kept[0])
    log.write_bytes(kept[1])


def test_a_copy_meets_no_log_of_a_board_that_was_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source.db", tmp_path / "target.db"
    with Board.open(source) as board:
        fill(board)
    export_board(source, tmp_path / "board.jsonl", quietly)
    leave_log(target, "gone")
    target.unlink()
    import_board(tmp_path / "board.jsonl", target, quietly)
    assert contents(target) == contents(source)
    leave_log(target, "later")
    back_up(source, target, quietly)
    assert contents(target) == contents(source)


def test_a_copy_takes_the_place_neither_of_its_board_nor_of_a_folder(tmp_path: Path) -> None:
    path, link = tmp_path / "board.db", tmp_path / "link.db"
    with Board.open(path) as board:
        fill(board)
    before = contents(path)
    link.symlink_to(path)
    for copy in (back_up, export_board):
        for target in (path, link, tmp_path):
            with pytest.raises(TargetExists):
                copy(path, target, quietly)
    assert contents(path) == before and link.is_symlink()


def test_a_board_restored_by_a_link_is_the_same_by_its_own_name(tmp_path: Path) -> None:
    path, link, backup = tmp_path / "board.db", tmp_path / "link.db", tmp_path / "backup.db"
    saved = backed_up(path, backup)
    with Board.open(path) as board:
        fill(board, "later")
    link.symlink_to(path)
    restore(backup, link, quietly, replace_existing=True)
    assert {**contents(path), "epoch": 0} == {**saved, "epoch": 0} and link.is_symlink()
    path.unlink()
    export_board(backup, tmp_path / "board.jsonl", quietly)
    import_board(tmp_path / "board.jsonl", link, quietly)
    assert {**contents(path), "epoch": 0} == {**saved, "epoch": 0} and link.is_symlink()


def test_a_place_that_cannot_be_written_is_named(export: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source.db", export / "in" / "a-file.db"
    back_up(source, tmp_path / "backup.db", quietly)
    for copy in (
        lambda: export_board(source, target, quietly),
        lambda: back_up(source, target, quietly),
        lambda: import_board(export, target, quietly),
        lambda: restore(tmp_path / "backup.db", target, quietly),
    ):
        with pytest.raises(StorageFailed, match=r"AGS-0204.*a-file\.db cannot be written"):
            copy()


def test_a_board_put_aside_meets_no_log_of_one_before(tmp_path: Path) -> None:
    path, backup = tmp_path / "board.db", tmp_path / "backup.db"
    with Board.open(path) as board:
        fill(board)
    back_up(path, backup, quietly)
    leave_log(path, "first")
    restore(backup, path, quietly, replace_existing=True)
    # It was the wrong backup, say, and nobody has opened it for writing.
    aside = contents(path)
    restore(backup, path, quietly, replace_existing=True)
    assert contents(f"{path}.replaced") == aside


def test_a_damaged_backup_is_refused_and_the_board_stays(tmp_path: Path) -> None:
    path, backup = tmp_path / "board.db", tmp_path / "backup.db"
    with Board.open(path) as board:
        fill(board)
    back_up(path, backup, quietly)
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute("UPDATE entry_version SET value = '1' WHERE key = 'k1'")
    before = contents(path)
    with pytest.raises(ChainBroken):
        restore(backup, path, quietly, replace_existing=True)
    assert contents(path) == before
    with pytest.raises(BoardMissing):
        restore(tmp_path / "none.db", path, quietly, replace_existing=True)
    assert contents(path) == before


def test_an_export_waits_for_whoever_takes_it(postgres_board: str) -> None:
    class Slow(StringIO):
        def write(self, text: str) -> int:
            if '"head_hash"' in text:
                time.sleep(1)
            return super().write(text)

    with Board.open(postgres_board) as board:
        fill(board)
    impatient = f"{postgres_board}&options=-c%20idle_in_transaction_session_timeout%3D300"
    written = Slow()
    assert export_to_stream(impatient, written, quietly).commits == len(
        [line for line in written.getvalue().split("\n") if line.startswith("[") and '"serializable"' in line]
    )


def test_a_board_in_postgres_is_exported_instead(postgres_board: str, tmp_path: Path) -> None:
    with pytest.raises(NoBackup):
        back_up(postgres_board, tmp_path / "backup.db", quietly)
    with pytest.raises(NoBackup):
        restore(tmp_path / "backup.db", postgres_board, quietly)


IMPORT = """
import sys, time
from pathlib import Path
from agentsys.blackboard.copies import import_board
def stopping(done, total):
    print("under way", flush=True)
    time.sleep(600)
import_board(Path(sys.argv[1]), sys.argv[2], stopping)
"""


def test_an_import_removes_what_killed_ones_left_and_no_other(
    postgres_url: str, postgres_board: str, tmp_path: Path
) -> None:
    with Board.open(tmp_path / "board.db") as board:
        fill(board)
    export_board(tmp_path / "board.db", tmp_path / "export.jsonl", quietly)

    def schemas() -> set[str]:
        with psycopg.connect(postgres_url) as connection:
            return {name for (name,) in connection.execute("SELECT nspname FROM pg_namespace") if "_import_" in name}

    def named(name: str) -> str:
        return postgres_board.replace("&lease", f"_{name}&lease")

    def importing(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", IMPORT, str(tmp_path / "export.jsonl"), named(name)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "under way\n"
        return process

    def import_until(count: int) -> set[str]:
        """Import until so many schemas are left, as the server takes a moment to notice a death; return them."""
        for _ in range(50):
            import_board(tmp_path / "export.jsonl", named("next"), quietly)
            drop_board(named("next"))
            found = schemas() - others
            if len(found) <= count:
                return found
            time.sleep(0.1)
        raise AssertionError(f"these are left: {found}")

    # A board may be called as the schemas of imports are.
    called_so = postgres_board.replace("board=t", "board=import_")
    Board.open(called_so).close()
    others = schemas()
    with importing("living") as living, importing("killed") as killed:
        try:
            assert len(schemas() - others) == 2
            killed.kill()
            killed.wait()
            (left,) = import_until(1)
            assert {left} == import_until(1)
        finally:
            for process in (killed, living):
                process.kill()
    assert import_until(0) == set() and others == schemas()
    drop_board(called_so)
