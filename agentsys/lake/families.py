"""Groups tables into families: the yearly, regional or otherwise split parts of one data set.

Tables are alike by their lowest column names, and by MinHash where a column was renamed. Alike tables are one family
where their file names differ only in numbers, or share a beginning or an end, or fill a folder of their own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agentsys.blackboard.labels import join_all
from agentsys.lake.family_names import FileWords, describe, family_names, parent
from agentsys.lake.profiles import SAMPLES, ColumnProfile, Family, FileProfile, TableProfile, file_label

ALIKE: Final = 0.75
SAME_CONTENT: Final = 0.5
WORD_SERIES: Final = 3
NEARLY_EQUAL: Final = 0.9
FOLDER_SERIES: Final = 5
FOLDER_SHARE: Final = 0.8
TERMS: Final = 4000
_GENERATED: Final = re.compile(r"item|value|remark|column_\d+")


def group_tables(files: Sequence[FileProfile]) -> tuple[list[FileProfile], list[Family]]:
    """Return the files, with families set on their tables, and the families sorted by name.

    A byte-identical copy of a file forms no family of its own: it is marked as a duplicate of the first.
    """
    groups = _groups([table for file in files for table in file.tables])
    copies = _lone_copies(files, groups)
    kept = [group for group in groups if not {table.file for table in group} & copies.keys()]
    families = []
    for name, group in zip(family_names(kept), kept, strict=True):
        tables = tuple(replace(table, family=name) for table in group)
        label = join_all(file_label(table.file) for table in tables)
        families.append(Family(name, describe(name, tables), tables, merge_columns(tables), label))
    placed = {table.id: table for family in families for table in family.tables}
    marked = [
        replace(
            file,
            tables=tuple(placed[t.id] for t in file.tables if t.id in placed),
            duplicate_of=copies.get(file.path, ""),
        )
        for file in files
    ]
    return marked, sorted(families, key=lambda family: family.name)


def _groups(tables: Sequence[TableProfile]) -> list[list[TableProfile]]:
    by_template: dict[str, list[TableProfile]] = defaultdict(list)
    for table in tables:
        by_template[re.sub(r"\d+", "#", table.file)].append(table)
    groups: list[list[TableProfile]] = []
    lone: dict[str, list[TableProfile]] = defaultdict(list)
    for members in by_template.values():
        for cluster in _clusters(members, ALIKE):
            if len(cluster) > 1:
                groups.append(cluster)
            else:
                lone[parent(cluster[0].file)].append(cluster[0])
    names = FileWords({table.file for table in tables})
    for members in lone.values():
        for cluster in _clusters(members, NEARLY_EQUAL):
            groups += _word_series(cluster, names)
    return sorted(groups, key=lambda group: group[0].id)


def _clusters(tables: Sequence[TableProfile], share: float) -> list[list[TableProfile]]:
    """Group alike tables, each compared with the first of a group; two tables of one file are never grouped."""
    clusters: list[list[TableProfile]] = []
    for table in tables:
        fitting = (c for c in clusters if all(t.file != table.file for t in c) and alike(c[0], table, share))
        home = next(fitting, None)
        if home is None:
            clusters.append([table])
        else:
            home.append(table)
    return clusters


def alike(one: TableProfile, other: TableProfile, share: float = ALIKE) -> bool:
    """Whether this share of the columns agrees by name, or by content where the name differs."""
    left, right = _leaves(one), _leaves(other)
    shared = left & right
    needed = share * max(len(left), len(right))
    if len(shared) >= needed:
        return True
    rest = [column for column in other.columns if column.leaf in right - shared]
    renamed = sum(
        any(column.type == match.type and similarity(column, match) >= SAME_CONTENT for match in rest)
        for column in one.columns
        if column.leaf in left - shared
    )
    return bool(shared) and min(len(left), len(right)) > 2 and len(shared) + renamed >= needed


def similarity(one: ColumnProfile, other: ColumnProfile) -> float:
    """Estimate the Jaccard similarity of two columns' distinct values from their MinHash signatures."""
    if not one.signature or not other.signature:
        return 0.0
    equal = sum(a == b for a, b in zip(one.signature, other.signature, strict=True))
    return equal / len(one.signature)


