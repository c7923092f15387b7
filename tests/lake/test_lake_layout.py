"""Tables found in sheets of cells."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.lake.reading.delimited import sniff_delimiter
from agentsys.lake.reading.headers import name_columns
from agentsys.lake.reading.layout import find_tables


def sheet(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def names(text: str) -> list[list[str]]:
    return [[column.name for column in name_columns(block)[1]] for block in find_tables(sheet(text))]


def test_title_rows_and_notes_are_split_off() -> None:
    (block,) = find_tables(
        sheet('Reports by Year,\n,\nYear,# of Reports\n2001,"325,519"\n2002,"551,622"\n,\n"Source: X",\n')
    )
    assert block.title == ["Reports by Year"]
    assert block.notes == ["Source: X"]
    assert block.header == [["Year", "# of Reports"]]
    assert len(block.body) == 2


def test_stacked_tables_are_told_apart() -> None:
    text = (
        "All by Group,,\n,,\nStatus,Reports,Loss\nActive,10,5%\nRetired,20,6%\n,,\n"
        "Branch,Reports,Loss\nArmy,30,7%\nNavy,40,8%\n,,\n"
        '"Of the 100 reports from all consumers, 92% provided information about their branch.",,\n'
    )
    blocks = find_tables(sheet(text))
    assert [block.header[0][0] for block in blocks] == ["Status", "Branch"]
    assert [len(block.body) for block in blocks] == [2, 2]
    assert blocks[1].notes and not blocks[0].notes


def test_a_blank_row_inside_a_table_does_not_split_it() -> None:
    (block,) = find_tables(sheet("name,n\na,1\nb,2\n,\nc,3\nd,4\n"))
    assert len(block.body) == 4


def test_a_totals_section_of_another_shape_is_its_own_table() -> None:
    text = "method,n,loss\ncard,5,$2\ncash,6,$3\n,,\nNumber of reports,11,18% of Total\nOther,12,\n"
    assert [len(block.body) for block in find_tables(sheet(text))] == [2, 2]


def test_headings_over_groups_of_columns_are_joined() -> None:
    text = "Beach: Water,,,,,\n,,North,,South,\nDate,Rain,Tag,Count,Tag,Count\n2020-01-01,0,<,10,,12\n"
    assert names(text) == [["date", "rain", "north_tag", "north_count", "south_tag", "south_count"]]


@pytest.mark.parametrize("heading", ["name,color,color", "color,color,color", "name,name,color,color"])
def test_equal_headings_side_by_side_take_no_row_of_a_table_of_texts(heading: str) -> None:
    width = heading.count(",") + 1
    rows = [[f"{word} {column}" for column in "abcd"[:width]] for word in ("red", "green", "blue", "white")]
    (block,) = find_tables([heading.split(","), *rows])
    assert (block.header, block.body) == ([heading.split(",")], rows)


def test_headings_spread_over_groups_of_columns_are_joined() -> None:
    over_numbers = "kind,rain,rain,wind,wind\nplace,mean,most,mean,most\nBern,1,2,3,4\nGenf,5,6,7,8\n"
    assert names(over_numbers) == [["kind_place", "rain_mean", "rain_most", "wind_mean", "wind_most"]]
    over_texts = "name,contact,contact\nname,mail,town\nann,a@b.org,Bern\nbob,b@b.org,Genf\n"
    assert names(over_texts) == [["name", "contact_mail", "contact_town"]]


def test_unnamed_index_column_shifts_the_header() -> None:
    assert names('name,age\n0,"Ann",30\n1,"Bob",41\n') == [["column_1", "name", "age"]]


def test_exchanged_year_heading_is_mended_and_reported() -> None:
    (block,) = find_tables(sheet("Theft Type,Year,n\n2020,Card,1\n2021,Loan,2\n"))
    _, columns, remark = name_columns(block)
    assert [column.name for column in columns] == ["year", "theft_type", "n"]
    assert "Theft Type" in remark


def test_years_may_be_headings() -> None:
    assert names("country,2019,2020\nFR,1,2\nDE,3,4\n") == [["country", "n2019", "n2020"]]


def test_dates_may_be_headings_over_other_values_only() -> None:
    assert names("site,2020-01-01,2020-01-02\nx,1,2\ny,3,4\n") == [["site", "n2020_01_01", "n2020_01_02"]]
    assert names("x,2020-01-01,1\ny,2020-01-02,2\n") == [["column_1", "column_2", "column_3"]]


def test_no_header_gives_numbered_columns() -> None:
    assert names("1,a,2.5\n2,b,3.5\n3,c,4.5\n") == [["column_1", "column_2", "column_3"]]


def test_blank_doubled_and_reserved_headings_get_safe_names() -> None:
    text = "x,x,,order,Größe %\n1,2,3,4,5\n6,7,8,9,1\n"
    assert names(text) == [["x", "x_2", "column_3", "order_", "grosse_percent"]]


def test_closing_summary_rows_under_numbers_become_notes() -> None:
    (block,) = find_tables(sheet("Year,Jan\n2000,3.0\n2001,1.6\nMean,2.3\nMax,3.0 2000\n"))
    assert len(block.body) == 2
    assert block.notes == ["Mean 2.3", "Max 3.0 2000"]


def test_a_total_under_texts_stays_a_row() -> None:
    (block,) = find_tables(sheet("State,n\nOhio,3\nTotal,3\n"))
    assert len(block.body) == 2


def test_list_without_header() -> None:
    rows = [["Carson Beach"], ["Malibu Beach"]]
    assert len(find_tables(rows, headless_list=True)[0].body) == 2
    assert len(find_tables(rows)[0].body) == 1


def test_only_text_is_no_table() -> None:
    assert find_tables(sheet("Just a title,\n,\nSource: nobody,\n")) == []
    assert find_tables([]) == []


cells = st.text(st.characters(categories=["Lu", "Ll"], max_codepoint=0x17F), min_size=1, max_size=8)


@given(
    st.lists(cells, min_size=2, max_size=5, unique_by=str.lower),
    st.lists(st.integers(0, 10**6), min_size=5, max_size=20),
    st.sampled_from([",", "\t", ";", "|"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=60, deadline=None)
def test_any_dialect_is_recognised_and_loses_no_row(
    header: list[str], numbers: list[int], delimiter: str, quoting: int
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
    writer.writerow(header)
    writer.writerows([[number + column for column in range(len(header))] for number in numbers])
    lines = out.getvalue().splitlines()
    found = sniff_delimiter(lines)
    assert found == delimiter
    (block,) = find_tables(list(csv.reader(lines, delimiter=found)))
    assert block.header == [header]
    assert [row[0] for row in block.body] == [str(number) for number in numbers]


@given(st.lists(st.lists(st.text(max_size=6), max_size=5), max_size=15))
@settings(max_examples=300, deadline=None)
def test_any_sheet_is_read_without_error_and_no_row_twice(rows: list[list[str]]) -> None:
    blocks = find_tables(rows)
    filled = sum(any(cell.strip() for cell in row) for row in rows)
    assert sum(len(block.body) + len(block.header) for block in blocks) <= filled
    for block in blocks:
        used, columns, _ = name_columns(block)
        assert len(used) == len(columns) == len({column.name for column in columns})
