from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import duckdb
import llguidance
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsys.lake.profiles import Family
from agentsys.lake.queries.grammar import identifier, sql_constraint, sql_grammar
from agentsys.lake.queries.plan import Plan
from agentsys.lake.queries.provenance import trace
from tests.lake.query_families import beach_families, make_family

ODD_COLUMNS = """
    SELECT 1 AS "order", 2.5 AS "group", 'a ''b''' AS "select", DATE '2020-01-01' AS "values", true AS "end",
           'x' AS "town", 3 AS "Mixed Case", 4 AS "größe", 'y' AS "date", 5 AS "count", 'z' AS "interval"
    """


class Bound:
    """Families as DuckDB views and a grammar over them."""

    def __init__(self, families: list[Family]) -> None:
        self.families = families
        self.grammar = sql_grammar(families)
        self.connection = duckdb.connect(":memory:")
        for family in families:
            tables = (
                f"SELECT *, '{Path(table.file).name}' AS _file FROM read_parquet('{table.parquet}')"
                for table in family.tables
            )
            self.connection.execute(f'CREATE VIEW "{family.name}" AS {" UNION ALL BY NAME ".join(tables)}')


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Bound:
    folder = tmp_path_factory.mktemp("grammar")
    return Bound([*beach_families(folder), make_family(folder, "table", {"odd/odd.csv": ODD_COLUMNS})])


def sentence(tokenizer: llguidance.LLTokenizer, lark: str, chooser: random.Random, stop: float = 0.5) -> str:
    """Walk the grammar at random to a complete sentence."""
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(lark), log_level=0)
    tokens: list[int] = []
    while not matcher.is_stopped():
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[: tokenizer.vocab_size])
        assert len(allowed), matcher.get_error()
        token = int(chooser.choice(allowed))
        if tokenizer.eos_token in allowed and (token == tokenizer.eos_token or chooser.random() < stop):
            break
        matcher.consume_token(token)
        tokens.append(token)
    return tokenizer.decode_bytes(tokens).decode()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chooser=st.randoms(use_true_random=False), stop=st.sampled_from([0.05, 0.5]))
def test_every_sentence_parses_binds_and_traces(bound: Bound, chooser: random.Random, stop: float) -> None:
    sql = sentence(llguidance.LLTokenizer("byte"), bound.grammar.lark, chooser, stop)
    assert len(sql.encode()) <= bound.grammar.longest
    plan = Plan.of(sql)
    plan.validate(bound.families)
    bound.connection.execute(f"EXPLAIN {sql}")
    assert trace(plan, bound.families)["answer"].outputs is not None


def accepts(lark: str, text: str) -> bool:
    """Whether the grammar derives exactly ``text``."""
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(lark), log_level=0)
    tokens = tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


USEFUL = [
    "SELECT count(*) FROM samples",
    "SELECT avg(enterococcus) FROM samples WHERE town = 'Chatham' AND year = 2006",
    "SELECT round(100.0 * count(*) FILTER (WHERE violation = 'yes') / count(*), 2) FROM samples WHERE NOT marine",
    "SELECT beach FROM samples WHERE beach IN ('St. Ann''s') GROUP BY beach ORDER BY max(enterococcus) DESC LIMIT 3",
    "SELECT town, sum(june + july) FROM rain GROUP BY town HAVING count(*) > 2 ORDER BY town",
    "SELECT year(sampled_on), count(*) FROM samples WHERE sampled_on >= DATE '2006-02-28' GROUP BY year(sampled_on)",
    "SELECT DISTINCT town FROM rain WHERE june = (SELECT max(june) FROM rain)",
    "SELECT count(*) FROM samples WHERE _file = 'samples-2006.csv'",
    "SELECT arg_max(town, june) FROM rain WHERE year BETWEEN 2005 AND 2006",
    "SELECT rain.town, avg(samples.enterococcus) FROM samples JOIN rain USING (town) GROUP BY rain.town",
    'SELECT sum("order") FROM "table" WHERE town = \'x\'',
]

USELESS = [
    "SELECT june FROM samples",
    "SELECT sum(town) FROM rain",
    "SELECT town, count(*) FROM rain",
    "SELECT town FROM rain WHERE town = 'Paris'",
    "SELECT town FROM rain WHERE june = 'wet'",
    "SELECT count(*) FROM samples WHERE sampled_on = DATE '2006-02-30'",
    "SELECT count(*) FROM read_csv('x.csv')",
    "SELECT count(*) FROM rain; DROP TABLE rain",
    "SELECT count(*) FROM samples JOIN rain USING (june)",
]


