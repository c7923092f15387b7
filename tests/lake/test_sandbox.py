from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from agentsys.containment.walls import walls_here
from agentsys.lake.profiles import Family
from agentsys.lake.queries.allowlist import ForbiddenQueryError, PlanSyntaxError, UnknownTableError
from agentsys.lake.queries.plan import Plan
from agentsys.lake.queries.sandbox import (
    QueryFailedError,
    QueryMemoryError,
    QuerySandbox,
    QueryTimeoutError,
    ResultTooLargeError,
    SandboxError,
    SandboxLimits,
    UnknownColumnError,
)
from tests.lake.query_families import beach_families


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[Family]:
    return beach_families(tmp_path_factory.mktemp("query"))


@pytest.fixture(scope="module")
def sandbox(families: list[Family]) -> QuerySandbox:
    return QuerySandbox(families)


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the outer wall away, so that a test meets the inner ones."""
    monkeypatch.setattr(Plan, "validate", lambda self, grants: None)


def test_a_family_is_the_union_of_its_files(sandbox: QuerySandbox) -> None:
    result = sandbox.run("SELECT _file, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1")
    assert result.columns == ("_file", "n")
    assert result.rows == (("samples-2005.csv", 120), ("samples-2006.csv", 120), ("samples-2007.csv", 120))
    assert not result.truncated


def test_values_come_back_json_safe(sandbox: QuerySandbox) -> None:
    result = sandbox.run(
        "SELECT odd, july, DATE '2020-02-03' AS day, [july, NULL] AS pair, sum(year) OVER () AS total, "
        "{'a': TIMESTAMP '2020-02-03 04:05:06'} AS record, INTERVAL 90 SECOND AS lasting FROM rain LIMIT 1"
    )
    row = dict(zip(result.columns, result.rows[0], strict=True))
    assert row["odd"] is None
    assert row["july"] == 3.0
    assert row["day"] == "2020-02-03"
    assert row["pair"] == [3.0, None]
    assert row["total"] == 10029
    assert row["record"] == {"a": "2020-02-03T04:05:06"}
    assert row["lasting"] == 90.0
    json.dumps(result.rows, allow_nan=False)


def test_a_later_step_reads_an_earlier_one(sandbox: QuerySandbox) -> None:
    plan = Plan.of(
        "SELECT round(100.0 * count(*) FILTER (WHERE violation = 'yes') / count(*), 2) AS rate FROM samples "
        "WHERE beach = 'Bucks Creek' AND year = (SELECT year FROM wettest)",
        wettest="SELECT year FROM rain WHERE town = 'Chatham' ORDER BY june + july DESC LIMIT 1",
    )
    result = sandbox.run(plan)
    assert result.rows == ((25.0,),)
    assert [(source.family, source.files) for source in result.sources] == [
        ("samples", ("water/samples-2006.csv",)),
        ("rain", ("rain.csv",)),
    ]


def test_steps_the_answer_does_not_need_are_not_run(sandbox: QuerySandbox) -> None:
    plan = Plan.of("SELECT count(*) AS n FROM rain", unused="SELECT nonsense FROM samples")
    assert sandbox.run(plan).rows == ((5,),)


def test_the_row_limit_truncates_and_says_so(families: list[Family]) -> None:
    result = QuerySandbox(families, SandboxLimits(rows=7)).run("SELECT * FROM samples")
    assert len(result.rows) == 7
    assert result.truncated


def test_a_result_of_few_but_huge_values_is_refused(families: list[Family]) -> None:
    with pytest.raises(ResultTooLargeError, match="1000 bytes"):
        QuerySandbox(families, SandboxLimits(result_bytes=1000)).run("SELECT string_agg(town, ' ') FROM samples")


ATTACKS = {
    "read a file": "SELECT * FROM read_text('/etc/passwd')",
    "read bytes": "SELECT * FROM read_blob('/etc/hostname')",
    "read csv": "SELECT * FROM read_csv('/etc/passwd')",
    "list files": "SELECT * FROM glob('/etc/*')",
    "replacement scan": "SELECT * FROM '/etc/passwd'",
    "replacement scan of csv": "FROM '/tmp/file.csv'",
    "attach": "ATTACH '/tmp/agentsys-attack.db' AS other",
    "copy out": "COPY samples TO '/tmp/agentsys-attack.csv'",
    "export": "EXPORT DATABASE '/tmp/agentsys-attack'",
    "load": "LOAD httpfs",
    "install": "INSTALL httpfs",
    "environment": "SELECT getenv('HOME')",
    "setting": "SELECT current_setting('memory_limit')",
    "settings": "SELECT * FROM duckdb_settings()",
    "catalog": "SELECT * FROM information_schema.tables",
    "views": "SELECT sql FROM duckdb_views()",
    "pragma": "PRAGMA version",
    "pragma function": "SELECT * FROM pragma_table_info('rain')",
    "set": "SET memory_limit = '1TB'",
    "dynamic sql": "FROM query('SELECT 42')",
    "dynamic table": "FROM query_table('rain')",
    "serialized sql": "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "write": "INSERT INTO rain SELECT * FROM rain",
    "write in a common table": "WITH gone AS (DELETE FROM rain RETURNING *) SELECT * FROM gone",
    "drop": "DROP VIEW rain",
    "create": "CREATE TABLE t AS SELECT 1",
    "describe": "DESCRIBE rain",
    "second statement": "SELECT 1; DROP VIEW rain",
    "recursive bomb": "WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a) SELECT count(*) FROM a",
    "long string": "SELECT repeat('x', 1000000000)",
    "sleep": "SELECT sleep_ms(100000)",
    "random": "SELECT random()",
    "the date": "SELECT current_date",
    "the date, quoted": 'SELECT "Current_Date" AS day',
    "the time of day": "SELECT localtime",
    "the time in a filter": "SELECT 1 WHERE date_part('year', current_timestamp) > 2000",
    "a nest too deep to read": "SELECT " + "NOT " * 900 + "true",
    "sample": "SELECT * FROM rain USING SAMPLE 2",
    "other schema": "SELECT * FROM pg_catalog.pg_tables",
    "view behind a common table": "WITH duckdb_views AS (SELECT sql FROM duckdb_views) SELECT sql FROM duckdb_views",
    "view before a common table": "WITH a AS (FROM duckdb_views), duckdb_views AS (SELECT 1) SELECT * FROM a",
    "view beside a common table": "SELECT * FROM duckdb_views, (WITH duckdb_views AS (SELECT 1) FROM duckdb_views) t",
    "quoted function": "SELECT \"getenv\"('HOME')",
    "function with a schema": "SELECT main.count(*) FROM rain",
    "hidden in a subquery": "SELECT (SELECT content FROM read_text('/etc/passwd')) FROM rain",
    "parameter": "SELECT $1",
}


@pytest.mark.parametrize("sql", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_stops_at_the_outer_wall(sandbox: QuerySandbox, sql: str) -> None:
    with pytest.raises((ForbiddenQueryError, UnknownTableError, PlanSyntaxError)) as refusal:
        Plan.of(sql).validate(sandbox.grants)
    assert refusal.value.remedy


def test_every_other_table_function_of_duckdb_is_refused(sandbox: QuerySandbox) -> None:
    rows = duckdb.sql(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type LIKE 'table%'"
    ).fetchall()
    names = {row[0] for row in rows} - {"unnest", "range", "generate_series"}
    assert len(names) > 50
    for name in names:
        with pytest.raises((ForbiddenQueryError, PlanSyntaxError)):
            Plan.of(f"SELECT * FROM {name}('x')").validate(sandbox.grants)


INNER = ["read a file", "read csv", "list files", "replacement scan", "attach", "copy out", "load", "install", "set"]


@pytest.mark.parametrize("attack", INNER)
def test_the_inner_wall_holds_without_the_outer_one(
    sandbox: QuerySandbox, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchecked(monkeypatch)
    monkeypatch.setattr(
        "agentsys.lake.queries.sandbox.trace", lambda plan, grants: {step.name: Reads() for step in plan.steps}
    )
    with pytest.raises(QueryFailedError, match=r"disabled|does not exist|locked"):
        sandbox.run(ATTACKS[attack])


class Reads:
    """A trace that grants both families."""

    def __init__(self) -> None:
        self.tables, self.columns, self.outputs = {"samples", "rain"}, set(), None
        self.probes: dict[str, None] = {"samples": None, "rain": None}


def test_families_that_were_not_granted_do_not_exist(families: list[Family], monkeypatch: pytest.MonkeyPatch) -> None:
    only_rain = QuerySandbox(families[1:])
    with pytest.raises(UnknownTableError, match="samples"):
        only_rain.run("SELECT * FROM samples")
    parquet = families[0].tables[0].parquet
    unchecked(monkeypatch)
    monkeypatch.setattr(
        Reads, "__init__", lambda self: self.__dict__.update(tables={"rain"}, columns=set(), outputs=None)
    )
    monkeypatch.setattr(Reads, "probes", {"rain": None}, raising=False)
    monkeypatch.setattr(
        "agentsys.lake.queries.sandbox.trace", lambda plan, grants: {step.name: Reads() for step in plan.steps}
    )
    with pytest.raises(QueryFailedError, match="disabled"):
        only_rain.run(f"SELECT * FROM read_parquet('{parquet}')")


def test_the_worker_has_none_of_the_callers_environment(
    monkeypatch: pytest.MonkeyPatch, families: list[Family]
) -> None:
    monkeypatch.setenv("AGENTSYS_SECRET", "hush")
    monkeypatch.setattr(
        "agentsys.lake.queries.sandbox._WORKER",
        ("-c", "import os, sys; sys.exit(','.join(sorted(os.environ)) + ' seen')"),
    )
    with pytest.raises(SandboxError, match="seen") as seen:
        QuerySandbox(families).run("SELECT count(*) FROM rain")
    assert "SECRET" not in str(seen.value)


def test_a_cross_join_bomb_ends_at_the_time_limit(families: list[Family]) -> None:
    impatient = QuerySandbox(families, SandboxLimits(seconds=0.5, threads=1))
    with pytest.raises(QueryTimeoutError, match=r"0\.5 s"):
        impatient.run("SELECT count(a.town || b.town) FROM samples a, samples b, samples c, samples d, samples e")


def test_a_worker_deaf_to_interrupts_is_killed(monkeypatch: pytest.MonkeyPatch, families: list[Family]) -> None:
    monkeypatch.setattr("agentsys.lake.queries.sandbox._WORKER", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr("agentsys.lake.queries.sandbox._START_SECONDS", 0.2)
    with pytest.raises(QueryTimeoutError):
        QuerySandbox(families, SandboxLimits(seconds=0.1)).run("SELECT count(*) FROM rain")


def test_a_query_that_gathers_too_much_ends_at_the_memory_limit(families: list[Family]) -> None:
    poor = QuerySandbox(families, SandboxLimits(memory_bytes=64 * 2**20, threads=1))
    with pytest.raises(QueryMemoryError, match="64 MiB"):
        poor.run("SELECT list(a.town || b.town || c.town) FROM samples a, samples b, samples c")


def test_strings_that_double_end_at_the_memory_limit(families: list[Family]) -> None:
    doubling = ", ".join(f"t{n} AS (SELECT s || s AS s FROM t{n - 1})" for n in range(1, 33))
    poor = QuerySandbox(families, SandboxLimits(memory_bytes=64 * 2**20, threads=1))
    with pytest.raises((QueryMemoryError, QueryTimeoutError, QueryFailedError)):
        poor.run(f"WITH t0 AS (SELECT town AS s FROM rain), {doubling} SELECT max(length(s)) FROM t32")


def test_an_unknown_column_offers_near_names(sandbox: QuerySandbox) -> None:
    with pytest.raises(UnknownColumnError, match="enterococus") as unknown:
        sandbox.run("SELECT avg(enterococus) FROM samples")
    assert "enterococcus" in unknown.value.remedy


def test_an_unknown_table_offers_near_names(sandbox: QuerySandbox) -> None:
    with pytest.raises(UnknownTableError, match="sample") as unknown:
        sandbox.run("SELECT * FROM sample")
    assert "samples" in unknown.value.remedy


def test_a_value_that_does_not_convert_is_a_typed_error(sandbox: QuerySandbox) -> None:
    with pytest.raises(QueryFailedError, match=r"(?i)convert"):
        sandbox.run("SELECT town::INTEGER FROM rain")


def test_a_dead_worker_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, families: list[Family]) -> None:
    monkeypatch.setattr("agentsys.lake.queries.sandbox._WORKER", ("-c", "import os; os.abort()"))
    # Where it may not signal even itself, abort ends it by an illegal access.
    with pytest.raises(SandboxError, match=r"status -(6|11)"):
        QuerySandbox(families).run("SELECT count(*) FROM rain")


def test_names_and_paths_with_quotes_are_harmless(tmp_path: Path) -> None:
    from tests.lake.query_families import make_family

    odd = make_family(tmp_path, "odd", {"it's; DROP.csv": "SELECT 1 AS one"})
    result = QuerySandbox([odd]).run("SELECT _file FROM odd")
    assert result.rows == (("it's; DROP.csv",),)
    assert result.sources[0].files == ("it's; DROP.csv",)


def test_the_worker_itself_reads_no_other_file(
    monkeypatch: pytest.MonkeyPatch, families: list[Family], tmp_path: Path
) -> None:
    if not walls_here().held >= {"files", "network", "processes"}:
        pytest.skip("this machine has no walls for files")
    outside = tmp_path / "outside.txt"
    outside.write_text("hush")
    granted = families[1].tables[0].parquet
    code = f"import sys; open({str(granted)!r}, 'rb').read(); sys.exit(open({str(outside)!r}).read() + ' seen')"
    monkeypatch.setattr("agentsys.lake.queries.sandbox._WORKER", ("-c", code))
    with pytest.raises(SandboxError, match=r"outside\.txt") as refused:
        QuerySandbox(families).run("SELECT count(*) FROM rain")
    assert "seen" not in str(refused.value)


def test_a_family_of_thousands_of_files_is_read(tmp_path: Path) -> None:
    from tests.lake.query_families import make_family

    daily = make_family(tmp_path, "daily", {"0.csv": "SELECT 1 AS one"})
    (first,) = daily.tables
    tables = []
    for number in range(1500):
        copy = first.parquet.with_name(f"{number:0100}.parquet")
        copy.hardlink_to(first.parquet)
        tables.append(replace(first, file=f"{number}.csv", parquet=copy))
    result = QuerySandbox([replace(daily, tables=tuple(tables))]).run("SELECT sum(one) FROM daily")
    assert result.rows == ((1500,),)
