"""Readable names and one-line descriptions of families."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Final

from agentsys.lake.profiles import TableProfile
from agentsys.lake.reading.compression import bare_name
from agentsys.lake.reading.names import MAX_LENGTH, identifier, unique, words
from agentsys.lake.reading.sources import SECTION

FOLDER_PREFIX_FILES: Final = 5
FOLDER_PREFIX_SHARE: Final = 0.8
LISTED_COLUMNS: Final = 8
_YEAR: Final = re.compile(r"(?<!\d)(1[5-9]\d\d|20\d\d|21\d\d)(?!\d)")


def stem_words(file: str) -> list[str]:
    """Return the lower-case words of a file's name without its extension; never empty."""
    name = bare_name(file)
    return [word.lower() for word in words(name)] or [name]


def years_in(text: str) -> list[int]:
    """Return the years named in a text, sorted."""
    return sorted({int(year) for year in _YEAR.findall(text)})


def parent(file: str) -> str:
    """Return the folder of a lake-relative file."""
    return str(PurePosixPath(file).parent)


class FileWords:
    """The words of file names, without the first words that nearly all files of a folder share."""

    def __init__(self, files: set[str]) -> None:
        self._by_folder: dict[str, list[list[str]]] = defaultdict(list)
        for file in files:
            self._by_folder[parent(file)].append(stem_words(file))
        self._cut = {
            folder: _shared_prefix(stems)
            for folder, stems in self._by_folder.items()
            if len(stems) >= FOLDER_PREFIX_FILES
        }

    def of(self, file: str) -> list[str]:
        """Return the telling words of a file's name; never empty."""
        told = stem_words(file)
        return told[self._cut.get(parent(file), 0) :] or told

    def files_beside(self, file: str) -> int:
        """Return the number of files in the file's folder."""
        return len(self._by_folder[parent(file)])


def family_names(groups: Sequence[Sequence[TableProfile]]) -> list[str]:
    """Return a unique identifier for each group: the words its files share, without what the whole folder shares."""
    words_of = FileWords({table.file for group in groups for table in group})
    tables = Counter(table.file for group in groups for table in group)
    return unique(_name(group, words_of, tables[group[0].file]) for group in groups)


def _name(group: Sequence[TableProfile], words_of: FileWords, tables_in_file: int) -> str:
    shared = _shared_words([words_of.of(table.file) for table in group], several=len(group) > 1)
    shared = shared or _shared_words([stem_words(table.file) for table in group], several=len(group) > 1)
    shared = shared or words(PurePosixPath(parent(group[0].file)).name)
    if tables_in_file > 1:
        shared = _with_section(shared, group[0])
    return identifier(" ".join(shared), "table")


def _shared_words(stems: Sequence[Sequence[str]], *, several: bool) -> list[str]:
    """Return the words that all names share; of several files, not the numbers that tell them apart."""
    shared = [word for word in stems[0] if all(word in stem for stem in stems)]
    return [word for word in shared if not (several and word.isdigit())]


def _with_section(shared: list[str], table: TableProfile) -> list[str]:
    """Tell the tables of one file apart by the title of the section, or by the first column."""
    *_, section = table.title.split(SECTION)
    added = words(section) if SECTION in table.title else ["by", *words(table.columns[0].original)]
    fresh = [word for word in added if word.lower() not in shared]
    if not set(fresh) - {"by"}:
        return shared
    kept = shared
    while len(kept) > 2 and len(" ".join(kept + fresh)) > MAX_LENGTH:
        kept = kept[:-1]
    return kept + fresh


def _shared_prefix(stems: Sequence[Sequence[str]]) -> int:
    length = 0
    while True:
        heads = Counter(tuple(stem[: length + 1]) for stem in stems if len(stem) > length + 1)
        if not heads or heads.most_common(1)[0][1] < FOLDER_PREFIX_SHARE * len(stems):
            return length
        length += 1


def describe(name: str, tables: Sequence[TableProfile]) -> str:
    """Return one line: what the tables are called, how many files and rows, and their first columns."""
    titles = [table.title for table in tables]
    shared = titles[0] if len(set(titles)) == 1 else _common_words(titles)
    subject = shared or name.replace("_", " ")
    files = sorted({table.file for table in tables})
    columns = [column.original for column in tables[0].columns[:LISTED_COLUMNS]]
    extent = f"{len(files)} files{_span(files)}" if len(files) > 1 else PurePosixPath(files[0]).name
    rows = sum(table.rows for table in tables)
    return " ".join(f"{subject}: {extent}, {rows} rows, columns {', '.join(columns)}".split())


def _common_words(titles: Sequence[str]) -> str:
    parts = [title.split() for title in titles]
    head = list(takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False)))
    tail = list(takewhile(lambda column: len(set(column)) == 1, zip(*(part[::-1] for part in parts), strict=False)))
    kept = [column[0] for column in head] if len(head) >= len(tail) else [column[0] for column in tail][::-1]
    return " ".join(kept)


def _span(files: Sequence[str]) -> str:
    years = sorted({year for file in files for year in years_in(PurePosixPath(file).name)})
    if len(years) > 1:
        return f" ({years[0]} to {years[-1]})"
    return f" ({bare_name(files[0])}, …, {bare_name(files[-1])})"
