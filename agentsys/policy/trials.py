"""Tests of a policy, written beside it: calls, who shaped them, and how they must be decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from agentsys.blackboard.labels import Label
from agentsys.policy.rules import Part, readers_of


class Shape(Part):
    """Who shaped something, and who may read it, as a trial writes it."""

    by: tuple[str, ...] = Field((), description="influencers; default: the owner")
    through: tuple[str, ...] = Field((), description="endorsers who let them through")
    readers: tuple[str, ...] = Field((), description="who may read it, or 'everyone'; default: the owner")

    def label(self, owner: str, trusted: frozenset[str]) -> Label:
        label = Label(frozenset(self.by or (owner,)), readers_of(self.readers or (owner,)))
        for endorser in self.through:
            label = label.endorsed(endorser, 1.0, keeping=trusted) if label.influencers - trusted else label
        return label


_OWN: Final = Shape()


class Trial(Part):
    """A call, and what the policy must say of it."""

    name: str = Field(description="what is tried")
    tool: str = Field(description="the tool called")
    arguments: Mapping[str, Any] = Field(default_factory=dict, description="the call's arguments")
    control: Shape = Field(_OWN, description="who shaped whether the call is made")
    labels: Mapping[str, Shape] = Field(default_factory=dict, description="who shaped single arguments")
    expect: Literal["deny", "ask", "allow"] = Field(description="how it must be decided")
    rule: str | None = Field(None, description="the rule that must decide; default: any")