@pytest.mark.parametrize("sql", USEFUL)
def test_useful_queries_are_sentences(bound: Bound, sql: str) -> None:
    assert accepts(bound.grammar.lark, sql)
    bound.connection.execute(f"EXPLAIN {sql}")


@pytest.mark.parametrize("sql", USELESS)
def test_queries_that_cannot_mean_anything_are_not(bound: Bound, sql: str) -> None:
    assert not accepts(bound.grammar.lark, sql)


def test_no_repetition_is_unbounded(bound: Bound) -> None:
    chooser = random.Random(3)
    longest = max(
        len(sentence(llguidance.LLTokenizer("byte"), bound.grammar.lark, chooser, stop=0.0)) for _ in range(40)
    )
    assert longest <= bound.grammar.longest
    for operator in ("*", "+"):
        outside_text = "".join(part for number, part in enumerate(bound.grammar.lark.split('"')) if number % 2 == 0)
        rules = [line for line in outside_text.splitlines() if ": /" not in line]
        assert not any(operator in line for line in rules)


def test_the_lexer_is_never_lured_past_a_literal(bound: Bound) -> None:
    literals = {json.loads(text) for text in re.findall(r'"(?:[^"\\]|\\.)*"', bound.grammar.lark)}
    for short, long in itertools.permutations(literals, 2):
        if long.startswith(short):
            assert long[len(short)] not in " ,)", (short, long)


@pytest.mark.parametrize("name", ["order", "group", "select", "values", "Mixed Case", 'quo"te', "größe"])
def test_names_that_sql_would_misread_are_quoted(name: str) -> None:
    assert identifier(name).startswith('"')


@pytest.mark.parametrize("name", ["year", "town", "number_of_reports", "_file"])
def test_plain_names_stay_plain(name: str) -> None:
    assert identifier(name) == name


def test_the_question_keeps_the_columns_it_needs(tmp_path: Path) -> None:
    columns = ", ".join(f"{number} AS measure_{number}" for number in range(60))
    wide = make_family(tmp_path, "wide", {"wide.csv": f"SELECT {columns}, 7 AS rainfall"})
    assert not accepts(sql_grammar([wide]).lark, "SELECT sum(rainfall) FROM wide")
    assert accepts(sql_grammar([wide], "How much rainfall?").lark, "SELECT sum(rainfall) FROM wide")


def test_the_constraint_is_a_lark_grammar(bound: Bound) -> None:
    constraint = sql_constraint(bound.families)
    assert constraint.kind == "lark"
    assert constraint.source == bound.grammar.lark


def test_breadth_bounds_every_list(bound: Bound) -> None:
    narrow = sql_grammar(bound.families, breadth=1)
    assert narrow.longest < bound.grammar.longest
    assert accepts(narrow.lark, "SELECT june, july FROM rain WHERE june > 1 AND july > 1")
    assert not accepts(narrow.lark, "SELECT june, july, year FROM rain")
    assert not accepts(narrow.lark, "SELECT june FROM rain WHERE june > 1 AND july > 1 AND year > 1")


@pytest.mark.parametrize("breadth", [0, -1])
def test_no_family_or_no_breadth_is_an_error(bound: Bound, breadth: int) -> None:
    with pytest.raises(ValueError, match="at least one family"):
        sql_grammar([])
    with pytest.raises(ValueError, match="breadth"):
        sql_grammar(bound.families, breadth=breadth)


@pytest.mark.model
def test_sentences_of_the_real_vocabulary_bind_too(bound: Bound) -> None:
    from agentsys.serving.weights.errors import DownloadError
    from agentsys.serving.weights.pull import pull

    try:
        tokenizer = llguidance.LLTokenizer(str(pull() / "tokenizer.json"))
    except DownloadError as error:
        pytest.skip(f"the default model cannot be pulled here: {error}")
    chooser = random.Random(5)
    for _ in range(40):
        sql = sentence(tokenizer, bound.grammar.lark, chooser, stop=0.3)
        Plan.of(sql).validate(bound.families)
        bound.connection.execute(f"EXPLAIN {sql}")
