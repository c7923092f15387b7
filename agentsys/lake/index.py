"""Ranks families for a question without a model: BM25 over names, titles, headers and values, and covered years.

A family's score is the share it reaches of what the best family reaches for each term of the question, so that 1 means
best in everything asked, and the scores of one question can be compared as bids.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from agentsys.lake.family_names import years_in
from agentsys.lake.profiles import Family
from agentsys.lake.reading.compression import bare_name, plain_name
from agentsys.lake.terms import (
    MIN_ABBREVIATION,
    OPERATIONS,
    asked_years,
    initials,
    is_year,
    kinship,
    phrases,
    said,
    spoken,
    terms,
)

FIELDS: Final[Mapping[str, tuple[float, float]]] = {
    "names": (1.0, 0.75),
    "titles": (0.8, 0.75),
    "headers": (0.9, 0.5),
    "values": (0.5, 0.1),
    "parts": (0.5, 0.0),
    "notes": (0.15, 0.3),
}
"""Weight of each field, and how strongly BM25 discounts long ones (its ``b``)."""

PHRASE_WEIGHT: Final = 0.7
YEAR_WEIGHT: Final = 1.0
OPERATION_WEIGHT: Final = 0.4
FURTHER_FIELDS: Final = 0.25
OFFER_SHARE: Final = 0.55
SIZE_PENALTY: Final = 0.12
NEW_NEED: Final = 0.12
REASONS: Final = 8
VALUE_TERMS: Final = 20_000


@dataclass(frozen=True, slots=True)
class FamilyScore:
    """One family's claim to a question: ``score`` 0 to 1, its files best first, and what it matched.

    ``files`` holds only the asked-for parts of a series where the question names some (years, places), else all.
    """

    family: Family
    score: float
    files: tuple[str, ...]
    reasons: tuple[str, ...]


class LakeIndex:
    """An index over the families of one lake; reading it is thread-safe."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = list(families)
        documents = [_fields(family) for family in self._families]
        self._fields = {name: _Field([document[name] for document in documents], b) for name, (_, b) in FIELDS.items()}
        self._years = [_covered_years(family) for family in self._families]
        self._vocabulary = sorted(set().union(*(field.vocabulary for field in self._fields.values())))
        self._positions = {family.name: position for position, family in enumerate(self._families)}
        self._newest = max((year for years in self._years for year in years), default=0)

    def rank(self, question: str, families: Iterable[Family] | None = None) -> list[FamilyScore]:
        """Return families with a score above 0, best first; ``families`` restricts who may be named."""
        return self._ranked(question, self._matches(question), families)

    def offer(self, question: str, families: Iterable[Family] | None = None) -> list[FamilyScore]:
        """Return the families that volunteer, best first: those close to the best, and those that answer a new need.

        A large family must come closer, since it brings many files. A new need is a good part of the question's terms
        that no better family matches as well.
        """
        matched = self._matches(question)
        ranked = self._ranked(question, matched, families)
        if not ranked:
            return []
        needs = _Needs(matched)
        offered = []
        for claim in ranked:
            position = self._positions[claim.family.name]
            cost = 1 + SIZE_PENALTY * math.log2(len(claim.family.files))
            if claim.score >= OFFER_SHARE * cost * ranked[0].score or needs.gain(position) >= NEW_NEED * cost:
                needs.cover(position)
                offered.append(claim)
        return offered

    def _ranked(
        self, question: str, matched: Mapping[str, Any], families: Iterable[Family] | None
    ) -> list[FamilyScore]:
        allowed = self._positions.keys() if families is None else {family.name for family in families}
        ideal = sum(float(points.max()) for points in matched.values()) or 1.0
        total = sum(matched.values(), np.zeros(len(self._families)))
        years = asked_years(question, self._newest)
        words = spoken(question)
        scores = []
        for position in np.argsort(-total, kind="stable"):
            family = self._families[position]
            if total[position] <= 0 or family.name not in allowed:
                continue
            best = sorted(matched, key=lambda term: (-float(matched[term][position]), term))
            reasons = tuple(said(term, words) for term in best[:REASONS] if matched[term][position] > 0)
            score = min(1.0, float(total[position]) / ideal)
            scores.append(FamilyScore(family, round(score, 4), _best_files(family, question, years), reasons))
        return scores

    def _matches(self, question: str) -> dict[str, Any]:
        """Return, for each term and phrase of the question and for its years, the points of every family."""
        found = [term for term in terms(question) if not is_year(term)]
        matched = {term: self._points(term) for term in dict.fromkeys([*found, *initials(question)])}
        for term in matched.keys() & OPERATIONS:
            matched[term] = OPERATION_WEIGHT * matched[term]
        for phrase in dict.fromkeys(phrases(found)):
            matched[phrase] = PHRASE_WEIGHT * self._points(phrase)
        if years := asked_years(question, self._newest):
            span = f"{min(years)} to {max(years)}" if len(years) > 2 else " ".join(map(str, sorted(years)))
            matched[span] = YEAR_WEIGHT * np.mean([self._year_points(year) for year in years], axis=0)
        return {term: points for term, points in matched.items() if points.any()}

    def _points(self, term: str) -> Any:
        """Return each family's points for a term: its best field, and a part of the others."""
        kin = self._kin(term)
        by_field = []
        for name, (weight, _) in FIELDS.items():
            field = self._fields[name]
            found = [likeness * field.points(known) for known, likeness in kin.items() if known in field.vocabulary]
            by_field.append(weight * (np.max(found, axis=0) if found else np.zeros(len(self._families))))
        stacked = np.stack(by_field)
        best = stacked.max(axis=0)
        return best + FURTHER_FIELDS * (stacked.sum(axis=0) - best)

    def _kin(self, term: str) -> dict[str, float]:
        """Return the lake's terms that are akin to a term, by looking only where the alphabet can have them."""
        following = range(bisect_left(self._vocabulary, term), len(self._vocabulary))
        longer = takewhile(lambda known: known.startswith(term), (self._vocabulary[place] for place in following))
        shorter = (term[:length] for length in range(MIN_ABBREVIATION, len(term)))
        return {known: weight for known in (*longer, *shorter) if (weight := kinship(term, known))}

    def _year_points(self, year: int) -> Any:
        covers = np.array([float(year in years) for years in self._years])
        count = covers.sum()
        return covers * math.log(1 + (len(covers) - count + 0.5) / (count + 0.5))


