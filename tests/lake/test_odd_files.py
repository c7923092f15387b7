"""Files as people have them: what is odd about one must neither change an answer nor stop the lake."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
import lzma
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

from agentsys.blackboard.entries import canonical_json
from agentsys.lake.lake import Lake
from agentsys.lake.profiles import LakeLimits
from agentsys.lake.queries.allowlist import parse_select
from agentsys.lake.queries.sandbox import QuerySandbox
from agentsys.lake.queries.schema_text import schema_text
from agentsys.lake.reading import readers
from agentsys.lake.reading.names import identifier


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


def test_a_record_that_holds_numbers_is_kept_as_its_text(folder: Path) -> None:
    places = pa.array([{"id": 1, "at": "x"}, {"id": 2, "at": "y"}])
    pa.parquet.write_table(pa.table({"n": [1, 2], "place": places}), folder / "a.parquet")
    lake = opened(folder)
    assert not lake.skipped
    assert [(column.name, column.type) for column in lake.families[0].columns] == [
        ("n", "BIGINT"),
        ("place", "VARCHAR"),
    ]
    assert "'at': y" in answer(lake, "SELECT place FROM a WHERE n = 2")[0][0]


def test_long_integers_stay_what_they_are(folder: Path) -> None:
    near = [2**53, 2**53 + 1]
    columns = {
        "unsigned": pa.array(near, pa.uint64()),
        "hash": pa.array([2**64 - 1, 2**64 - 2], pa.uint64()),
        "exact": pa.array(near, pa.decimal128(38, 0)),
    }
    pa.parquet.write_table(pa.table(columns), folder / "a.parquet")
    rows = answer(opened(folder), "SELECT unsigned, hash, exact FROM a ORDER BY unsigned")
    assert rows == [(2**53, str(2**64 - 1), 2**53), (2**53 + 1, str(2**64 - 2), 2**53 + 1)]


def test_dates_of_which_none_is_known_do_not_stop_the_index(folder: Path) -> None:
    columns = {"name": ["Elbe", "Rhine"], "day": pa.array([None, None], pa.date32())}
    pa.parquet.write_table(pa.table(columns), folder / "rivers.parquet")
    (claim,) = opened(folder).index.rank("How long is the Elbe?")
    assert claim.family.name == "rivers"


def test_json_lines_end_where_json_says(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"n": 1, "text": "one\u2028two\x85three"}\r\n{"n": 2, "text": "x"}\n', "utf-8")
    lake = opened(folder)
    assert not lake.skipped
    assert answer(lake, "SELECT n FROM a WHERE text LIKE 'one%three'") == [(1,)]


def test_json_lines_of_one_line_are_one_row(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"n": 1, "parts": [{"x": 2}, {"x": 3}]}\n')
    assert answer(opened(folder), "SELECT n FROM a") == [(1,)]


def test_names_of_records_stay_beside_a_field_called_key(folder: Path) -> None:
    (folder / "a.json").write_text('{"ann": {"key": "k1", "age": 3}, "bob": {"key": "k2", "age": 4}}')
    assert answer(opened(folder), "SELECT * EXCLUDE (_file) FROM a ORDER BY age") == [
        ("ann", "k1", 3),
        ("bob", "k2", 4),
    ]


def test_numbers_by_which_records_are_told_apart_are_kept(folder: Path) -> None:
    (folder / "a.json").write_text('{"ann": {"2019": 5, "2020": 6}, "key": {"2019": 7, "2020": 8}}')
    (folder / "b.json").write_text('{"one": {"0": 5, "1": 6}, "two": {"0": 7, "1": 8}}')
    lake = opened(folder)
    assert answer(lake, "SELECT outer_key, ann, key FROM a ORDER BY 1") == [(2019, 5, 7), (2020, 6, 8)]
    assert answer(lake, "SELECT * EXCLUDE (_file) FROM b ORDER BY 1") == [(5, 7), (6, 8)]


def test_records_among_other_things_say_what_was_left_out(folder: Path) -> None:
    (folder / "a.json").write_text('[{"n": 1}, [2, 3], {"n": 4}, "5"]')
    (table,) = opened(folder).families[0].tables
    assert (table.rows, table.notes) == (2, "2 items beside the records are no records, and left out.")


def test_no_rows_of_lists_or_above_a_streamed_table_are_lost_in_silence(folder: Path) -> None:
    (folder / "a.json").write_text('[["k", "n"], ["x", 1], ["y", 2], [null, null], ["c", "d"], ["z", "w"]]')
    (folder / "b.csv").write_text("n,name,v\n1,x,2\n2,y,3\n\nfoo,z,bar\n4,w,5\n")
    lists, streamed = opened(folder, limits=LakeLimits(streamed_from_bytes=1)).files
    assert [[column.name for column in table.columns] for table in lists.tables] == [["k", "n"], ["c", "d"]]
    (table,) = streamed.tables
    assert (table.rows, table.notes) == (1, "2 rows above its headings are of another table, and left out.")


def test_a_streamed_file_may_have_line_breaks_within_its_cells(folder: Path) -> None:
    (folder / "a.csv").write_text("n,text\n" + "1,x\n" * 500 + '2,"two\nlines"\n' + "3,y\n" * 500)
    lake = opened(folder, limits=LakeLimits(streamed_from_bytes=1))
    assert answer(lake, "SELECT text FROM a WHERE n = 2") == [("two\nlines",)]
    assert answer(lake, "SELECT count(*) FROM a") == [(1001,)]


def test_a_comma_within_numbers_parts_no_columns(folder: Path) -> None:
    (folder / "a.csv").write_text("lat;lon\n" + "".join(f"{n},5;{n + 1},25\n" for n in range(60)))
    (folder / "b.csv").write_text("p|q|r\n" + "".join(f"{n},5|{n},6|{n},7\n" for n in range(60)))
    (folder / "c.csv").write_text("n,tags,k\n" + "".join(f"{n},x;y,{n}\n" for n in range(60)))
    lake = opened(folder)
    assert answer(lake, "SELECT lat, lon FROM a WHERE lat > 58") == [(58.5, 59.25), (59.5, 60.25)]
    assert answer(lake, "SELECT max(p), max(q), max(r) FROM b") == [(59.5, 59.6, 59.7)]
    assert answer(lake, "SELECT max(n), max(tags), max(k) FROM c") == [(59, "x;y", 59)]


def test_quotation_marks_around_the_cells_of_a_lone_column_are_no_part_of_them(folder: Path) -> None:
    (folder / "a.csv").write_text('name\n"Smith, John"\n"A ""B"" C"\n')
    (folder / "b.csv").write_text('"n"\n"1"\n"2"\n')
    (folder / "c.txt").write_text('"as" it is\n"written"\n')
    lake = opened(folder)
    assert answer(lake, "SELECT name FROM a ORDER BY 1") == [('A "B" C',), ("Smith, John",)]
    assert answer(lake, "SELECT sum(n) FROM b") == [(3,)]
    assert answer(lake, "SELECT value FROM c ORDER BY 1") == [('"as" it is',), ('"written"',)]


def test_a_column_may_be_called_what_either_parser_reads_as_something_else(folder: Path) -> None:
    words = [*DuckDB.Tokenizer.KEYWORDS, *DuckDB.Parser.FUNCTIONS, "current_user", "session_user"]
    with duckdb.connect() as connection:
        words += [word for (word,) in connection.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()]
    for name in {identifier(word) for word in words if re.fullmatch("[A-Za-z_]+", word)}:
        columns = f"{name}, count(DISTINCT {name}), sum({name}), CASE WHEN {name} > 0 THEN {name} END"
        tree = parse_select(f"SELECT {columns} FROM {name} GROUP BY {name}")
        assert {name} == {column.name for column in tree.find_all(exp.Column)}, name
        assert [name] == [table.name for table in tree.find_all(exp.Table)], name


def test_empty_records_beside_a_table_do_not_spoil_it(folder: Path) -> None:
    (folder / "a.json").write_text('{"errors": [{}], "rows": [{"n": 1}, {"n": 2}]}')
    assert answer(opened(folder), "SELECT sum(n) FROM a") == [(3,)]


def test_a_file_whose_name_is_no_utf_8_is_skipped_and_stops_nothing(folder: Path) -> None:
    (folder / "a.csv").write_text("n,m\n1,2\n3,4\n")
    (folder / os.fsdecode(b"caf\xe9.csv")).write_text("n,m\n5,6\n7,8\n")
    lake = opened(folder)
    assert [(item.path, item.code) for item in lake.skipped] == [("caf\ufffd.csv", "AGS-0505")]
    assert answer(lake, "SELECT sum(n) FROM a") == [(4,)]
    assert canonical_json([family.label.to_json() for family in lake.families])


@pytest.mark.parametrize("name", ["data[1]", "what?", "all*"])
def test_a_file_whose_name_looks_like_a_pattern_is_that_file_alone(folder: Path, name: str) -> None:
    for other, number in [(name, 1), ("data1", 2), ("whats", 3), ("all of it", 4)]:
        pa.parquet.write_table(pa.table({"n": [number], "of": [other]}), folder / f"{other}.parquet")
    tables = {file.path: file.tables[0] for file in opened(folder).files}
    assert (tables[f"{name}.parquet"].rows, tables[f"{name}.parquet"].columns[0].maximum) == (1, 1)


def test_a_streamed_file_whose_name_looks_like_a_pattern_is_read(folder: Path) -> None:
    for name, number in [("data[1].csv", 1), ("data1.csv", 2)]:
        (folder / name).write_text("n,m\n" + f"{number},{number}\n" * 500)
    found = opened(folder, limits=LakeLimits(streamed_from_bytes=1000))
    assert {file.path: file.tables[0].columns[0].maximum for file in found.files} == {"data1.csv": 2, "data[1].csv": 1}


def test_a_folder_named_like_a_partition_adds_nothing_to_its_files(folder: Path) -> None:
    (folder / "n=7").mkdir()
    pa.parquet.write_table(pa.table({"n": [1], "m": [2]}), folder / "n=7" / "a.parquet")
    assert answer(opened(folder), "SELECT n, m FROM a") == [(1, 2)]


def test_codes_that_come_late_in_a_long_column_keep_their_zeros(folder: Path) -> None:
    codes = [f"{number}" for number in range(90_000, 60_000, -2)] + ["02134", "00501"]
    (folder / "places.csv").write_text("zip,n\n" + "".join(f"{code},1\n" for code in codes))
    assert answer(opened(folder), "SELECT zip FROM places ORDER BY zip LIMIT 2") == [("00501",), ("02134",)]


def test_times_of_day_that_come_late_in_a_long_column_are_kept(folder: Path) -> None:
    days = [datetime.datetime(2000, 1, 1) + datetime.timedelta(days=day) for day in range(10_500)]
    late = datetime.datetime(2030, 1, 1, 13, 45)
    (folder / "seen.csv").write_text("moment,n\n" + "".join(f"{day},1\n" for day in [*days, late]))
    assert answer(opened(folder), "SELECT max(moment) FROM seen") == [(late.isoformat(),)]


def test_another_content_of_the_same_size_and_time_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsys.lake.reading.cache.SETTLED_NANOSECONDS", 0)
    path = folder / "a.csv"
    for number in (1, 2):
        path.write_text(f"n,m\n{number},1\n{number},1\n")
        os.utime(path, (1_600_000_000, 1_600_000_000))
        assert answer(opened(folder), "SELECT sum(n) FROM a") == [(2 * number,)]


def test_what_changes_within_a_tick_of_the_clock_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a.csv"
    path.write_text("n,m\n1,1\n1,1\n")
    status = path.stat()
    real = Path.stat

    def coarse(self: Path, **options: Any) -> Any:
        return status if self == path else real(self, **options)

    monkeypatch.setattr(Path, "stat", coarse)
    assert answer(opened(folder), "SELECT sum(n) FROM a") == [(2,)]
    path.write_text("n,m\n2,1\n2,1\n")
    assert answer(opened(folder), "SELECT sum(n) FROM a") == [(4,)]


def test_what_changes_while_it_is_read_is_not_kept_as_what_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = "n,m\n1,1\n1,1\n", "n,m\n2,1\n2,1\n3,3\n"
    (folder / "a.csv").write_text(before)
    (folder / "b.csv").write_text("x,y\n5,5\n5,5\n")
    real = readers.read_tables

    def late(path: Path, *arguments: Any) -> Any:
        if path.name == "a.csv":
            path.write_text(after)
        return real(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(readers, "read_tables", late)
        assert [(item.path, item.code) for item in opened(folder).skipped] == [("a.csv", "AGS-0505")]
    (folder / "a.csv").write_text(before)
    assert answer(opened(folder), "SELECT sum(n) FROM a") == [(2,)]


def test_a_workbook_with_a_lone_cell_far_away_is_read_at_the_size_of_its_cells(folder: Path) -> None:
    book = openpyxl.Workbook()
    for row in [["n", "m"], [1, 2], [3, 4]]:
        book.active.append(row)
    book.active.cell(row=20_000, column=2).number_format = "0.00"
    book.active.cell(row=2, column=16_000).number_format = "0.00"
    book.save(folder / "a.xlsx")
    with python_peak() as peak:
        lake = opened(folder)
        assert peak() < 256 * 2**20
    assert answer(lake, "SELECT sum(n) FROM a") == [(4,)]


@contextmanager
def python_peak() -> Iterator[Callable[[], int]]:
    """Give what says how many bytes of Python were held at once within the block."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["wide.csv", "wide.json"])
