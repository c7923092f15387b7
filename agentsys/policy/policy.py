"""What a runtime's owner allows. Everything that is not allowed here is denied."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Self

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from agentsys.blackboard.entries import canonical_json
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.policy.domains import Domain
from agentsys.policy.endorsers import PERSON, Endorser
from agentsys.policy.rules import NO_RULE, Part, ToolRule
from agentsys.policy.trials import Trial

Check = Callable[[str, Mapping[str, Any], Label], str | None]
"""What TOML cannot say: from a tool's name, a call's arguments and their label, why it is denied, or ``None``."""


class Answering(Part):
    """What of a final answer counts as the agent's own words; the rest is attached as the strangers' it is."""

    endorsers: tuple[str, ...] = Field((), description="endorsers whose spans stand in the answer itself")


class Policy(Part):
    """The owner's word, written as TOML (:mod:`agentsys.policy.documents`) or in Python.

    What a call would disclose beyond its audience is denied, never asked about.
    """

    owner: str = Field(OWNER, description="the principal on whose behalf a local caller's unlabelled input counts")
    trusted: frozenset[str] = Field(
        frozenset({OWNER}), description="principals whose influence may lead to consequential calls and shared writes"
    )
    processors: frozenset[str] = Field(
        frozenset(), description="principals that compute for the owner, such as a model server, and may learn prompts"
    )
    open_topics: tuple[str, ...] = Field(
        (), description="topic prefixes that agents may write under anybody's influence; the label travels along"
    )
    tools: Mapping[str, ToolRule] = Field(default_factory=dict, description="what is said of each tool")
    closed: bool = Field(False, description="whether tools that are not listed here are denied, whatever they declare")
    endorsers: Mapping[str, Endorser] = Field(default_factory=dict, description="who may vouch for strangers' values")
    domains: Mapping[str, Domain] = Field(default_factory=dict, description="directories")
    links: frozenset[str] = Field(frozenset(), description="hosts whose links stay active in strangers' payloads")
    answer: Answering = Field(default_factory=Answering)
    budget_bits: float = Field(256.0, ge=0, description="what one influencer may say through endorsed values in a run")
    run_cost: float | None = Field(None, ge=0, description="what the calls of one run may cost together")
    approvers: frozenset[str] = Field(
        frozenset({OWNER}), description="principals who may decide what a person is asked, where they may read it"
    )
    tests: tuple[Trial, ...] = Field((), exclude=True, description="calls, and how they must be decided")
    checks: SkipJsonSchema[tuple[Check, ...]] = Field((), exclude=True, description="in Python; they can only deny")

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        faults = [
            f"endorsers.{name}: no domain is named {endorser.domain!r}"
            for name, endorser in self.endorsers.items()
            if endorser.domain is not None and endorser.domain not in self.domains
        ]
        faults += [f"endorsers.{PERSON}: the name stands for a person"] * (PERSON in self.endorsers)
        for name, rule in self.tools.items():
            used = {*rule.control_endorsers, *(by for each in rule.arguments.values() for by in each.endorsers)}
            faults += [f"tools.{name}: no endorser is named {by!r}" for by in sorted(used - {PERSON, *self.endorsers})]
        faults += [f"answer: no endorser is named {by!r}" for by in self.answer.endorsers if by not in self.endorsers]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @staticmethod
    def of(
        *,
        trusted: Iterable[str] = (OWNER,),
        open_topics: Iterable[str] = (),
        owner: str = OWNER,
        processors: Iterable[str] = (),
        asks: Iterable[str] = (),
        asks_if_untrusted: Iterable[str] = (),
        approvers: Iterable[str] = (OWNER,),
    ) -> Policy:
        """Return a policy from its simplest parts; ``asks`` and ``asks_if_untrusted`` are names of tools."""
        tools = {name: ToolRule(ask="if-untrusted") for name in asks_if_untrusted}
        tools |= {name: ToolRule(ask="always") for name in asks}
        return Policy(
            trusted=frozenset(trusted),
            open_topics=tuple(open_topics),
            owner=owner,
            processors=frozenset(processors),
            tools=tools,
            approvers=frozenset(approvers),
        )

    @property
    def canonical(self) -> Any:
        """Everything that TOML can say, as JSON in one order; without the tests."""
        return _sorted(self.model_dump(mode="python"))

    @cached_property
    def version(self) -> str:
        """A digest of everything that the policy says, the source text of its checks included."""
        checks = [_source(check) for check in self.checks]
        content = canonical_json([self.canonical, checks])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def with_processors(self, names: Iterable[str]) -> Policy:
        """Return the policy with ``names`` as processors beside its own."""
        return self.model_copy(update={"processors": self.processors | frozenset(names)})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with ``update``, under a version of its own."""
        copied = super().model_copy(update=update, deep=deep)
        # pydantic copies what was computed from the old fields along with them.
        copied.__dict__.pop("version", None)
        return copied

    def rule(self, tool: str) -> ToolRule:
        return self.tools.get(tool, NO_RULE)

    def trusts(self, label: Label, endorsers: Iterable[str] = ()) -> bool:
        """Whether only trusted principals shaped what carries ``label``, others only through ``endorsers``."""
        return label.influenced_only_by(self.trusted, endorsers)

    def permits(self, label: Label, audience: Readers) -> bool:
        """Whether ``audience``, the owner's processors aside, may read what carries ``label``."""
        if self.processors and audience.members is not None:
            audience = Readers(audience.members - self.processors)
        return label.readers.permits(audience)

    def learners(self, label: Label) -> Readers:
        """Return everyone who may learn what carries ``label``, the owner's processors among them."""
        members = label.readers.members
        return label.readers if members is None else Readers(members | self.processors)

    def owner_may_read(self, label: Label) -> bool:
        return label.readers.members is None or self.owner in label.readers.members

    def is_open(self, topic: str) -> bool:
        return any(topic.startswith(prefix) for prefix in self.open_topics)


def _source(check: Check) -> str:
    try:
        return inspect.getsource(check)
    except (OSError, TypeError):
        return str(getattr(check, "__qualname__", check))


def _sorted(value: Any) -> Any:
    """Return a policy's fields as JSON in one order."""
    if isinstance(value, Mapping):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_sorted(item) for item in value] if isinstance(value, tuple) else value