class _Field:
    """BM25 over one field of all families."""

    def __init__(self, documents: Sequence[Sequence[str]], discount: float) -> None:
        import bm25s

        self.vocabulary = frozenset(term for document in documents for term in document)
        self._cache: dict[str, Any] = {}
        if self.vocabulary:
            self._bm25 = bm25s.BM25(method="lucene", k1=1.0, b=discount)
            self._bm25.index([list(document) for document in documents], show_progress=False)

    def points(self, term: str) -> Any:
        known = self._cache.get(term)
        if known is None:
            known = self._cache[term] = np.asarray(self._bm25.get_scores([term]), dtype=float)
        return known


class _Needs:
    """How much of what a question asks is matched by the families taken so far."""

    def __init__(self, matched: Mapping[str, Any]) -> None:
        self._points = np.stack(list(matched.values()))
        self._covered = np.zeros(len(self._points))
        self._ideal = float(self._points.max(axis=1).sum())

    def gain(self, position: int) -> float:
        """Return the share of the question that this family matches better than those taken."""
        return float(np.maximum(self._points[:, position] - self._covered, 0).sum()) / self._ideal

    def cover(self, position: int) -> None:
        self._covered = np.maximum(self._covered, self._points[:, position])


def _fields(family: Family) -> dict[str, list[str]]:
    files = [PurePosixPath(plain_name(file)).with_suffix("") for file in family.files]
    one = len(files) == 1
    titles = dict.fromkeys(table.title for table in family.tables)
    notes = dict.fromkeys(table.notes for table in family.tables)
    return {
        "names": _with_phrases([family.name, files[0].parent.name, *(files[0].name for _ in range(one))]),
        "titles": _with_phrases(titles if one else [family.description.partition(":")[0]]),
        "headers": _with_phrases(text for column in family.columns for text in (column.original, column.name)),
        "values": _with_phrases(term for column in family.columns for term in column.terms)[:VALUE_TERMS],
        "parts": [] if one else _with_phrases([*(file.name for file in files), *titles]),
        "notes": _with_phrases(notes),
    }


def _with_phrases(texts: Iterable[str]) -> list[str]:
    """Return terms and phrases, each once: a value that a thousand rows repeat is not a thousandfold match."""
    found: dict[str, None] = {}
    for text in texts:
        single = terms(text)
        found.update(dict.fromkeys(single))
        found.update(dict.fromkeys(phrases(single)))
    return list(found)


def _covered_years(family: Family) -> frozenset[int]:
    """Return the years in file names, in year columns and in dates."""
    years = {year for file in family.files for year in years_in(PurePosixPath(file).name)}
    for column in family.columns:
        low, high = column.minimum, column.maximum
        if low is None or high is None:
            continue
        if column.type in ("DATE", "TIMESTAMP"):
            years.update(range(int(str(low)[:4]), int(str(high)[:4]) + 1))
        elif "year" in column.name and isinstance(low, int) and isinstance(high, int) and 1500 <= low <= high < 2200:
            years.update(range(low, high + 1))
    return frozenset(years)


def _best_files(family: Family, question: str, years: frozenset[int]) -> tuple[str, ...]:
    """Return the parts of a series that the question names by year or word, the best first, or all of them."""
    if len(family.files) == 1:
        return tuple(family.files)
    stems = {file: bare_name(file) for file in family.files}
    dated = [file for file, stem in stems.items() if years & set(years_in(stem))]
    if dated:
        return tuple(dated)
    shared = set.intersection(*(set(terms(stem)) for stem in stems.values()))
    asked = terms(question)
    own = {file: [term for term in terms(stem) if term not in shared] for file, stem in stems.items()}
    named = [file for file in stems if _names(own[file], asked)]
    return tuple(named or family.files)


def _names(own: Sequence[str], asked: Sequence[str]) -> bool:
    """Whether a question names a part of a series: by all of its own words, or by two that stand together."""
    return bool(own) and (set(own) <= set(asked) or not set(phrases(list(own))).isdisjoint(phrases(list(asked))))
