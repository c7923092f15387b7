"""Memoisation: answers to pure questions, kept as labelled entries that only a question under the same label finds.

An answer's address is an HMAC, with a secret of the board, over all that the answer follows from: the question's label
(its *compartment*), who answers in which version, the parameters, the policy, and the versions of the entries that it
depends on. So a question under another label, or about a version that was superseded since, finds nothing, and is
answered as if nobody had asked before: neither the answer nor the time that it takes tells of other compartments.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.entries import Entry, EntryVersionRef, Json, canonical_json
from agentsys.blackboard.labels import FREE_TEXT, NOBODY, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.rows import label_to_text
from agentsys.blackboard.transactions import Transaction

TOPIC: Final = "memo"
ANSWER: Final = "memo"
"""Type of the entries that hold answers, and claims to give one."""

SECRET: Final = "secret"  # noqa: S105 - the key of the entry that holds it
_SECRET_LABEL: Final = Label(frozenset(), NOBODY, FREE_TEXT)
SKEW_SECONDS: Final = 60.0
"""An answer from farther in the future than clocks differ was kept before a clock was set back: it does not count."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: ``kind`` and ``name`` of who answers, its ``version``, and all else that the answer follows from.

    ``label`` is the join of the labels of all that shaped the question. ``depends_on`` are the versions of entries that
    the answer follows from beside the parameters. An answer holds for ``seconds``.
    """

    kind: str
    name: str
    version: str
    parameters: Json
    policy: str
    label: Label
    seconds: float
    depends_on: tuple[EntryVersionRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer on record, with its label, which is above that of the question."""

    ref: EntryVersionRef
    answer: Json
    label: Label


class Memo:
    """The answers kept on one board."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._secret: bytes | None = None

    def key(self, question: Question) -> str:
        """Return the key of the entry that holds the answer. It tells nothing to whoever lacks the board's secret."""
        content: Json = [
            label_to_text(question.label),
            question.kind,
            question.name,
            question.version,
            question.parameters,
            question.policy,
            [[ref.topic, ref.key, ref.version] for ref in question.depends_on],
        ]
        return hmac.new(self._board_secret(), canonical_json(content).encode(), hashlib.sha256).hexdigest()

    def find_or_claim(self, key: str, label: Label, now: float) -> Remembered | Transaction | None:
        """Return the answer that holds at ``now``, in unix seconds, or else the transaction that claims to give it.

        Of two claims one loses by a conflict. ``None`` while another live process is giving the answer.
        """
        transaction = self.board.begin("runtime")
        entry = transaction.get(TOPIC, key)
        body: Any = {} if entry is None else entry.value
        if entry is not None and "answer" in body and body["kept_at"] - SKEW_SECONDS <= now < body["expires"]:
            return Remembered(entry.ref, body["answer"], entry.label)
        claimant = body.get("claimed_by", 0)
        if claimant not in (0, self.board.epoch) and self.board.alive(claimant):
            return None
        claim: Json = {"claimed_by": self.board.epoch}
        transaction.put(TOPIC, key, claim, type=ANSWER, label=label.join(transaction.reads_label), derived_from=())
        return transaction

    def keep(
        self, transaction: Transaction, key: str, question: Question, answer: Json, label: Label, now: float
    ) -> None:
        """Put an answer on record with ``transaction``, in place of the claim to give it."""
        body = {
            "kind": question.kind,
            "name": question.name,
            "version": question.version,
            "answer": answer,
            "kept_at": now,
            "expires": now + question.seconds,
        }
        sources, above = question.depends_on, question.label.join(label)
        transaction.put(TOPIC, key, body, type=ANSWER, label=above, derived_from=sources)

    def release(self, key: str, label: Label) -> Transaction | None:
        """Return the transaction that gives this process's claim back, without an answer; ``None`` if it has none."""
        transaction = self.board.begin("runtime")
        entry = transaction.get(TOPIC, key)
        body: Any = {} if entry is None else entry.value
        if body.get("claimed_by") != self.board.epoch:
            return None
        above, nobody = label.join(transaction.reads_label), {"claimed_by": 0}
        transaction.put(TOPIC, key, nobody, type=ANSWER, label=above, derived_from=())
        return transaction

    def _board_secret(self) -> bytes:
        while self._secret is None:
            entry = self.board.get(TOPIC, SECRET)
            body: Any = {} if entry is None else entry.value
            if entry is not None:
                self._secret = bytes.fromhex(body["secret"])
                break
            transaction = self.board.begin("runtime")
            if transaction.get(TOPIC, SECRET) is None:
                drawn: Json = {"secret": secrets.token_hex(32)}
                transaction.put(TOPIC, SECRET, drawn, type="memo_secret", label=_SECRET_LABEL)
            try:
                self.board.commit(transaction)
            except Conflict:
                continue
        return self._secret


def kept_answers(board: Board) -> list[Entry]:
    """Return the entries that hold an answer, expired ones included."""
    found = board.query(Predicate(topic=TOPIC, type=ANSWER))
    return [entry for entry in found if isinstance(entry.value, dict) and "answer" in entry.value]


def delete_answers(board: Board, answers: Sequence[Entry]) -> None:
    """Delete answers in one commit. Raises :class:`Conflict` where one of them is given anew meanwhile."""
    transaction = board.begin("runtime")
    for entry in answers:
        transaction.delete(TOPIC, entry.key, derived_from=())
    board.commit(transaction)