def test_a_small_file_that_would_become_a_huge_table_is_skipped(folder: Path, name: str) -> None:
    (folder / "a.csv").write_text("n,m\n1,2\n3,4\n")
    if name == "wide.csv":
        (folder / name).write_text("," * 100_000 + "\n" + "1,2\n" * 100_000)
    else:
        (folder / name).write_text(json.dumps([{f"k{number}": 1} for number in range(20_000)]))
    lake = opened(folder)
    assert [(item.path, item.code) for item in lake.skipped] == [(name, "AGS-0506")]


def test_a_quotation_mark_that_nothing_closes_swallows_no_rows_in_silence(folder: Path) -> None:
    (folder / "a.csv").write_text('n,size\n1,"5"\n2,6\n')
    (folder / "b.csv").write_text('k,size\n1,5\n2,"6 inch\n3,7\n4,8\n')
    (folder / "c.csv").write_text('i,text\n1,x\n2,"two\nlines"\n')
    (folder / "d.csv").write_text('j,text\n1,x\n2,"cut off')
    lake = opened(folder)
    ((path, code, reason),) = [(item.path, item.code, item.reason) for item in lake.skipped]
    assert (path, code) == ("b.csv", "AGS-0509") and "line 3" in reason
    assert answer(lake, "SELECT text FROM c WHERE i = 2") == [("two\nlines",)]
    assert answer(lake, "SELECT text FROM d WHERE j = 2") == [("cut off",)]