def _leaves(table: TableProfile) -> frozenset[str]:
    return frozenset(column.leaf for column in table.columns if not column.leaf.endswith("_text"))


def _word_series(cluster: list[TableProfile], names: FileWords) -> list[list[TableProfile]]:
    """Keep alike tables of one folder together where their names are one pattern, else part them."""
    stems = [names.of(table.file) for table in cluster]
    patterned = all(stem[0] == stems[0][0] for stem in stems) or all(stem[-1] == stems[0][-1] for stem in stems)
    fills_folder = len(cluster) >= max(FOLDER_SERIES, FOLDER_SHARE * names.files_beside(cluster[0].file))
    named = any(not _GENERATED.fullmatch(column.leaf) for column in cluster[0].columns)
    if named and (fills_folder or (len(cluster) >= WORD_SERIES and patterned)):
        return [cluster]
    return [[table] for table in cluster]


def _lone_copies(files: Sequence[FileProfile], groups: Sequence[Sequence[TableProfile]]) -> dict[str, str]:
    """Map each copy that is in no series to the file of the shortest name with the same bytes."""
    in_series = {table.file for group in groups if len({t.file for t in group}) > 1 for table in group}
    first: dict[str, str] = {}
    copies = {}
    for file in sorted(files, key=lambda file: (len(file.path), file.path)):
        original = first.setdefault(file.sha256, file.path)
        if original != file.path and file.path not in in_series:
            copies[file.path] = original
    return copies


def merge_columns(tables: Sequence[TableProfile]) -> tuple[ColumnProfile, ...]:
    """Return the columns of the union by name, in order of first appearance."""
    by_name: dict[str, list[tuple[TableProfile, ColumnProfile]]] = defaultdict(list)
    for table in tables:
        for column in table.columns:
            by_name[column.name].append((table, column))
    rows = sum(table.rows for table in tables)
    return tuple(_merged(parts, rows) for parts in by_name.values())


def _merged(parts: Sequence[tuple[TableProfile, ColumnProfile]], rows: int) -> ColumnProfile:
    columns = [column for _, column in parts]
    filled = sum(table.rows * (1 - column.null_fraction) for table, column in parts)
    type_ = union_type({column.type for column in columns if column.null_fraction < 1} or {columns[0].type})
    lows = [column.minimum for column in columns if column.minimum is not None]
    highs = [column.maximum for column in columns if column.maximum is not None]
    as_text = type_ == "VARCHAR"
    signatures = [column.signature for column in columns if column.signature]
    terms = tuple(dict.fromkeys(term for column in columns for term in column.terms))
    return replace(
        columns[0],
        type=type_,
        null_fraction=1 - filled / rows if rows else 1.0,
        distinct=max(len(terms), *(column.distinct for column in columns)),
        minimum=min(map(str, lows) if as_text else lows, default=None),
        maximum=max(map(str, highs) if as_text else highs, default=None),
        samples=tuple(dict.fromkeys(sample for column in columns for sample in column.samples))[:SAMPLES],
        unit=next((column.unit for column in columns if column.unit), ""),
        signature=tuple(map(min, zip(*signatures, strict=True))) if signatures else (),
        terms=terms[:TERMS],
    )


def union_type(types: set[str]) -> str:
    """Return the type of ``UNION ALL BY NAME`` over columns of these types."""
    if len(types) == 1:
        return next(iter(types))
    if types == {"BIGINT", "DOUBLE"}:
        return "DOUBLE"
    return "TIMESTAMP" if types == {"DATE", "TIMESTAMP"} else "VARCHAR"
