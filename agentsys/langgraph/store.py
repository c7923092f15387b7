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
from concurrent.futures import Future
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
    TTLConfig,
    validate_op_namespace,
)

from agentsys.blackboard.awaiting import awaitable
from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.langgraph.acting import deliver, deliver_search, known, raised
from agentsys.langgraph.addresses import quoted
from agentsys.langgraph.store_expiry import PRINCIPAL, ROOT, SWEEP_MINUTES, Expiry, Sweeper
from agentsys.langgraph.store_search import Ranking, matches, namespace_matches

ITEM: Final = "store_item"

Namespace = tuple[str, ...]


class BlackboardStore(BaseStore):
    """Keeps items on ``board``, each under ``label``; a batch is durable when it returns.

    Without a label, items count as shaped by anybody and readable by the owner. Inside a run, the actor's label rises
    with what it reads, and is joined to what it puts. ``index`` configures embeddings for searches with a query, which
    otherwise go by BM25. ``ttl`` configures how long items live; they are deleted by :meth:`sweep_ttl`.
    """

    __slots__ = ("_board", "_expiry", "_label", "_ranking", "_sweeper", "ttl_config")
    supports_ttl = True

    def __init__(
        self,
        board: Board,
        *,
        label: Label | None = None,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        self.ttl_config = ttl
        self._board = board
        self._label = label or Label()
        self._ranking = Ranking(index)
        self._expiry = Expiry(board, ttl)
        self._sweeper: Sweeper | None = None

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do ``ops`` in one transaction. Raises :class:`Conflict` if something that they read was changed meanwhile."""
        asked = _checked(ops)
        embedded = self._ranking.embed(self._ranking.texts(asked))
        while True:
            transaction = self._board.begin(PRINCIPAL)
            results, used = self._done(transaction, asked, embedded)
            try:
                self._board.commit(transaction)
            except Conflict:
                if any(isinstance(op, GetOp | SearchOp | ListNamespacesOp) for op in asked):
                    raise
                continue
            self._expiry.refresh(used)
            return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do ``ops`` as :meth:`batch` does."""
        asked = _checked(ops)
        embedded = await self._ranking.aembed(self._ranking.texts(asked))
        while True:
            transaction = self._board.begin(PRINCIPAL)
            results, used = await asyncio.to_thread(self._done, transaction, asked, embedded)
            try:
                await awaitable(self._board.submit(transaction))
            except Conflict:
                if any(isinstance(op, GetOp | SearchOp | ListNamespacesOp) for op in asked):
                    raise
                continue
            if used:
                await asyncio.to_thread(self._expiry.refresh, used)
            return results

    def update(
        self, namespace: Namespace, key: str, change: Callable[[dict[str, Any] | None], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Put what ``change`` makes of an item's value, and return it; ``None`` stands for no item, before and after.

        ``change`` is asked again whenever somebody else was quicker, so it must do nothing but compute. The item lives
        on for the whole of its ``ttl``.
        """
        while True:
            transaction = self._board.begin(PRINCIPAL)
            found = self._got(transaction, GetOp(namespace, key))
            deliver(transaction.reads_label, transaction.reads)
            value = change(None if found is None else _body(found)["value"])
            minutes = self._expiry.default if found is None else _body(found).get("ttl")
            op = _checked([PutOp(namespace, key, value, ttl=minutes)])[0]
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

    def sweep_ttl(self) -> int:
        """Delete the items whose time is over, and return how many."""
        return self._expiry.sweep()

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep every so many minutes in a thread, by default as ``ttl`` says. Cancelling what it returns ends that."""
        if self._sweeper is None or not self._sweeper.running:
            configured = (self.ttl_config or {}).get("sweep_interval_minutes")
            self._sweeper = Sweeper(self._expiry, sweep_interval_minutes or configured or SWEEP_MINUTES)
        return self._sweeper.ended

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop sweeping, and return whether that succeeded within ``timeout`` seconds."""
        return self._sweeper is None or self._sweeper.stop(timeout)

    def _done(
        self, transaction: Transaction, ops: Sequence[Op], embedded: Mapping[str, list[float]]
    ) -> tuple[list[Result], list[Entry]]:
        """Buffer what ``ops`` put, of one item the last; return what they read, and the items that live on for it."""
        results: list[Result] = []
        used: list[Entry] = []
        puts: dict[tuple[Namespace, str], PutOp] = {}
        for op in ops:
            result: Result = None
            read: list[Entry] = []
            if isinstance(op, GetOp):
                found = self._got(transaction, op)
                result, read = (None, []) if found is None else (_item(found), [found])
            elif isinstance(op, SearchOp):
                ranked = self._searched(transaction, op, embedded)
                result, read = [_search_item(*found) for found in ranked], [entry for entry, _ in ranked]
            elif isinstance(op, ListNamespacesOp):
                result = self._namespaces(transaction, op)
            else:
                puts[op.namespace, op.key] = op
            results.append(result)
            if isinstance(op, GetOp | SearchOp) and op.refresh_ttl:
                used += [entry for entry in read if _body(entry).get("ttl") is not None]
        deliver(transaction.reads_label, transaction.reads)
        # Deletions last: they read what they end, and would keep what is put from lying below that.
        for put in sorted(puts.values(), key=lambda op: op.value is None):
            self._put(transaction, put, embedded)
        return results, used

    def _got(self, transaction: Transaction, op: GetOp) -> Entry | None:
        topic = _topic(op.namespace)
        found = transaction.get(topic, quoted(op.key))
        return found if found is not None and self._expiry.living([found], topic) else None

    def _put(self, transaction: Transaction, op: PutOp, embedded: Mapping[str, list[float]]) -> None:
        topic, key, label = _topic(op.namespace), quoted(op.key), raised(self._label)
        if op.value is None:
            transaction.delete(topic, key, label=label, derived_from=())
            return
        # Not through the transaction: whoever puts without having read relies on nothing.
        before = self._board.get(topic, key)
        created = time.time() if before is None else _body(before)["created"]
        body = {"value": op.value, "created": created, "vectors": self._ranking.vectors(op, embedded)}
        if op.ttl is not None:
            body["ttl"] = op.ttl
            self._expiry.put(transaction, topic, key, op.ttl, label)
        transaction.put(topic, key, body, type=ITEM, label=label, derived_from=known())

    def _searched(
        self, transaction: Transaction, op: SearchOp, embedded: Mapping[str, list[float]]
    ) -> list[tuple[Entry, float | None]]:
        """Return what ``op`` finds, the best first, with its score."""
        found = self._found(transaction, _topic(op.namespace_prefix))
        kept = [entry for entry in found if matches(_body(entry)["value"], op.filter or {})]
        scores: list[float | None] = [None] * len(kept)
        if op.query:
            scores = self._ranking.scores(op.query, [_body(entry) for entry in kept], embedded)
        ranked = sorted(zip(kept, scores, strict=True), key=_by_score, reverse=True)
        return ranked[op.offset : op.offset + op.limit]

    def _found(self, transaction: Transaction, prefix: str) -> list[Entry]:
        """Return the items whose topics begin with ``prefix``."""
        predicate = Predicate(topic_prefix=prefix, type=ITEM)
        deliver_search(self._board, predicate, transaction.snapshot)
        return self._expiry.living(transaction.query(predicate), prefix)

    def _namespaces(self, transaction: Transaction, op: ListNamespacesOp) -> list[Namespace]:
        all_of = {_namespace(entry.topic) for entry in self._found(transaction, ROOT)}
        conditions = op.match_conditions or ()
        kept = {name for name in all_of if all(namespace_matches(name, condition) for condition in conditions)}
        if op.max_depth is not None:
            kept = {name[: op.max_depth] for name in kept}
        return sorted(kept)[op.offset : op.offset + op.limit]


def _checked(ops: Iterable[Op]) -> list[Op]:
    """Return ``ops`` as a list; raises ``InvalidNamespaceError``, and ``ValueError`` for a ttl that is no time."""
    asked = list(ops)
    for op in asked:
        validate_op_namespace(op)
        if isinstance(op, PutOp) and op.ttl is not None and not 0 < op.ttl < math.inf:
            raise ValueError(f"An item cannot live for {op.ttl!r} minutes; pass a positive ttl, or None for ever.")
    return asked


def _by_score(found: tuple[Entry, float | None]) -> float:
    return -math.inf if found[1] is None else found[1]


def _topic(namespace: Namespace) -> str:
    return ROOT + "".join(f"{quoted(label)}/" for label in namespace)


def _namespace(topic: str) -> Namespace:
    return tuple(unquote(label) for label in topic.removeprefix(ROOT).split("/")[:-1])


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
