"""What an actor reads and writes of the board: labelled, by the gateway's leave, in its transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from agentsys import topics
from agentsys.actor import Actor
from agentsys.blackboard.entries import Entry, EntryVersionRef
from agentsys.blackboard.labels import Label
from agentsys.blackboard.merges import Merge, own_copy
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import LabelTooLow
from agentsys.gateway import Decision, Deny
from agentsys.handles import Handle, Hidden
from agentsys.labelled import sources_of
from agentsys.questions import about_write, merging
from agentsys.recording import Recording
from agentsys.scope import RunScope
from agentsys.tools import to_json
from agentsys.workspace import Workspace


class BoardAccess(Recording):
    """What a :class:`~agentsys.context.Context` knows of the board."""

    def __init__(self, scope: RunScope, actor: Actor) -> None:
        super().__init__(scope, actor)
        self._workspace = Workspace(
            scope.journal, f"agent:{actor.name}", actor.snapshot, actor.owner, scope.audience, actor.known
        )
        self._named = len(self.read_so_far)

    @property
    def read_so_far(self) -> Sequence[EntryVersionRef]:
        return self._workspace.found

    def read(self, topic: str, key: str) -> Entry | None:
        """Return the entry as of the transaction's snapshot, own writes included."""
        self._check()
        if topics.is_reserved(topic):
            self._refuse_reading(topic)
        with self._stopping():
            entry = self._workspace.get(topic, key)
        # That an entry was ended is also something that somebody said.
        self.deliver(self._workspace.reads_label)
        return entry

    def read_hidden(self, topic: str, key: str) -> Handle:
        """Return a handle of an entry's value, which does not raise the control label; that there is none is hidden."""
        self._check()
        if topics.is_reserved(topic):
            self._refuse_reading(topic)
        with self._stopping():
            entry = self._workspace.get_hidden(topic, key)
        if entry is None:
            # That an entry was ended is also something that somebody said, and whoever may end any may end this.
            return self._handle(Hidden(None, Label(readers=self._label.readers), failure=f"{topic}/{key} is not there"))
        sources = (entry.ref,) if entry.version else ()
        return self._handle(Hidden(entry.value, entry.label, sources=sources))

    def query(self, predicate: Predicate) -> list[Entry]:
        """Return the entries that match.

        The predicate must name a topic, or a topic prefix that does not cover ``runs/``, the runtime's own record.
        """
        self._check()
        if topics.may_match_reserved(predicate):
            self._refuse_reading(predicate.topic or f"every topic under {predicate.topic_prefix or '/'!r}")
        with self._stopping():
            entries = self._workspace.query(predicate)
            self.deliver(self._workspace.label_of_search(predicate), *(entry.label for entry in entries))
        return entries

    def put(self, topic: str, key: str, value: Any, *, type: str, label: Label | None = None) -> None:
        """Write an entry when the transaction commits. Raises :class:`PolicyDenied` and :class:`LabelTooLow`."""
        self._check()
        plain, labels = self._unwrap(value)
        least = self._label.join(*labels)
        if label is not None and not least.flows_to(label):
            raise LabelTooLow(f"The label given for {topic}/{key} is below what shaped it: {label} against {least}.")
        self._require_write("write", topic, key, label or least)
        sources = sources_of(value)
        document = self._scope.secrets.json(to_json(plain))
        self._workspace.put(topic, key, document, type=type, label=label or least, sources=sources)

    def merge(self, topic: str, key: str, merge: Merge, *, type: str) -> None:
        """Change a counter, set or map when the transaction commits, whatever others write to it meanwhile.

        Raises :class:`PolicyDenied`.
        """
        self._check()
        decision = self._require_write("write", topic, key, self._label)
        # The entry will have the label of whoever shaped it before, too: only this tells what was decided.
        self.decisions.note_once(merging(topic, key), decision, about_write(topic, self._label))
        self._workspace.merge(topic, key, own_copy(merge, self._scope.secrets.json), type=type, label=self._label)

    def delete(self, topic: str, key: str) -> None:
        """Delete an entry when the transaction commits. Raises :class:`PolicyDenied`."""
        self._check()
        self._require_write("delete", topic, key, self._label)
        with self._stopping():
            self._workspace.delete(topic, key, label=self._label)
        self.deliver(self._workspace.reads_label)

    def forget_writes(self) -> None:
        """Write nothing of what was written since the last commit: the actor's code does it again."""
        self._workspace.forget_writes()

    def learn(self, sources: Sequence[EntryVersionRef]) -> None:
        """Count versions of entries among what the actor knows of: what it writes from now on is derived from them."""
        self._workspace.note(sources)

    def advance(self, seq: int) -> None:
        """Let the next transaction see everything up to commit ``seq``."""
        self._workspace.advance(seq)

    def _require_write(self, verb: str, topic: str, key: str, label: Label) -> Decision:
        decision = self._scope.gateway.decide_write(topic, label)
        self.decisions.require(f"{verb} {topic}/{key}", decision, about_write(topic, label))
        return decision

    def _refuse_reading(self, what: str) -> NoReturn:
        denial = Deny("reserved-topic", "it holds the runtime's own record; a round's outcome comes from ask()")
        self.decisions.require(f"read {what}", denial)
        raise AssertionError("a denial raises")
