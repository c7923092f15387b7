"""Ranks families for a question without a model: BM25 over names, titles, headers and values, and covered years.

A family's score is the share it reaches of what the best family reaches for each term of the question, so that 1 means
best in everything asked, and the scores of one question can be compared as bids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from agentsys.lake.family_names import years_in
from agentsys.lake.profiles import Family
from agentsys.lake.terms import asked_years, kinship, phrases, terms

FIELD_WEIGHTS: Final[Mapping[str, float]] = {"names": 1.0, "titles": 0.8, "headers": 0.9, "values": 0.5, "notes": 0.15}
PHRASE_WEIGHT: Final = 0.7
YEAR_WEIGHT: Final = 0.5
FURTHER_FIELDS: Final = 0.25
OFFER_SHARE: Final = 0.45
SIZE_PENALTY: Final = 0.04
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
        self._fields = {name: _Field([document[name] for document in documents]) for name in FIELD_WEIGHTS}
        self._years = [_covered_years(family) for family in self._families]
        self._vocabulary = sorted(set().union(*(field.vocabulary for field in self._fields.values())))
        self._newest = max((year for years in self._years for year in years), default=0)

    def rank(self, question: str, families: Iterable[Family] | None = None) -> list[FamilyScore]:
        """Return families with a score above 0, best first; ``families`` restricts who may be named."""
        allowed = None if families is None else {family.name for family in families}
        matched = self._matches(question)
        ideal = sum(float(points.max()) for points in matched.values()) or 1.0
        total = sum(matched.values(), np.zeros(len(self._families)))
        years = asked_years(question, self._newest)
        scores = []
        for position in np.argsort(-total, kind="stable"):
            family = self._families[position]
            if total[position] <= 0 or (allowed is not None and family.name not in allowed):
                continue
            best = sorted(matched, key=lambda term: (-float(matched[term][position]), term))
            reasons = tuple(term.replace("_", " ") for term in best[:8] if matched[term][position] > 0)
            score = min(1.0, float(total[position]) / ideal)
            scores.append(FamilyScore(family, round(score, 4), _best_files(family, question, years), reasons))
        return scores

    def offer(self, question: str, families: Iterable[Family] | None = None) -> list[FamilyScore]:
        """Return the families that volunteer: close to the best, large ones closer, since they bring many files."""
        ranked = self.rank(question, families)
        if not ranked:
            return []
        best = ranked[0].score
        return [
            claim
            for claim in ranked
            if claim.score >= best * min(1.0, OFFER_SHARE + SIZE_PENALTY * math.log2(len(claim.family.files)))
        ]

    def _matches(self, question: str) -> dict[str, Any]:
        """Return, for each term, phrase and year of the question, the points of every family."""
        found = terms(question)
        matched: dict[str, Any] = {}
        for term in dict.fromkeys(term for term in found if not self._is_year(term)):
            matched[term] = self._points(term)
        for phrase in dict.fromkeys(phrases(found)):
            matched[phrase] = PHRASE_WEIGHT * self._points(phrase)
        for year in asked_years(question, self._newest):
            matched[str(year)] = self._year_points(year)
        return {term: points for term, points in matched.items() if points.any()}

    @staticmethod
    def _is_year(term: str) -> bool:
        return bool(years_in(term)) and len(term) == 4

    def _points(self, term: str) -> Any:
        """Return each family's points for a term: its best field, and a part of the others."""
        kin = {known: weight for known in self._vocabulary if (weight := kinship(term, known))}
        by_field = []
        for name, weight in FIELD_WEIGHTS.items():
            field = self._fields[name]
            found = [likeness * field.points(known) for known, likeness in kin.items() if known in field.vocabulary]
            by_field.append(weight * (np.max(found, axis=0) if found else np.zeros(len(self._families))))
        stacked = np.stack(by_field)
        best = stacked.max(axis=0)
        return best + FURTHER_FIELDS * (stacked.sum(axis=0) - best)

    def _year_points(self, year: int) -> Any:
        covers = np.array([float(year in years) for years in self._years])
        count = covers.sum()
        return YEAR_WEIGHT * covers * math.log(1 + (len(covers) - count + 0.5) / (count + 0.5))


class _Field:
    """BM25 over one field of all families."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        import bm25s

        self.vocabulary = frozenset(term for document in documents for term in document)
        self._size = len(documents)
        self._cache: dict[str, Any] = {}
        if self.vocabulary:
            self._bm25 = bm25s.BM25(method="lucene", k1=1.0, b=0.3)
            self._bm25.index([list(document) for document in documents], show_progress=False)

    def points(self, term: str) -> Any:
        known = self._cache.get(term)
        if known is None:
            known = self._cache[term] = np.asarray(self._bm25.get_scores([term]), dtype=float)
        return known


def _fields(family: Family) -> dict[str, list[str]]:
    names = [family.name, *(name for file in family.files for name in PurePosixPath(file).with_suffix("").parts[-2:])]
    titles = dict.fromkeys(table.title for table in family.tables)
    notes = dict.fromkeys(table.notes for table in family.tables)
    values = (term for column in family.columns for term in column.terms)
    return {
        "names": _with_phrases(dict.fromkeys(names)),
        "titles": _with_phrases(titles),
        "headers": _with_phrases(column.original for column in family.columns),
        "values": _with_phrases(values)[:VALUE_TERMS],
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
        if column.type in ("DATE", "TIMESTAMP"):
            years.update(range(int(str(low)[:4]), int(str(high)[:4]) + 1))
        elif "year" in column.name and isinstance(low, int) and isinstance(high, int) and 1500 <= low <= high < 2200:
            years.update(range(low, high + 1))
    return frozenset(years)


def _best_files(family: Family, question: str, years: frozenset[int]) -> tuple[str, ...]:
    """Return the parts of a series that the question names by year or word, the best first, or all of them."""
    if len(family.files) == 1:
        return tuple(family.files)
    stems = {file: PurePosixPath(file).stem for file in family.files}
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