def test_headers_in_another_script_keep_their_words_and_unlike_tables_apart(folder: Path) -> None:
    (folder / "data1.csv").write_text("城市,人口\n北京,5\n上海,7\n", "utf-8")
    (folder / "data2.csv").write_text("日期,价格\n2020-01-01,3\n2020-01-02,4\n", "utf-8")
    (folder / "town.csv").write_text("Город,n\nМосква,1\nТверь,2\n", "utf-8")
    lake = opened(folder)
    columns = {family.files[0]: [column.name for column in family.columns] for family in lake.families}
    assert columns == {
        "data1.csv": ["城市", "人口"],
        "data2.csv": ["日期", "价格"],
        "town.csv": ["город", "n"],
    }
    first = next(family for family in lake.families if family.files == ["data1.csv"])
    result = QuerySandbox([first]).run(f"SELECT sum(人口) AS total FROM {first.name}")
    assert result.rows == ((12,),) and result.derivation == {"total": (f"{first.name}.人口",)}
    assert "城市 VARCHAR" in schema_text([first])


def test_moments_are_read_and_shown_alike_in_every_time_zone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime.datetime(2020, 1, 1, 23, 30, tzinfo=datetime.UTC)
    pa.parquet.write_table(pa.table({"seconds": [1577921400], "moment": [moment]}), folder / "a.parquet")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    lake = opened(folder)
    assert answer(lake, "SELECT moment FROM a") == [("2020-01-01T23:30:00",)]
    sql = "SELECT to_timestamp(seconds) AS m, hour(to_timestamp(seconds)) AS m, seconds FROM a ORDER BY 1"
    result = QuerySandbox(lake.families).run(sql)
    assert result.columns == ("m", "m", "seconds")
    assert result.rows == (("2020-01-01T23:30:00", 23, 1577921400),)
    nested = "SELECT [{'m': to_timestamp(seconds)}] AS listed, to_timestamp(seconds) AS m FROM a"
    assert answer(lake, nested) == [([{"m": "2020-01-01T23:30:00"}], "2020-01-01T23:30:00")]


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": _zstd,
}


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_files_are_read_as_what_is_in_them(folder: Path, kind: str) -> None:
    (folder / f"animals.csv.{kind}").write_bytes(PACKERS[kind](b"animal,legs\ncat,4\nbird,2\n"))
    (folder / f"rivers.jsonl.{kind}").write_bytes(
        PACKERS[kind](b'{"river":"Po","km":652}\n{"river":"Elbe","km":1094}\n')
    )
    lake = opened(folder)
    assert not lake.skipped
    assert [family.name for family in lake.families] == ["animals", "rivers"]
    assert answer(lake, "SELECT legs FROM animals WHERE animal = 'bird'") == [(2,)]
    assert answer(lake, "SELECT max(km) FROM rivers") == [(1094,)]
    assert [table.file for family in opened(folder).families for table in family.tables] == [
        f"animals.csv.{kind}",
        f"rivers.jsonl.{kind}",
    ]


