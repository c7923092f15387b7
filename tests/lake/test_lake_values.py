"""Meaning of written cells, checked in Python and in the SQL that converts whole columns."""

from __future__ import annotations

import datetime

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.lake.reading.values import interpret, kind, text_sql, typed_sql


def converted(cells: list[str]) -> list[object]:
    """Convert cells as the lake does: judge them together, then run the SQL on each."""
    how = interpret([cell.strip() for cell in cells if cell.strip()])
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE raw (position INTEGER, cell VARCHAR)")
        connection.executemany("INSERT INTO raw VALUES (?, ?)", list(enumerate(cells)))
        stripped = f"(SELECT position, {text_sql('cell')} AS cell FROM raw)"
        typed = f"SELECT {typed_sql('cell', how)} FROM {stripped} ORDER BY position"
        return [value for (value,) in connection.execute(typed).fetchall()]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2", ""], [1, 2, None]),
        (["1.5", "2"], [1.5, 2.0]),
        (["1,234", "12", "1,234,567"], [1234, 12, 1234567]),
        (["$2,089M", "$71M", "$920 "], [2089000000, 71000000, 920]),
        (["$1.5B", "$2K"], [1.5e9, 2000.0]),
        (["$5M*", "$3  K", "($2B)†", "$4"], [5_000_000, 3000, -2_000_000_000, 4]),
        (["14.98%", "-6%", "0%"], [14.98, -6.0, 0.0]),
        (["$999999999999999B", "$5"], [None, 5]),
        (["(1,234)", "5"], [-1234, 5]),
        (["−5", "7"], [-5, 7]),
        (["<10", "12", ">2000"], [10, 12, 2000]),
        (["3.1", "M", "2.2", "N/A", "1"], [3.1, None, 2.2, None, 1.0]),
        (["3,14", "1.234,5", "1,234"], [3.14, 1234.5, 1.234]),
        (["1e3", "2.5"], [1000.0, 2.5]),
        (["true", "False"], [True, False]),
        (["041", "243"], ["041", "243"]),
        (["5M", "10M"], ["5M", "10M"]),
        (["No", "yes"], ["No", "yes"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["-1234567890123456789", "-1234567890123456788"], ["-1234567890123456789", "-1234567890123456788"]),
        (["inf", "nan"], ["inf", "nan"]),
        (["August 7, 2024", "May 31, 2001"], [datetime.date(2024, 8, 7), datetime.date(2001, 5, 31)]),
        (["31/12/2020", "01/02/2021"], [datetime.date(2020, 12, 31), datetime.date(2021, 2, 1)]),
        (["12/31/2020", "01/02/2021"], [datetime.date(2020, 12, 31), datetime.date(2021, 1, 2)]),
        (["2002-06-19 00:00:00"], [datetime.date(2002, 6, 19)]),
        (["2010/01/01 13:30"], [datetime.datetime(2010, 1, 1, 13, 30)]),
        (["Jan 1 2000"], [datetime.date(2000, 1, 1)]),
        (["2020-13-45"], ["2020-13-45"]),
    ],
)
def test_cells_become_values(cells: list[str], values: list[object]) -> None:
    assert converted(cells) == values


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=20), st.sampled_from(["", "$", "€"]))
@settings(max_examples=40, deadline=None)
def test_any_integer_survives_separators_and_currency(numbers: list[int], sign: str) -> None:
    cells = [f"{'-' if number < 0 else ''}{sign}{abs(number):,}" for number in numbers]
    assert converted(cells) == numbers


@given(st.lists(st.decimals(-(10**6), 10**6, places=2), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_any_percentage_survives(numbers: list) -> None:
    assert converted([f"{number}%" for number in numbers]) == [float(number) for number in numbers]


@given(st.lists(st.dates(datetime.date(1600, 1, 1), datetime.date(2199, 1, 1)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_any_iso_date_survives(days: list[datetime.date]) -> None:
    assert converted([day.isoformat() for day in days]) == days


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_has_a_kind(cell: str) -> None:
    assert kind(cell.strip()) in ("empty", "number", "date", "text")


def test_units_are_kept() -> None:
    assert interpret(["$5", "$7"]).unit == "$"
    assert interpret(["5%", "7%"]).unit == "%"
    assert interpret(["5", "7"]).unit == ""


def test_censored_and_mixed_numbers_keep_their_text() -> None:
    assert interpret(["<10", "12"]).keep_text
    assert interpret(["1", "2", "3", "4", "5", "estimated"]).keep_text
    assert not interpret(["1", "2", "M"]).keep_text
    assert not interpret(["1", "2", "M", "NA", "--"]).keep_text
    assert interpret(["$5", "€5"]).keep_text, "a number alone does not say of which currency it is"
    assert interpret(["1", "2", "K", "PK"]).keep_text, "two kinds of what is no number are no missing values"
