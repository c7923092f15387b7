"""What a runtime's owner allows. Everything that is not allowed here is denied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agentsys.blackboard.labels import OWNER, Label, Readers


@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's word.

    ``trusted``: principals whose influence may lead to consequential calls and to writes of shared topics.
    ``open_topics``: topic prefixes that agents may write under anybody's influence; the label travels along.
    ``owner``: the principal on whose behalf unlabelled input of a local caller counts.
    ``processors``: principals that compute for the owner (a model server the owner chose) and may learn any prompt.
    ``asks``: tools about whose every call a person is asked; ``asks_if_untrusted``: tools about whose calls a person is
    asked where the influence of others than the trusted would have them denied. What a call would disclose is never
    asked about.
    """

    trusted: frozenset[str] = field(default_factory=lambda: frozenset({OWNER}))
    open_topics: tuple[str, ...] = ()
    owner: str = OWNER
    processors: frozenset[str] = frozenset()
    asks: frozenset[str] = frozenset()
    asks_if_untrusted: frozenset[str] = frozenset()

    @staticmethod
    def of(
        *,
        trusted: Iterable[str] = (OWNER,),
        open_topics: Iterable[str] = (),
        owner: str = OWNER,
        processors: Iterable[str] = (),
        asks: Iterable[str] = (),
        asks_if_untrusted: Iterable[str] = (),
    ) -> Policy:
        return Policy(
            frozenset(trusted),
            tuple(open_topics),
            owner,
            frozenset(processors),
            frozenset(asks),
            frozenset(asks_if_untrusted),
        )

    def trusts(self, label: Label) -> bool:
        """Whether only trusted principals shaped what carries ``label``."""
        return label.influenced_only_by(self.trusted)

    def permits(self, label: Label, audience: Readers) -> bool:
        """Whether ``audience``, the owner's processors aside, may read what carries ``label``."""
        if audience.members is not None:
            audience = Readers(audience.members - self.processors)
        return label.readers.permits(audience)

    def is_open(self, topic: str) -> bool:
        return any(topic.startswith(prefix) for prefix in self.open_topics)
