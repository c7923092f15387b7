"""What the policy says of one tool: what its arguments decide, who learns them, who shaped its results, how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentsys.blackboard.labels import PUBLIC, Readers

Role = Literal["control", "target", "payload"]
"""What an argument decides: what is done, to whom, or with what content."""

Ask = Literal["never", "if-untrusted", "always"]

ARGUMENT: Final = "argument:"
"""Begins a member of an audience that stands for whomever an argument names."""

HOST: Final = "host:"
"""Begins a member of an audience that stands for ``web:HOST``, of the host that an argument's address leads to."""

EVERYONE: Final = "everyone"


class Part(BaseModel):
    """A part of a policy: unchangeable, and without keys that nobody reads and numbers that JSON has not."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArgumentRule(Part):
    """What is said of one argument. What nobody declared is ``control``."""

    role: Role = Field("control", description="control: what is done; target: to whom; payload: content of any origin")
    endorsers: tuple[str, ...] = Field((), description="endorsers who may vouch for it where strangers shaped it")
    hosts: tuple[str, ...] | None = Field(
        None, description="hosts that an address may lead to, as 'a.org', 'a.org:8443', '*.a.org'; default: any"
    )
    links: Literal["keep", "defang"] = Field(
        "keep", description="defang: links in a payload that strangers shaped are made inactive"
    )


class Limits(Part):
    """How often a tool may be called."""

    run: int | None = Field(None, ge=0, description="calls in one run")
    hour: int | None = Field(None, ge=0, description="calls in one clock hour, of all runs of the board together")


class ToolRule(Part):
    """What the policy says of a tool, beside the tool's own declaration."""

    description: str | None = Field(None, description="what planning models are told of it; default: its own words")
    consequential: bool | None = Field(None, description="whether a call changes something; default: as declared")
    ask: Ask = Field("never", description="when a person is asked about a call")
    audience: tuple[str, ...] | None = Field(
        None,
        description="who learns the arguments: principals, argument:NAME, host:NAME, everyone; default: as declared",
    )
    declassifies: bool = Field(
        False, description="whether trusted callers may send there, to trusted targets, what only the owner may read"
    )
    control_endorsers: tuple[str, ...] = Field(
        (), description="endorsers through whom strangers may influence whether the call is made"
    )
    arguments: Mapping[str, ArgumentRule] = Field(default_factory=dict, description="what is said of each argument")
    source: tuple[str, ...] | None = Field(
        None, description="who shapes the result beside the arguments, nobody if empty; default: as declared"
    )
    sources: Mapping[str, Mapping[str, tuple[str, ...]]] = Field(
        default_factory=dict,
        description="by argument and exact value: who shapes the result of such calls, in place of source",
    )
    readers: tuple[str, ...] | None = Field(None, description="who may read the result; default: as declared")
    fields: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="parts of the result, as '*.sender', that others shape than the whole"
    )
    limits: Limits = Field(default_factory=Limits, description="how often it may be called")
    cost: float = Field(0.0, ge=0, description="what one call costs, in the unit of the run's cost limit")

    def argument(self, name: str) -> ArgumentRule:
        return self.arguments.get(name, _UNDECLARED)

    def source_of(self, arguments: object) -> tuple[str, ...] | None:
        """Return who shapes the result of a call beside its arguments; ``None`` where the policy does not say.

        Of several arguments with something said about their values, all that is said holds.
        """
        named = arguments.items() if isinstance(arguments, Mapping) else ()
        given = {name: value for name, value in named if isinstance(value, str)}
        said = [by_value[given[name]] for name, by_value in self.sources.items() if given.get(name) in by_value]
        return tuple(sorted({who for influencers in said for who in influencers})) if said else self.source

    def audience_of(self, arguments: Mapping[str, object]) -> list[str] | None:
        """Return who learns a call's arguments; ``None`` where the policy does not say.

        Raises ``ValueError`` where an argument that names the audience is no text, or a list of texts.
        """
        if self.audience is None:
            return None
        return [name for member in self.audience for name in _members(member, arguments)]


def naming(member: str) -> str | None:
    """Return the argument that names a member of an audience; ``None`` where the member is a principal itself."""
    prefix = next((each for each in (ARGUMENT, HOST) if member.startswith(each)), None)
    return None if prefix is None else member.removeprefix(prefix)


def readers_of(names: Iterable[str]) -> Readers:
    """Return the readers that a policy names; one of the names may stand for everyone."""
    members = frozenset(names)
    return PUBLIC if EVERYONE in members else Readers(members)


def _members(member: str, arguments: Mapping[str, object]) -> list[str]:
    argument = naming(member)
    if argument is None:
        return [member]
    value = arguments.get(argument)
    if value is None:
        return []
    listed = value if isinstance(value, list) else [value]
    names = [name for name in listed if isinstance(name, str)]
    if len(names) != len(listed):
        raise ValueError(f"{member} names the audience, and is {value!r}")
    if member.startswith(ARGUMENT):
        return names
    from agentsys.egress import web_principal  # brings an HTTP library, which few policies need

    return [web_principal(name) for name in names]


_UNDECLARED: Final = ArgumentRule()
NO_RULE: Final = ToolRule()
