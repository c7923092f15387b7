"""Opening folders of good, messy and broken files."""

from __future__ import annotations

import csv
import errno
import json
import os
import tempfile
from pathlib import Path

import duckdb
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.lake.faults import CacheUnusableError, LakeEmptyError, LakeNotFoundError
from agentsys.lake.lake import Lake
from agentsys.lake.profiles import LakeLimits, LakeProgress, TableProfile
from agentsys.lake.reading import cache as cache_module
from agentsys.lake.reading import readers


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    folder.mkdir()
    return folder


def opened(lake: Path, **options) -> Lake:
    return Lake.open(lake, cache=lake.parent / "cache", **options)


def only_table(lake: Path) -> TableProfile:
    (file,) = opened(lake).files
    (table,) = file.tables
    return table


def rows(table: TableProfile) -> list[tuple]:
    return duckdb.sql(f"FROM '{table.parquet}'").fetchall()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252"])
def test_encodings(lake: Path, encoding: str) -> None:
    text = "city,population\nMünchen,1\nKöln,2\nBerlin,3\n"
    (lake / "a.csv").write_bytes(text.encode(encoding))
    assert rows(only_table(lake)) == [("München", 1), ("Köln", 2), ("Berlin", 3)]


def test_tabs_inside_csv(lake: Path) -> None:
    (lake / "a.csv").write_text("state\tacres, burned\nOhio\t5\nUtah\t6\n")
    assert [column.name for column in only_table(lake).columns] == ["state", "acres_burned"]


def test_workbook_sheets(lake: Path) -> None:
    book = openpyxl.Workbook()
    first = book.active
    first.title = "Sales"
    for row in [["Report"], [], ["day", "amount"], ["2020-01-01", 1.5], ["2020-01-02", 2]]:
        first.append(row)
    second = book.create_sheet("People")
    second.append(["name", "member"])
    second.append(["Ann", True])
    book.save(lake / "book.xlsx")
    tables = opened(lake).files[0].tables
    assert [[(c.name, c.type) for c in table.columns] for table in tables] == [
        [("day", "DATE"), ("amount", "DOUBLE")],
        [("name", "VARCHAR"), ("member", "BOOLEAN")],
    ]
    assert "Sales" in tables[0].title and "Report" in tables[0].title


