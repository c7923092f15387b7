"""LangGraph's long-term memory on the board: labelled items with versions, and changes that lose no other's.

::

    langgraph-store/{label}/{label}/…    {key}    one item: its value, when it was made, its embeddings

Labels of namespaces and keys are percent-encoded. A batch is one transaction: what it reads is the state before it, and
if what it read was changed before it writes, it is refused. What it puts without having read wins over what was there,
as LangGraph's interface demands; :meth:`BlackboardStore.update` reads and writes without losing anybody's change.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    validate_op_namespace,
)

from agentsys.blackboard.awaiting import awaitable
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.acting import deliver, raised
from agentsys.langgraph.addresses import quoted
from agentsys.langgraph.store_search import Ranking, matches, namespace_matches

ROOT: Final = "langgraph-store/"
ITEM: Final = "store_item"
PRINCIPAL: Final = "langgraph"

Namespace = tuple[str, ...]


class BlackboardStore(BaseStore):
    """Keeps items on ``board``, each under ``label``; a batch is durable when it returns.

    Without a label, items count as shaped by anybody and readable by the owner. Inside a run, the actor's label rises
    with what it reads, and is joined to what it puts. ``index`` configures embeddings for searches with a query, which
    otherwise go by BM25. Items do not expire.
    """

    __slots__ = ("_board", "_label", "_ranking")

    def __init__(self, board: Board, *, label: Label | None = None, index: IndexConfig | None = None) -> None:
        self._board = board
        self._label = label or Label()
        self._ranking = Ranking(index)

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do ``ops`` in one transaction. Raises :class:`Conflict` if something that they read was changed meanwhile."""
        asked = _checked(ops)
        embedded = self._ranking.embed(self._ranking.texts(asked))
        while True:
            transaction = self._board.begin(PRINCIPAL)
            results = self._done(transaction, asked, embedded)
            try:
                self._board.commit(transaction)
            except Conflict:
                if any(isinstance(op, GetOp | SearchOp | ListNamespacesOp) for op in asked):
                    raise
                continue
            return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do ``ops`` as :meth:`batch` does."""
        asked = _checked(ops)
        embedded = await self._ranking.aembed(self._ranking.texts(asked))
        while True:
            transaction = self._board.begin(PRINCIPAL)
            results = await asyncio.to_thread(self._done, transaction, asked, embedded)
            try:
                await awaitable(self._board.submit(transaction))
            except Conflict:
                if any(isinstance(op, GetOp | SearchOp | ListNamespacesOp) for op in asked):
                    raise
                continue
            return results

    def update(
        self, namespace: Namespace, key: str, change: Callable[[dict[str, Any] | None], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Put what ``change`` makes of an item's value, and return it; ``None`` stands for no item, before and after.

        ``change`` is asked again whenever somebody else was quicker, so it must do nothing but compute.
        """
        while True:
            transaction = self._board.begin(PRINCIPAL)
            found = transaction.get(_topic(namespace), quoted(key))
            deliver(transaction.reads_label)
            value = change(None if found is None else _body(found)["value"])
            op = _checked([PutOp(namespace, key, value)])[0]
            self._done(transaction, [op], self._ranking.embed(self._ranking.texts([op])))
            try:
                self._board.commit(transaction)
            except Conflict:
                continue
            return value

    async def aupdate(
        self, namespace: Namespace, key: str, change: Callable[[dict[str, Any] | None], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Do as :meth:`update` does."""
        return await asyncio.to_thread(self.update, namespace, key, change)

    def _done(self, transaction: Transaction, ops: Sequence[Op], embedded: Mapping[str, list[float]]) -> list[Result]:
        """Return the results of what ``ops`` read, and buffer what they put, of one item the last."""
        results: list[Result] = []
        puts: dict[tuple[Namespace, str], PutOp] = {}
        for op in ops:
            result: Result = None
            if isinstance(op, GetOp):
                found = transaction.get(_topic(op.namespace), quoted(op.key))
                result = None if found is None else _item(found)
            elif isinstance(op, SearchOp):
                result = self._searched(transaction, op, embedded)
            elif isinstance(op, ListNamespacesOp):
                result = _namespaces(transaction, op)
            else:
                puts[op.namespace, op.key] = op
            results.append(result)
        deliver(transaction.reads_label)
        for op in puts.values():
            self._put(transaction, op, embedded)
        return results

    def _put(self, transaction: Transaction, op: PutOp, embedded: Mapping[str, list[float]]) -> None:
        topic, key, label = _topic(op.namespace), quoted(op.key), raised(self._label)
        if op.value is None:
            transaction.delete(topic, key, label=label, derived_from=())
            return
        # Not through the transaction: whoever puts without having read relies on nothing.
        before = self._board.get(topic, key)
        created = time.time() if before is None else _body(before)["created"]
        body = {"value": op.value, "created": created, "vectors": self._ranking.vectors(op, embedded)}
        transaction.put(topic, key, body, type=ITEM, label=label, derived_from=())

    def _searched(
        self, transaction: Transaction, op: SearchOp, embedded: Mapping[str, list[float]]
    ) -> list[SearchItem]:
        found = transaction.query(Predicate(topic_prefix=_topic(op.namespace_prefix), type=ITEM))
        kept = [entry for entry in found if matches(_body(entry)["value"], op.filter or {})]
        scores: list[float | None] = [None] * len(kept)
        if op.query:
            scores = self._ranking.scores(op.query, [_body(entry) for entry in kept], embedded)
        ranked = sorted(zip(scores, kept, strict=True), key=_by_score, reverse=True)
        return [_search_item(entry, score) for score, entry in ranked[op.offset : op.offset + op.limit]]


def _checked(ops: Iterable[Op]) -> list[Op]:
    """Return ``ops`` as a list; raises ``InvalidNamespaceError``, and ``NotImplementedError`` for one with a ttl."""
    asked = list(ops)
    for op in asked:
        validate_op_namespace(op)
        if isinstance(op, PutOp) and op.ttl is not None:
            raise NotImplementedError("Items on the board do not expire; put them without ttl.")
    return asked


def _by_score(found: tuple[float | None, Entry]) -> float:
    return -math.inf if found[0] is None else found[0]


def _topic(namespace: Namespace) -> str:
    return ROOT + "".join(f"{quoted(label)}/" for label in namespace)


def _namespace(topic: str) -> Namespace:
    return tuple(unquote(label) for label in topic.removeprefix(ROOT).split("/")[:-1])


def _namespaces(transaction: Transaction, op: ListNamespacesOp) -> list[Namespace]:
    found = transaction.query(Predicate(topic_prefix=ROOT, type=ITEM))
    all_of = {_namespace(entry.topic) for entry in found}
    conditions = op.match_conditions or ()
    kept = {name for name in all_of if all(namespace_matches(name, condition) for condition in conditions)}
    if op.max_depth is not None:
        kept = {name[: op.max_depth] for name in kept}
    return sorted(kept)[op.offset : op.offset + op.limit]


def _item(entry: Entry) -> Item:
    return Item(**_fields(entry))


def _search_item(entry: Entry, score: float | None) -> SearchItem:
    return SearchItem(**_fields(entry), score=score)


def _fields(entry: Entry) -> dict[str, Any]:
    return {
        "namespace": _namespace(entry.topic),
        "key": unquote(entry.key),
        "value": _body(entry)["value"],
        "created_at": datetime.fromtimestamp(_body(entry)["created"], UTC),
        "updated_at": datetime.fromtimestamp(entry.committed_at, UTC),
    }


def _body(entry: Entry) -> Any:
    return entry.value
