"""Families of tables and the model-free ranking of them, on small generated lakes and on the published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.lake.family_names import years_in
from agentsys.lake.lake import Lake
from agentsys.lake.profiles import Family
from agentsys.lake.terms import asked_years, kinship, phrases, stem, terms

DATA = Path(__file__).parents[3] / "shared" / "data" / "kramabench" / "data"
MakeLake = Callable[[dict[str, str]], Lake]


@pytest.fixture
def make_lake(tmp_path: Path) -> MakeLake:
    def make(files: dict[str, str]) -> Lake:
        for name, text in files.items():
            path = tmp_path / "lake" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Lake.open(tmp_path / "lake", cache=tmp_path / "cache")

    return make


def table(header: str, start: int, rows: int = 5) -> str:
    columns = header.count(",") + 1
    lines = [",".join(str(start + row * columns + column) for column in range(columns)) for row in range(rows)]
    return "\n".join([header, *lines]) + "\n"


def grouped(lake: Lake) -> dict[str, list[str]]:
    return {family.name: family.files for family in lake.families}


def test_yearly_files_are_one_family_although_a_column_comes_and_goes(make_lake: MakeLake) -> None:
    files = {f"sales-{year}.csv": table("day,shop,amount,tax", year) for year in range(2001, 2006)}
    files["sales-2003.csv"] = table("day,shop,amount,tax,tip", 2003)
    lake = make_lake(files)
    assert grouped(lake) == {"sales": sorted(files)}
    assert "2001 to 2005" in lake.families[0].description
    assert [column.name for column in lake.families[0].columns] == ["day", "shop", "amount", "tax", "tip"]


def test_a_renamed_column_is_recognised_by_its_content(make_lake: MakeLake) -> None:
    lake = make_lake(
        {"s1.csv": table("a,b,c,d", 0), "s2.csv": table("a,b,c,other", 0), "s3.csv": table("a,b,x,y", 999)}
    )
    assert sorted(map(len, grouped(lake).values())) == [1, 2]


def test_files_that_share_a_name_pattern_are_one_family(make_lake: MakeLake) -> None:
    towns = ("boston", "amherst", "chatham")
    lake = make_lake({f"rain_{town}.csv": table("year,jan,feb", number) for number, town in enumerate(towns)})
    assert grouped(lake) == {"rain": ["rain_amherst.csv", "rain_boston.csv", "rain_chatham.csv"]}


def test_a_folder_full_of_like_files_is_named_after_it(make_lake: MakeLake) -> None:
    states = ("Ohio", "Utah", "Iowa", "Maine", "Texas")
    lake = make_lake({f"By State/{state}.csv": table("area,n", number) for number, state in enumerate(states)})
    assert list(grouped(lake)) == ["by_state"]


def test_two_subjects_of_one_schema_stay_apart(make_lake: MakeLake) -> None:
    lake = make_lake({"rank_fraud_cases.csv": table("state,n", 0), "rank_theft_cases.csv": table("state,n", 7)})
    assert set(grouped(lake)) == {"rank_fraud_cases", "rank_theft_cases"}


def test_a_prefix_shared_by_a_folder_is_left_out_of_names(make_lake: MakeLake) -> None:
    subjects = ("apples", "pears", "plums", "cherries", "quinces", "grapes")
    lake = make_lake({f"2024_XYZ_{name}.csv": table(f"{name},n", number) for number, name in enumerate(subjects)})
    assert set(grouped(lake)) == set(subjects)


def test_a_copy_forms_no_family_of_its_own(make_lake: MakeLake) -> None:
    text = table("a,b", 0)
    lake = make_lake({"data.csv": text, "copy of data.csv": text})
    assert grouped(lake) == {"data": ["data.csv"]}
    assert {file.path: file.duplicate_of for file in lake.files} == {"data.csv": "", "copy of data.csv": "data.csv"}


def test_tables_of_one_file_are_families_with_names_that_tell_them_apart(make_lake: MakeLake) -> None:
    lake = make_lake({"m.csv": "T,,\n,,\nStatus,n,m\na,1,2\nb,3,4\n,,\nBranch,n,m\nc,5,6\nd,7,8\n"})
    assert set(grouped(lake)) == {"m_by_status", "m_by_branch"}


def test_family_label_joins_its_files(make_lake: MakeLake) -> None:
    lake = make_lake({"s1.csv": table("a,b", 0), "s2.csv": table("a,b", 5)})
    assert lake.families[0].label.influencers == {"file:s1.csv", "file:s2.csv"}
    assert lake.families[0].label.readers.members == {"user:owner"}


@pytest.mark.parametrize(
    ("question", "years"),
    [
        ("in 2013", {2013}),
        ("2024 vs 2001", {2024, 2001}),
        ("between 2002 and 2005", {2002, 2003, 2004, 2005}),
        ("from 2002 to 2004 (inclusive)", {2002, 2003, 2004}),
        ("2019-2021", {2019, 2020, 2021}),
        ("since 2022", {2022, 2023, 2024}),
        ("in 2012 and 2020", {2012, 2020}),
        ("costs 2013.5 or 2,013 or $2013", set()),
        ("no year", set()),
    ],
)
def test_years_of_a_question(question: str, years: set[int]) -> None:
    assert asked_years(question, newest=2024) == years


def test_terms_match_across_forms() -> None:
    assert kinship(stem("freshwater"), stem("fresh")) > 0
    assert kinship(stem("june"), stem("jun")) > 0
    assert kinship(stem("category"), stem("categories")) == 1
    assert kinship("art", "artichoke") == 0
    assert terms("the NewYork beaches") == ["new", "york", "beach"]
    assert years_in("water-testing-2002.csv") == [2002]


@given(st.text(max_size=200))
def test_any_text_gives_terms_and_phrases(text: str) -> None:
    found = terms(text)
    assert len(phrases(found)) == max(0, len(found) - 1)


@pytest.fixture
def shop(make_lake: MakeLake) -> Lake:
    files = {f"sales-{year}.csv": f"day,amount\n{year}-01-01,{year}\n{year}-01-02,7\n" for year in range(2001, 2006)}
    files["rivers.csv"] = "river,length\nRhine,1230\nElbe,1094\n"
    files["mountains.csv"] = "mountain,height\nZugspitze,2962\nWatzmann,2713\n"
    return make_lake(files)


def names(claims: list) -> list[str]:
    return [claim.family.name for claim in claims]


def test_names_headers_and_values_rank_families(shop: Lake) -> None:
    assert names(shop.index.rank("total sales"))[0] == "sales"
    assert names(shop.index.rank("What is the height of it?"))[0] == "mountains"
    (claim,) = shop.index.rank("How long is the Elbe?")
    assert claim.family.name == "rivers" and claim.reasons == ("elbe",) and 0 < claim.score <= 1


def test_nothing_matched_means_nobody_volunteers(shop: Lake) -> None:
    assert shop.index.rank("xyzzy") == shop.index.offer("xyzzy") == []
    assert shop.index.offer("") == []


def test_two_needs_bring_two_families(shop: Lake) -> None:
    assert {"rivers", "mountains"} <= set(names(shop.index.offer("Is the Elbe longer than the Watzmann is high?")))


def test_only_allowed_families_are_ranked(shop: Lake) -> None:
    allowed = [family for family in shop.families if family.name != "rivers"]
    assert shop.index.rank("How long is the Elbe?", allowed) == []


def test_the_asked_year_narrows_a_series(shop: Lake) -> None:
    def files(question: str) -> tuple[str, ...]:
        return next(claim.files for claim in shop.index.rank(question) if claim.family.name == "sales")

    assert files("sales in 2003") == ("sales-2003.csv",)
    assert files("sales between 2002 and 2004") == ("sales-2002.csv", "sales-2003.csv", "sales-2004.csv")
    assert len(files("all sales")) == 5


@pytest.fixture(scope="module")
def published(lake_cache: Path) -> Callable[[str], Lake]:
    if not DATA.is_dir():
        pytest.skip("the KramaBench lakes are not beside this checkout (../shared/data/kramabench)")
    return lambda name: Lake.open(DATA / name / "input", cache=lake_cache)


def family(lake: Lake, name: str) -> Family:
    return next(item for item in lake.families if item.name == name)


def test_environment_series(published: Callable[[str], Lake]) -> None:
    lake = published("environment")
    assert not lake.skipped
    assert {name: len(files) for name, files in grouped(lake).items()} == {
        "beach_datasheet": 8,
        "boston_harbor_beaches": 1,
        "environmental_justice_populations": 1,
        "monthly_precipitations": 4,
        "precipitations_beaches_community": 1,
        "water_body_testing": 22,
    }
    months = {column.name: column.type for column in family(lake, "monthly_precipitations").columns}
    assert months["jan"] == "DOUBLE" and months["year"] == "BIGINT"
    assert {column.name for column in family(lake, "beach_datasheet").columns} > {"date", "north_enterococcus"}


def test_legal_families(published: Callable[[str], Lake]) -> None:
    lake = published("legal")
    assert len(lake.files) == 132 and not lake.skipped
    sizes = {name: len(files) for name, files in grouped(lake).items()}
    assert sizes["state_msa_identity_theft_data"] == sizes["state_msa_fraud_and_other_data"] == 52
    (loss,) = [c for c in family(lake, "fraud_reports_by_payment_method").columns if c.name == "total_dollar_loss"]
    assert (loss.type, loss.unit, loss.maximum) == ("BIGINT", "$", 2_089_000_000)
    assert [column.name for column in family(lake, "top_three_identity_theft_reports_by_year").columns] == [
        "year",
        "theft_type",
        "number_of_reports",
    ]
    assert sum("military_branch" in name for name in sizes) == 1