def test_compressed_files_are_of_one_family_with_others_and_streamed_as_they_are(folder: Path) -> None:
    rows = "".join(f"{number},a\n" for number in range(200))
    (folder / "sales-2019.csv").write_text("amount,shop\n" + rows)
    # Named as what the encoding's copy is, which must not be written over what it is read from.
    (folder / "utf8.csv.gz").write_bytes(gzip.compress(("amount,shop\n" + rows).encode("utf-16")))
    (folder / "sales-2020.csv.gz").write_bytes(gzip.compress(("amount,shop\n" + rows).encode()))
    lake = opened(folder, limits=LakeLimits(streamed_from_bytes=100))
    assert not lake.skipped
    assert sorted(file for family in lake.families for file in family.files if "sales" in family.name) == [
        "sales-2019.csv",
        "sales-2020.csv.gz",
    ]
    assert sum(table.rows for family in lake.families for table in family.tables) == 600


def test_what_does_not_unpack_or_unpacks_to_too_much_is_skipped_by_name(folder: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    (folder / "cut.csv.gz").write_bytes(whole[:-20])
    (folder / "bent.csv.bz2").write_bytes(bz2.compress(b"a,b\n1,2\n")[:10] + b"nothing of the kind")
    (folder / "bent.csv.zst").write_bytes(_zstd(b"a,b\n1,2\n" * 100)[:12])
    (folder / "bomb.csv.gz").write_bytes(gzip.compress(b"1,2\n" * 1_000_000))
    (folder / "hollow.csv.gz").write_bytes(gzip.compress(b""))
    (folder / "good.csv").write_text("a,b\n1,2\n")
    lake = opened(folder, limits=LakeLimits(in_memory_bytes=1 << 16))
    assert {item.path: item.code for item in lake.skipped} == {
        "cut.csv.gz": "AGS-0509",
        "bent.csv.bz2": "AGS-0509",
        "bent.csv.zst": "AGS-0509",
        "bomb.csv.gz": "AGS-0506",
        "hollow.csv.gz": "AGS-0508",
    }
    assert not list((folder.parent / "cache").glob("building-*"))


def test_a_line_that_is_no_json_is_named(folder: Path) -> None:
    (folder / "good.csv").write_text("a,b\n1,2\n")
    (folder / "rivers.jsonl").write_text('{"river":"Po"}\n\nnot json\n')
    ((_, reason),) = [(item.path, item.reason) for item in opened(folder).skipped]
    assert "line 3 is no JSON" in reason
