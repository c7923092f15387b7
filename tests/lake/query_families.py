"""Small families written as Parquet for the query-side tests, profiled the way the lake profiles them."""

from __future__ import annotations

from pathlib import Path

import duckdb

from agentsys.lake.profiles import ColumnProfile, Family, TableProfile, file_label


def make_family(folder: Path, name: str, files: dict[str, str]) -> Family:
    """Return a family whose files (lake-relative path) hold the rows of a SQL query each."""
    tables = []
    for number, (file, query) in enumerate(files.items()):
        parquet = folder / f"{name}_{number}.parquet"
        duckdb.sql(query).write_parquet(str(parquet))
        columns = _profiles(f"SELECT * FROM read_parquet('{parquet}')")
        tables.append(TableProfile(f"{name}{number}", file, name, parquet, 0, columns))
    union = " UNION ALL BY NAME ".join(f"SELECT * FROM read_parquet('{table.parquet}')" for table in tables)
    label = file_label(tables[0].file).join(*(file_label(table.file) for table in tables))
    return Family(name, f"the {name} files", tuple(tables), _profiles(union), label)


def _profiles(query: str) -> tuple[ColumnProfile, ...]:
    relation = duckdb.sql(query)
    profiles = []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        values = [
            row[0]
            for row in duckdb.sql(f'SELECT DISTINCT "{name}" FROM ({query}) WHERE "{name}" IS NOT NULL').fetchall()
        ]
        texts = tuple(sorted(str(value) for value in values))
        profiles.append(
            ColumnProfile(
                name=name,
                original=name.replace("_", " ").title(),
                leaf=name,
                type=str(kind),
                null_fraction=0.0,
                distinct=len(values),
                minimum=None,
                maximum=None,
                samples=texts[:8],
                terms=texts if str(kind) == "VARCHAR" else (),
            )
        )
    return tuple(profiles)


def beach_families(folder: Path) -> list[Family]:
    """Return two related families: a yearly series of water samples (3 files) and rainfall per town (1 file)."""
    samples = {
        f"water/samples-{year}.csv": f"""
            SELECT {year}::BIGINT AS year, town, beach, (i * 7 + {year}) % 50 + 0.5 AS enterococcus,
                   CASE WHEN (i + {year}) % 4 = 0 THEN 'yes' ELSE 'no' END AS violation,
                   DATE '{year}-06-01' + i::INTEGER AS sampled_on, i % 2 = 0 AS marine
            FROM range(40) r(i),
                 (VALUES ('Chatham', 'Bucks Creek'), ('Boston', 'Carson'), ('Hull', 'St. Ann''s')) t(town, beach)
            """
        for year in (2005, 2006, 2007)
    }
    rain = """
        SELECT town, year::BIGINT AS year, june::DOUBLE AS june, july::DECIMAL(8, 2) AS july, 'NaN'::DOUBLE AS odd
        FROM (VALUES ('Chatham', 2005, 2.5, 3.0), ('Chatham', 2006, 9.5, 4.25), ('Chatham', 2007, 1.0, 1.0),
                     ('Boston', 2005, 4.0, 4.0), ('Boston', 2006, 2.0, 2.0)) v(town, year, june, july)
        """
    return [make_family(folder, "samples", samples), make_family(folder, "rain", {"rain.csv": rain})]
