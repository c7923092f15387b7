"""Words of a question and of a lake, brought to one form so that they can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final

from agentsys.lake.reading.names import words

MIN_PREFIX: Final = 4
MIN_ABBREVIATION: Final = 3
PREFIX_WEIGHT: Final = 0.6
_TASK_WORDS: Final = frozenset(
    ("answer", "decimal", "decimals", "explanation", "give", "integer", "many", "much", "round", "rounded", "vs")
)
_NAME: Final = re.compile(r"\b[A-Z][a-z]+(?: [A-Z][a-z]+)+\b")
# fmt: off
OPERATIONS: Final = frozenset((
    "averag", "count", "differenc", "distinct", "exceed", "greatest", "highest", "increas", "largest", "least", "less",
    "low", "lowest", "maximum", "mean", "median", "minimum", "most", "number", "overall", "percent", "percentag",
    "proportion", "ratio", "relativ", "share", "smallest", "sum", "top", "total",
))
# fmt: on
"""Stems of words that more often say what to compute than what the data are about."""

_Y: Final = r"(1[5-9]\d\d|20\d\d|21\d\d)"
_YEAR: Final = re.compile(rf"(?<![\d.,$]){_Y}(?![\d,%]|\.\d)")
_RANGE: Final = re.compile(
    rf"between\s+{_Y}\s+and\s+{_Y}(?!\d)|\b{_Y}\s*(?:-|–|—|to|through|until|till)\s*{_Y}(?!\d)", re.IGNORECASE
)
_SINCE: Final = re.compile(rf"\b(?:since|after|from)\s+{_Y}\b(?!\s*(?:-|–|to|until|through|and))", re.IGNORECASE)
MAX_SPAN: Final = 300


def terms(text: str) -> list[str]:
    """Return the stemmed, lower-case words of a text in order, without stop words, letters and numbers but years."""
    found = (word.lower() for word in words_of(text))
    return [
        stem(word)
        for word in found
        if len(word) > 1 and word not in _stop_words() and (is_year(word) or not word.isdigit())
    ]


@cache
def _stop_words() -> frozenset[str]:
    """Return the words that say nothing of the data: English function words, and how an answer is to be written."""
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return _TASK_WORDS.union(STOPWORDS_EN_PLUS)


def words_of(text: str) -> list[str]:
    """Return the words of running text; names such as ``NewYork`` are parted too."""
    return [part for token in text.split() for part in words(token)]


def initials(question: str) -> list[str]:
    """Return the initials of names of several words, lower-case: ``San Francisco`` gives ``sf``."""
    return ["".join(word[0] for word in name.split()).lower() for name in _NAME.findall(question)]


def is_year(term: str) -> bool:
    """Whether a term is a calendar year."""
    return bool(_YEAR.fullmatch(term))


def phrases(found: list[str]) -> list[str]:
    """Return each pair of neighbouring terms, joined by an underscore."""
    return [f"{first}_{second}" for first, second in pairwise(found)]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Cut the plural and the commonest verb endings (a short form of Harman's S stemmer plus -ing and -ed)."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            return word[: -len(ending)].rstrip("e")
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def spoken(question: str) -> dict[str, str]:
    """Return the question's words by their terms, for people to read."""
    return {stem(word.lower()): word.lower() for word in words_of(question)}


def said(term: str, spoken_words: Mapping[str, str]) -> str:
    """Return a term or phrase in the question's own words."""
    return " ".join(spoken_words.get(part, part) for part in term.split("_"))


def kinship(asked: str, known: str) -> float:
    """Return 1 for the same term, 0.6 where one begins with the other (``freshwater``, ``fresh``)."""
    if asked == known:
        return 1.0
    short, long = sorted((asked, known), key=len)
    if not long.startswith(short) or "_" in long or short.isdigit():
        return 0.0
    abbreviates = len(short) >= MIN_ABBREVIATION and len(long) - len(short) <= 2
    return PREFIX_WEIGHT if len(short) >= MIN_PREFIX or abbreviates else 0.0


def asked_years(question: str, newest: int) -> frozenset[int]:
    """Return the years a question needs: single ones, ranges in full, and ``since`` up to ``newest``."""
    years = {int(year) for year in _YEAR.findall(question)}
    for match in _RANGE.finditer(question):
        low, high = sorted(int(year) for year in match.groups() if year)
        years.update(range(low, min(high, low + MAX_SPAN) + 1))
    for first in _SINCE.findall(question):
        years.update(range(int(first), min(newest, int(first) + MAX_SPAN) + 1))
    return frozenset(years)
