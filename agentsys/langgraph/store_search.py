"""What a search of the store means: which items a filter matches, and which come first for a query."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import bm25s
import numpy as np
from langgraph.store.base import IndexConfig, MatchCondition, Op, PutOp, SearchOp
from langgraph.store.base.embed import ensure_embeddings, get_text_at_path, tokenize_path

from agentsys.blackboard.entries import Json

_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(value: Any, wanted: Any) -> bool:
    """Whether ``value`` is as a filter wants it: equal, field by field, or as its ``$`` operators say.

    What cannot be compared does not match. Raises ``ValueError`` for an unknown operator.
    """
    if isinstance(wanted, Mapping):
        if any(name.startswith("$") for name in wanted):
            return all(_holds(name, value, bound) for name, bound in wanted.items())
        return isinstance(value, Mapping) and all(matches(value.get(name), item) for name, item in wanted.items())
    if isinstance(wanted, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same and all(matches(*pair) for pair in zip(value, wanted, strict=True))
    return bool(value == wanted)


def namespace_matches(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    """Whether ``namespace`` begins or ends as ``condition`` says, in which ``*`` stands for any label."""
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for label, wanted in zip(part, path, strict=True))


class Ranking:
    """Orders what a search found for its query: by embeddings where ``index`` configures them, else by BM25."""

    def __init__(self, index: IndexConfig | None) -> None:
        self._embeddings = None if index is None else ensure_embeddings(index["embed"])
        self._fields = [] if index is None else list(index.get("fields") or ["$"])

    def texts(self, ops: Sequence[Op]) -> list[str]:
        """Return the texts, each once, whose embeddings ``ops`` need."""
        if self._embeddings is None:
            return []
        needed = [op.query for op in ops if isinstance(op, SearchOp) and op.query]
        for op in ops:
            if isinstance(op, PutOp):
                needed += self._indexed(op)
        return list(dict.fromkeys(needed))

    def embed(self, texts: Sequence[str]) -> dict[str, list[float]]:
        """Return the embedding of each text."""
        if self._embeddings is None or not texts:
            return {}
        return dict(zip(texts, self._embeddings.embed_documents(list(texts)), strict=True))

    async def aembed(self, texts: Sequence[str]) -> dict[str, list[float]]:
        """Return the embedding of each text."""
        if self._embeddings is None or not texts:
            return {}
        return dict(zip(texts, await self._embeddings.aembed_documents(list(texts)), strict=True))

    def vectors(self, op: PutOp, embedded: Mapping[str, list[float]]) -> Json:
        """Return what is stored beside the value that ``op`` puts."""
        return [[float(number) for number in embedded[text]] for text in self._indexed(op) if text in embedded]

    def scores(self, query: str, bodies: Sequence[Any], embedded: Mapping[str, list[float]]) -> list[float | None]:
        """Return how well each body fits ``query``, the higher the better; ``None`` for what has no embedding."""
        if not bodies:
            return []
        if self._embeddings is not None:
            return [_nearest(embedded[query], body["vectors"]) for body in bodies]
        texts = [json.dumps(body["value"], ensure_ascii=False) for body in bodies]
        words = bm25s.tokenize(texts, stopwords="en", show_progress=False)
        if not words.vocab:
            return [0.0] * len(bodies)
        index = bm25s.BM25()
        index.index(words, show_progress=False)
        asked = bm25s.tokenize([query], stopwords="en", return_ids=False, show_progress=False)[0]
        known = [word for word in asked if word in words.vocab]
        return [float(score) for score in index.get_scores(known)] if known else [0.0] * len(bodies)

    def _indexed(self, op: PutOp) -> list[str]:
        if op.value is None or op.index is False:
            return []
        fields = self._fields if op.index is None else op.index
        return [text for field in fields for text in _texts_at(op.value, field)]


def _texts_at(value: Mapping[str, Any], field: str) -> Iterable[str]:
    found: list[str] = get_text_at_path(value, field if field == "$" else tokenize_path(field))
    return found


def _holds(name: str, value: Any, bound: Any) -> bool:
    compare = _OPERATORS.get(name)
    if compare is None:
        raise ValueError(f"There is no filter operator {name!r}; there are {', '.join(_OPERATORS)}.")
    try:
        return bool(compare(value, bound))
    except TypeError:
        return False


def _nearest(query: Sequence[float], vectors: Sequence[Sequence[float]]) -> float | None:
    """Return the cosine between ``query`` and the nearest of ``vectors``, ``None`` without any."""
    if not vectors:
        return None
    asked, stored = np.asarray(query, dtype=float), np.asarray(vectors, dtype=float)
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(asked)
    cosines = np.divide(stored @ asked, lengths, out=np.zeros_like(lengths), where=lengths != 0)
    return float(cosines.max())