@pytest.mark.parametrize(
    "document",
    [
        [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
        {"a": [1, 2], "b": ["x", "y"]},
        {"a": {"0": 1, "1": 2}, "b": {"0": "x", "1": "y"}},
        {"meta": {"version": 3}, "data": {"items": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}},
        [["a", "b"], [1, "x"], [2, "y"]],
    ],
)
def test_shapes_of_json(lake: Path, document: object) -> None:
    (lake / "a.json").write_text(json.dumps(document))
    table = only_table(lake)
    assert [column.name for column in table.columns] == ["a", "b"]
    assert rows(table) == [(1, "x"), (2, "y")]


def test_json_lines_with_nested_objects(lake: Path) -> None:
    (lake / "a.jsonl").write_text('{"id": 1, "place": {"lat": 1.5}}\n{"id": 2}\n')
    assert rows(only_table(lake)) == [(1, 1.5), (2, None)]


def test_html_spans(lake: Path) -> None:
    (lake / "a.html").write_text(
        "<h2>People</h2><table><tr><th rowspan=2>C</th><th colspan=2>Y</th></tr><tr><th>2019</th><th>2020</th></tr>"
        "<tr><td>A</td><td>1,000</td><td>2<br>000<sup>[1]</sup></td></tr></table>"
    )
    table = only_table(lake)
    assert [column.name for column in table.columns] == ["c", "y_2019", "y_2020"]
    assert table.title == "People"
    assert rows(table)[0][:2] == ("A", 1000)


SPANNED = (
    "<table>{}<tr><{cell}>first</{cell}><{cell}>last</{cell}>"
    "<{cell}>town</{cell}><{cell}>land</{cell}></tr>{}{}</table>"
)
UPPER = "<tr><th colspan=2>Person</th><th colspan=2>Home</th></tr>"
ANN = "<tr><th>Ann</th><td>Ash</td><td>Bern</td><td>Chad</td></tr>"
BOB = "<tr><th>Bob</th><td>Box</td><td>Rome</td><td>Mali</td></tr>"


def test_a_second_row_of_html_headings_below_spans_is_one_where_it_is_marked(lake: Path) -> None:
    marked = ["person_first", "person_last", "home_town", "home_land"]
    unmarked = ["person", "person_2", "home", "home_2"]
    pages = [
        (SPANNED.format(UPPER, ANN, BOB, cell="th"), marked, 2),
        (SPANNED.format("<thead>" + UPPER, "</thead>" + ANN, BOB, cell="td"), marked, 2),
        (SPANNED.format(UPPER, ANN, BOB, cell="td"), unmarked, 3),
        (SPANNED.format(UPPER, "", ANN.replace("td>", "th>"), cell="th"), unmarked, 2),
    ]
    for page, names, count in pages:
        (lake / "a.html").write_text(page)
        table = only_table(lake)
        assert ([column.name for column in table.columns], len(rows(table))) == (names, count), page


def test_parquet_keeps_types(lake: Path) -> None:
    pa.parquet.write_table(pa.table({"A b": [1, 2], "D": [1.5, None]}), lake / "a.parquet")
    assert [(c.name, c.original, c.type) for c in only_table(lake).columns] == [
        ("a_b", "A b", "BIGINT"),
        ("d", "D", "DOUBLE"),
    ]


BROKEN = {
    "binary.csv": (bytes(range(256)) * 40, "AGS-0507"),
    "program.py": (b"print(1)\n", "AGS-0507"),
    "empty.csv": (b"", "AGS-0508"),
    "blank.csv": (b" \n\n", "AGS-0508"),
    "cut.xlsx": (b"PK\x03\x04 nothing", "AGS-0509"),
    "wrong.xlsx": (b"a,b\n1,2\n", "AGS-0509"),
    "cut.parquet": (b"PAR1 nothing", "AGS-0509"),
    "cut.json": (b'{"a": [1,', "AGS-0509"),
    "deep.json": (b"[" * 100_000, "AGS-0509"),
    "prose.txt": (b"A long sentence about nothing. " * 20, "AGS-0511"),
    "header.csv": (b"a,b,c\n", "AGS-0511"),
    "scalar.json": (b"3", "AGS-0511"),
    "page.html": (b"<p>no table</p>", "AGS-0511"),
}


def test_broken_files_are_named_with_code_and_reason_and_stop_nothing(lake: Path) -> None:
    (lake / "good.csv").write_text("a,b\n1,2\n3,4\n")
    for name, (content, _) in BROKEN.items():
        (lake / name).write_bytes(content)
    found = opened(lake)
    assert [file.path for file in found.files] == ["good.csv"]
    assert {item.path: item.code for item in found.skipped} == {name: code for name, (_, code) in BROKEN.items()}
    assert all(item.path in item.reason and str(lake.parent) not in item.reason for item in found.skipped)


def test_limits_skip_large_files(lake: Path) -> None:
    (lake / "good.csv").write_text("a,b\n1,2\n3,4\n")
    (lake / "large.csv").write_text("a,b\n" + "1,2\n" * 100)
    (lake / "large.json").write_text(json.dumps([{"a": number} for number in range(30)]))
    found = opened(lake, limits=LakeLimits(file_bytes=390, in_memory_bytes=100))
    assert [(item.path, item.code) for item in found.skipped] == [("large.csv", "AGS-0506"), ("large.json", "AGS-0506")]


def test_links_out_of_the_lake_are_not_followed(lake: Path) -> None:
    outside = lake.parent / "secret"
    outside.mkdir()
    (outside / "s.csv").write_text("a,b\n1,2\n3,4\n")
    (lake / "good.csv").write_text("a,b\n1,2\n3,5\n")
    (lake / "file.csv").symlink_to(outside / "s.csv")
    (lake / "folder").symlink_to(outside)
    found = opened(lake)
    assert [file.path for file in found.files] == ["good.csv"]
    assert {(item.path, item.code) for item in found.skipped} == {("file.csv", "AGS-0512"), ("folder", "AGS-0512")}


def test_a_pipe_does_not_hang_the_lake(lake: Path) -> None:
    (lake / "good.csv").write_text("a,b\n1,2\n3,4\n")
    os.mkfifo(lake / "pipe.csv")
    assert [item.code for item in opened(lake).skipped] == ["AGS-0505"]


def test_unreadable_file_is_skipped(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lake / "good.csv").write_text("a,b\n1,2\n3,4\n")
    (lake / "locked.csv").write_text("a,b\n1,2\n3,6\n")
    real = Path.open

    def guarded(self: Path, *arguments, **options):
        if self.name == "locked.csv":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", guarded)
    (skipped,) = opened(lake).skipped
    assert (skipped.path, skipped.code) == ("locked.csv", "AGS-0505")
    assert "Permission denied" in skipped.reason


@pytest.mark.parametrize(
    ("fault", "code"),
    [(PermissionError(errno.EACCES, "Permission denied"), "AGS-0505"), (RuntimeError("parser bug"), "AGS-0509")],
)
def test_a_fault_while_reading_skips_only_that_file(
    lake: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, code: str
) -> None:
    for name in "abc":
        (lake / f"{name}.csv").write_text(f"x,{name}\n1,2\n3,4\n")
    real = readers.read_tables

    def faulty(path: Path, *arguments):
        if path.name == "b.csv":
            raise fault
        return real(path, *arguments)

    monkeypatch.setattr(readers, "read_tables", faulty)
    found = opened(lake)
    assert [file.path for file in found.files] == ["a.csv", "c.csv"]
    assert [(item.path, item.code) for item in found.skipped] == [("b.csv", code)]


def test_nothing_temporary_stays_in_the_cache(lake: Path) -> None:
    (lake / "a.csv").write_text("a,b\n1,2\n3,4\n")
    (lake / "b.json").write_text("{")
    opened(lake)
    assert not [path.name for path in (lake.parent / "cache").iterdir() if path.name.startswith(("building", "spill"))]


def test_missing_and_empty_lakes_are_typed_errors(lake: Path) -> None:
    with pytest.raises(LakeNotFoundError, match="nowhere"):
        opened(lake / "nowhere")
    with pytest.raises(LakeEmptyError):
        opened(lake)
    (lake / "prose.txt").write_text("nothing to see here")
    with pytest.raises(LakeEmptyError, match=r"prose\.txt: AGS-0511"):
        opened(lake)


def test_full_disk_is_a_typed_error_and_leaves_no_half_entry(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lake / "good.csv").write_text("a,b\n1,2\n3,4\n")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(CacheUnusableError, match="No space left"):
        patched.setattr(cache_module.Path, "write_bytes", full)
        opened(lake)
    assert len(opened(lake).files) == 1


def test_cache_path_that_is_a_file_is_a_typed_error(lake: Path) -> None:
    (lake / "good.csv").write_text("a,b\n1,2\n3,4\n")
    (lake.parent / "cache").write_text("in the way")
    with pytest.raises(CacheUnusableError):
        opened(lake)


def test_progress_counts_every_file(lake: Path) -> None:
    for name in "abc":
        (lake / f"{name}.csv").write_text(f"x,{name}\n1,2\n3,4\n")
    seen: list[LakeProgress] = []
    opened(lake, progress=seen.append)
    assert [(item.done, item.total, item.current) for item in seen] == [
        (1, 3, "a.csv"),
        (2, 3, "b.csv"),
        (3, 3, "c.csv"),
    ]


def test_second_opening_reads_no_file_again(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lake / "a.csv").write_text("a,b\n1,2\n3,4\n")
    first = opened(lake)
    monkeypatch.setattr("agentsys.lake.reading.readers.read_tables", lambda *_: pytest.fail("read again"))
    assert opened(lake) == first


def test_changed_content_is_read_again_and_damaged_cache_is_rebuilt(lake: Path) -> None:
    (lake / "a.csv").write_text("a,b\n1,2\n3,4\n")
    table = only_table(lake)
    table.parquet.unlink()
    assert rows(only_table(lake)) == [(1, 2), (3, 4)]
    (lake / "a.csv").write_text("a,b\n1,2\n3,4\n5,6\n")
    assert only_table(lake).rows == 3


def test_a_cache_inside_the_lake_is_not_part_of_it(lake: Path) -> None:
    (lake / "a.csv").write_text("a,b\n1,2\n3,4\n")
    for _ in range(2):
        found = Lake.open(lake, cache=lake / "cache")
        assert [file.path for file in found.files] == ["a.csv"]


def test_streamed_reading_agrees_with_reading_in_memory(lake: Path) -> None:
    with (lake / "ledger.csv").open("w", newline="", encoding="utf-8") as stream:
        stream.write('Ledger,,,\n,,,\nid,"amount, gross",share,code\n')
        writer = csv.writer(stream)
        writer.writerows([n, f"{n * 1000:,}", f"{n / 7:.2f}%", f"{n:05d}"] for n in range(2000))
    whole = only_table(lake)
    expected = rows(whole)
    streamed = Lake.open(lake, cache=lake.parent / "other", limits=LakeLimits(streamed_from_bytes=1000))
    (table,) = streamed.files[0].tables
    assert rows(table) == expected
    assert [(c.name, c.type, c.unit) for c in table.columns] == [(c.name, c.type, c.unit) for c in whole.columns]
    assert table.title == whole.title == "Ledger"


def test_a_late_surprise_in_a_long_column_keeps_its_text(lake: Path) -> None:
    (lake / "a.csv").write_text("n,x\n" + "".join(f"{n},1\n" for n in range(15_000)) + "about 7,1\n2.5,1\n")
    table = only_table(lake)
    assert [(c.name, c.type) for c in table.columns] == [("n", "DOUBLE"), ("n_text", "VARCHAR"), ("x", "BIGINT")]
    assert rows(table)[-2:] == [(None, "about 7", 1), (2.5, "2.5", 1)]


def test_labels_name_the_file_and_its_owner(lake: Path) -> None:
    (lake / "sub").mkdir()
    (lake / "sub" / "a.csv").write_text("a,b\n1,2\n3,4\n")
    found = opened(lake)
    assert found.files[0].label.influencers == {"file:sub/a.csv"}
    assert found.files[0].label.readers.members == {"user:owner"}
    assert found.families[0].label == found.files[0].label


def test_a_streamed_line_that_cannot_be_read_is_reported(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsys.lake.reading.encodings.SAMPLE_BYTES", 1000)
    lines = [b"a,b\n", *(b"%d,1\n" % number for number in range(5000)), b"7,\xff\xfe\xff\n", b"8,2\n"]
    (lake / "a.csv").write_bytes(b"".join(lines))
    found = Lake.open(lake, cache=lake.parent / "cache", limits=LakeLimits(streamed_from_bytes=1000))
    (table,) = found.files[0].tables
    assert (table.rows, "line 5002" in table.notes) == (5001, True)


SEEDS = [
    b"",
    b"a,b\n1,2\n",
    b"PK\x03\x04",
    b"PAR1",
    b'[{"a": 1}]',
    b"<table><tr><td>1",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
]


@given(
    st.sampled_from(SEEDS),
    st.binary(max_size=300),
    st.sampled_from(["csv", "txt", "json", "html", "xlsx", "parquet", "tsv"]),
)
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_profiled_or_skipped_with_a_code(seed: bytes, noise: bytes, extension: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "lake"
        folder.mkdir()
        (folder / "good.csv").write_text("a,b\n1,2\n3,4\n")
        (folder / f"odd.{extension}").write_bytes(seed + noise)
        found = Lake.open(folder, cache=Path(name) / "cache")
        assert len(found.files) + len(found.skipped) == 2
        assert all(item.code.startswith("AGS-05") and item.reason for item in found.skipped)
