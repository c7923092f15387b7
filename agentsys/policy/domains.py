"""Directories: closed sets of names and numbers that the owner trusts, such as contacts, channels, accounts, sites."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from agentsys.blackboard.entries import Json
from agentsys.paths import everywhere
from agentsys.policy.rules import Part

Member = str | int | float
"""What a directory lists."""


class Domain(Part):
    """A directory: its members given here, or found at ``path`` in the result of a tool that no stranger shapes."""

    values: tuple[Member, ...] = Field((), description="the members")
    tool: str | None = Field(None, description="a tool without arguments whose trusted result lists the members")
    path: str = Field("*", description="where in the tool's result the members stand, as '*.email'")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if bool(self.values) == (self.tool is not None):
            raise ValueError("give either values or tool")
        return self

    def members(self, result: Json) -> tuple[Member, ...]:
        """Return the members, from the tool's ``result`` where there is a tool; each once, in order."""
        found: list[Any] = list(self.values) if self.tool is None else everywhere(result, self.path)
        return tuple(dict.fromkeys(value for value in found if isinstance(value, str | int | float)))
