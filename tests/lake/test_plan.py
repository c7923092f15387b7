from __future__ import annotations

from pathlib import Path

import pytest

from agentsys.lake.ask import needed
from agentsys.lake.profiles import Family
from agentsys.lake.queries.allowlist import (
    MAX_SQL_CHARACTERS,
    ForbiddenQueryError,
    PlanSyntaxError,
    UnknownTableError,
)
from agentsys.lake.queries.plan import MAX_STEPS, Plan, PlanStep
from agentsys.lake.queries.provenance import trace
from agentsys.lake.queries.sandbox import QuerySandbox, SandboxLimits, Source
from tests.lake.query_families import beach_families, make_family

YEARS = ("water/samples-2005.csv", "water/samples-2006.csv", "water/samples-2007.csv")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> list[Family]:
    return beach_families(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def sandbox(families: list[Family]) -> QuerySandbox:
    return QuerySandbox(families)


def sources(sandbox: QuerySandbox, plan: Plan | str) -> dict[str, Source]:
    return {source.family: source for source in sandbox.run(plan).sources}


class TestParse:
    def test_bare_and_fenced_sql_is_one_step(self) -> None:
        expected = (PlanStep("answer", "SELECT 1"),)
        assert Plan.parse("SELECT 1;").steps == expected
        assert Plan.parse("Here it is:\n```sql\nSELECT 1\n```\nDone.").steps == expected

    def test_json_steps_round_trip(self) -> None:
        plan = Plan.of("SELECT * FROM a", a="SELECT 1 AS one")
        assert plan.steps[0] == PlanStep("a", "SELECT 1 AS one")
        assert Plan.from_json(plan.to_json()) == plan
        assert Plan.parse('{"steps": [{"name": "a", "sql": "SELECT 1"}]}').steps == (PlanStep("a", "SELECT 1"),)

    @pytest.mark.parametrize("text", ["{", '{"steps": 3}', '{"steps": [{"name": "a"}]}', '{"steps": ["SELECT 1"]}'])
    def test_other_json_is_a_typed_error(self, text: str) -> None:
        with pytest.raises(PlanSyntaxError):
            Plan.parse(text)


class TestValidate:
    @pytest.mark.parametrize(
        "plan",
        [
            Plan(()),
            Plan.parse("SELEC 1"),
            Plan.parse(""),
            Plan.parse("-- nothing"),
            Plan((PlanStep("two words", "SELECT 1"),)),
            Plan((PlanStep("rain", "SELECT 1"),)),
            Plan((PlanStep("a", "SELECT 1"), PlanStep("A", "SELECT 1"))),
            Plan(tuple(PlanStep(f"s{number}", "SELECT 1") for number in range(MAX_STEPS + 1))),
        ],
    )
    def test_malformed_plans_are_refused(self, plan: Plan, families: list[Family]) -> None:
        with pytest.raises(PlanSyntaxError):
            plan.validate(families)

    def test_a_step_cannot_read_a_later_one(self, families: list[Family]) -> None:
        plan = Plan((PlanStep("first", "SELECT * FROM second"), PlanStep("second", "SELECT 1 AS one")))
        with pytest.raises(UnknownTableError, match="second"):
            plan.validate(families)

    def test_an_overlong_statement_is_refused(self, families: list[Family]) -> None:
        with pytest.raises(ForbiddenQueryError, match="characters"):
            Plan.of("SELECT 1" + " " * MAX_SQL_CHARACTERS).validate(families)

    def test_a_common_table_hides_no_function(self, families: list[Family]) -> None:
        with pytest.raises(ForbiddenQueryError, match="read_text"):
            Plan.of("WITH rain AS (SELECT * FROM read_text('x')) SELECT * FROM rain").validate(families)

    @pytest.mark.parametrize(
        "sql",
        [
            "FROM rain",
            "SELECT town, rank() OVER (ORDER BY sum(june) DESC) AS place FROM rain GROUP BY town QUALIFY place = 1",
            "WITH wet AS (SELECT * FROM rain WHERE june > 3) SELECT count(*) FROM wet JOIN samples USING (town, year)",
            "SELECT * EXCLUDE (odd) FROM rain UNION ALL BY NAME SELECT town, year FROM samples",
            "SELECT CASE WHEN june IN (1, 2) THEN 'low' ELSE coalesce(town, '?') END FROM rain",
            "SELECT TRY_CAST(town AS BIGINT), june::VARCHAR FROM rain",
            "SELECT month, wet FROM (UNPIVOT rain ON june INTO NAME month VALUE wet)",
            "SELECT regexp_extract(_file, '\\d+') || '!' FROM samples WHERE beach ILIKE '%creek%'",
            "SELECT extract(year FROM sampled_on), sampled_on + INTERVAL 1 DAY FROM samples",
            "SELECT list_transform(list(june), lambda x: x + 1) FROM rain",
            "SELECT y FROM generate_series(2000, 2005) AS t(y)",
            "SELECT DATE_TRUNC('month', sampled_on), MEDIAN(enterococcus) FROM SAMPLES GROUP BY 1",
        ],
    )
    def test_the_sql_that_questions_need_is_allowed_and_runs(self, sql: str, sandbox: QuerySandbox) -> None:
        sandbox.run(sql)


class TestProvenance:
    def test_columns_are_those_read_and_derivation_those_computed_from(self, sandbox: QuerySandbox) -> None:
        result = sandbox.run("SELECT town, avg(enterococcus) AS level FROM samples WHERE marine GROUP BY town")
        assert result.sources[0].columns == ("enterococcus", "marine", "town")
        assert result.derivation == {"town": ("samples.town",), "level": ("samples.enterococcus",)}

    @pytest.mark.parametrize(
        ("sql", "files"),
        [
            ("SELECT count(*) FROM samples", YEARS),
            ("SELECT count(*) FROM samples WHERE year = 2006", YEARS[1:2]),
            ("SELECT count(*) FROM samples WHERE _file LIKE '%2007%'", YEARS[2:]),
            ("SELECT max(enterococcus) FROM samples WHERE sampled_on < DATE '2006-01-01'", YEARS[:1]),
            ("SELECT * FROM samples ORDER BY enterococcus DESC LIMIT 1", YEARS),
            ("SELECT count(*) FROM samples s JOIN rain r ON s.year = r.year WHERE r.june > 9", YEARS[1:2]),
            ("WITH late AS (SELECT * FROM samples WHERE year >= 2006) SELECT count(*) FROM late", YEARS[1:]),
            ("SELECT 1 FROM samples WHERE year = 2005 UNION ALL SELECT 2 FROM samples WHERE year = 2007", YEARS[::2]),
            ("SELECT count(*) FROM (SELECT * FROM samples WHERE year = 2005)", YEARS[:1]),
            ("SELECT count(*) FROM rain WHERE year IN (SELECT year FROM samples WHERE year = 2007)", YEARS[2:]),
            ("SELECT count(*) FROM samples WHERE year = 1999", ()),
            (
                "WITH y AS (SELECT 2005 AS n) SELECT 1 FROM samples, y WHERE year = n UNION ALL SELECT n FROM y",
                YEARS[:1],
            ),
            ("WITH samples AS (SELECT * FROM samples WHERE year = 2007) SELECT count(*) FROM samples", YEARS[2:]),
        ],
    )
    def test_files_are_those_whose_rows_pass(self, sql: str, files: tuple[str, ...], sandbox: QuerySandbox) -> None:
        found = sources(sandbox, sql)["samples"]
        assert found.files == files
        assert found.narrowed

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT (SELECT max(s.enterococcus) FROM samples s WHERE s.year = r.year) FROM rain r WHERE r.year = 2005",
            "SELECT count(*) FROM (UNPIVOT samples ON enterococcus INTO NAME n VALUE v) WHERE year = 2005",
            "SELECT COLUMNS('y.*') FROM samples WHERE year = 2005",
            "SELECT count(*) FROM (WITH rain AS (SELECT 2005 AS year) SELECT * FROM samples JOIN rain USING (year))",
            "SELECT count(*) FROM rain SEMI JOIN samples USING (year)",
        ],
    )
    def test_where_it_cannot_be_known_every_file_is_named(self, sql: str, sandbox: QuerySandbox) -> None:
        found = sources(sandbox, sql)["samples"]
        assert found.files == YEARS
        assert not found.narrowed

    def test_derivation_runs_through_steps_common_tables_and_subqueries(self, sandbox: QuerySandbox) -> None:
        plan = Plan.of(
            "WITH pair AS (SELECT wet.total AS t, (SELECT max(enterococcus) FROM samples) AS worst FROM wet) "
            "SELECT t * 2 AS twice, worst, 1 AS one FROM pair",
            wet="SELECT town, june + july AS total FROM rain",
        )
        assert sandbox.run(plan).derivation == {
            "twice": ("rain.july", "rain.june"),
            "worst": ("samples.enterococcus",),
            "one": (),
        }

    @pytest.mark.parametrize(
        ("sql", "column", "origins"),
        [
            ("SELECT u.part FROM rain, unnest(string_split(rain.town, ' ')) AS u(part)", "part", {"rain.town"}),
            ("SELECT part FROM unnest((SELECT list(town) FROM rain)) AS u(part)", "part", {"rain.town"}),
            ("SELECT rain FROM rain", "rain", {"rain.town", "rain.june", "rain.july", "rain.year"}),
            ("SELECT r AS whole FROM (SELECT june FROM rain) AS r", "whole", {"rain.june"}),
            ("SELECT max(r) AS most FROM rain AS r", "most", {"rain.town", "rain.june"}),
        ],
    )
    def test_values_and_rows_that_are_taken_apart_or_whole_are_derived_from_their_columns(
        self, sandbox: QuerySandbox, sql: str, column: str, origins: set[str]
    ) -> None:
        result = sandbox.run(sql)
        assert origins <= set(result.derivation[column])
        assert origins <= {f"rain.{name}" for name in result.sources[0].columns}

    def test_what_a_step_hides_is_derived_from_all_it_reads(self, sandbox: QuerySandbox) -> None:
        plan = Plan.of(
            "SELECT max(wet) AS wettest FROM long", long="SELECT * FROM (UNPIVOT rain ON june INTO NAME m VALUE wet)"
        )
        assert "rain.june" in sandbox.run(plan).derivation["wettest"]

    def test_derivation_of_a_union_is_that_of_all_its_branches(self, sandbox: QuerySandbox) -> None:
        result = sandbox.run("SELECT june AS level FROM rain UNION ALL SELECT enterococcus FROM samples")
        assert result.derivation == {"level": ("rain.june", "samples.enterococcus")}

    def test_a_union_by_name_is_derived_from_all_it_could_be(self, sandbox: QuerySandbox) -> None:
        result = sandbox.run("SELECT june AS a FROM rain UNION ALL BY NAME SELECT year AS b, town AS c FROM rain")
        assert result.columns == ("a", "b", "c")
        assert all({"rain.june", "rain.year", "rain.town"} <= set(origin) for origin in result.derivation.values())

    def test_a_step_the_answer_does_not_read_is_no_source(self, sandbox: QuerySandbox) -> None:
        plan = Plan.of("SELECT count(*) FROM rain", unused="SELECT * FROM samples")
        assert list(sources(sandbox, plan)) == ["rain"]

    def test_files_of_the_same_name_are_all_named(self, tmp_path: Path) -> None:
        twins = make_family(
            tmp_path, "twins", {"a/x.csv": "SELECT 1 AS n", "b/x.csv": "SELECT 2 AS n", "b/y.csv": "SELECT 3 AS n"}
        )
        assert sources(QuerySandbox([twins]), "SELECT n FROM twins WHERE n = 1")["twins"].files == (
            "a/x.csv",
            "b/x.csv",
        )

    def test_names_match_in_any_case(self, sandbox: QuerySandbox) -> None:
        result = sandbox.run("SELECT Town FROM RAIN WHERE JUNE > 9")
        assert result.sources[0].columns == ("june", "town")

    def test_a_chain_that_doubles_thirty_times_is_traced_once(self, families: list[Family]) -> None:
        # Visiting every path would be 2^30 visits.
        chain = ", ".join(f"t{n} AS (SELECT a.x || b.x AS x FROM t{n - 1} a, t{n - 1} b)" for n in range(1, 31))
        found = trace(Plan.of(f"WITH t0 AS (SELECT town AS x FROM rain), {chain} SELECT x FROM t30"), families)
        assert found["answer"].outputs == [frozenset({"rain.town"})]


def test_more_rows_than_the_limit_do_not_hide_sources(families: list[Family]) -> None:
    result = QuerySandbox(families, SandboxLimits(rows=1)).run("SELECT * FROM samples WHERE year > 2005")
    assert result.truncated
    assert result.sources[0].files == YEARS[1:]


def test_a_need_is_read_in_a_block_of_code_as_a_plan_is() -> None:
    assert (
        needed('```json\n{"need": "prices of 2020"}\n```') == needed('{"need": "prices of 2020"}') == "prices of 2020"
    )
    assert needed("```sql\nSELECT 1\n```") is None and needed('{"steps": []}') is None


def test_columns_of_one_name_are_derived_from_all_that_they_are_computed_from(sandbox: QuerySandbox) -> None:
    result = sandbox.run("SELECT rain.town AS name, samples.beach AS name FROM rain JOIN samples USING (town) LIMIT 1")
    assert result.columns == ("name", "name")
    assert result.derivation == {"name": ("rain.town", "samples.beach")}
