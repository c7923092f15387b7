"""Endorsers: what may vouch for a value that strangers shaped, because they cannot say much through it.

An endorser has a finite domain, computed from what is trusted: a directory, a bounded number, a bounded time. What it
lets through is a member of that domain, or *refused*, which is a member too, so a stranger conveys at most
``log2(n + 1)`` bits. Source: FIDES (arXiv 2505.23643), section 5, whose endorsement is by type alone.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, create_model, model_validator

from agentsys.blackboard.entries import Json
from agentsys.policy.domains import Member
from agentsys.policy.rules import Part

PERSON: Final = "person"
"""The endorser that is the owner: a person who saw the value."""

MAX_DATE: Final = 40
"""Characters of a date."""

MOST: Final = 2**53
"""How many numbers a domain may have, so that each is told apart and all are counted."""

DIRECTIVES: Final = frozenset("YmdHMSbBy")
"""Of strftime: those by which dates can be counted, and each date has one spelling."""


class Refused(ValueError):
    """A value is outside an endorser's domain."""


class Endorser(Part):
    """What an endorser lets through. ``many`` is how many members a list may have; 0: one value, no list."""

    type: Literal["member", "number", "date", "boolean"] = Field("member", description="what the domain is made of")
    domain: str | None = Field(None, description="member: the directory")
    minimum: float | None = Field(None, description="number: the least")
    maximum: float | None = Field(None, description="number: the greatest")
    step: float = Field(1.0, gt=0, description="number: all others are whole steps above the least")
    as_text: bool = Field(False, description="number: written as text, as tools that take identifiers want it")
    earliest: str | None = Field(None, description="date: the first, written as in `format`")
    latest: str | None = Field(None, description="date: the last")
    format: str = Field("%Y-%m-%d", description="date: how it is written, as for strftime")
    many: int = Field(0, ge=0, le=64, description="the longest list of members; 0: a single value")

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if (self.type == "member") != (self.domain is not None):
            raise ValueError("an endorser of members needs a domain, and no other has one")
        if self.type == "number":
            if not _is_range(self.minimum, self.maximum):
                raise ValueError("an endorser of numbers needs a finite minimum and a maximum that is no less")
            if not math.isfinite(self.step) or not self._steps() < MOST:
                raise ValueError("the numbers from minimum to maximum cannot be counted in such steps")
        if self.type == "date":
            if not DIRECTIVES.issuperset(re.findall("%(.?)", self.format)):
                raise ValueError(f"a date's format has only the directives {', '.join(sorted(DIRECTIVES))}")
            if self.earliest is None or self.latest is None:
                raise ValueError("an endorser of dates needs earliest and latest")
            first, last = self.span
            if first > last:
                raise ValueError("earliest is after latest")
        return self

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The first and the last date."""
        assert self.earliest is not None and self.latest is not None
        return self._moment(self.earliest), self._moment(self.latest)

    def size(self, members: Sequence[Member]) -> int:
        """Return how many values the domain has, lists and refusal left out."""
        match self.type:
            case "member":
                return len(members)
            case "number":
                return math.floor(self._steps() + 1e-9) + 1
            case "date":
                return self._count_of_dates()
            case _:
                return 2

    def bits(self, members: Sequence[Member]) -> float:
        """Return how much whoever shaped a value can say through what is let through."""
        size = self.size(members)
        return math.log2(size + 1) if not self.many else math.log2(2.0) + self.many * math.log2(size + 1)

    def admit(self, value: Json, members: Sequence[Member]) -> Json:
        """Return the domain's member that ``value`` is. Raises :class:`Refused`, which does not quote it."""
        if not self.many:
            return self._admit_one(value, members)
        if not isinstance(value, list) or len(value) > self.many:
            raise Refused(f"it is no list of at most {self.many}")
        return [self._admit_one(item, members) for item in value]

    def _admit_one(self, value: Json, members: Sequence[Member]) -> Json:
        match self.type:
            case "member":
                return _member(value, members)
            case "number":
                return self._number(value)
            case "date":
                return self._date(value)
            case _:
                if not isinstance(value, bool):
                    raise Refused("it is neither true nor false")
                return value

    def _number(self, value: Json) -> Json:
        assert self.minimum is not None and self.maximum is not None
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not self.minimum <= number <= self.maximum:
            raise Refused(f"it is no number from {self.minimum:g} to {self.maximum:g}")
        steps = round((number - self.minimum) / self.step)
        member = float(Decimal(str(self.minimum)) + steps * Decimal(str(self.step)))
        if abs(member - number) > self.step * 1e-6 or steps >= self.size(()):
            raise Refused(f"it is not in steps of {self.step:g}")
        # The member itself: what is only near it, or another spelling of it, would say something too.
        plain = int(member) if member % 1 == 0 else member
        return str(plain) if self.as_text else plain

    def _steps(self) -> float:
        assert self.minimum is not None and self.maximum is not None
        return (self.maximum - self.minimum) / self.step

    def _date(self, value: Json) -> Json:
        first, last = self.span
        try:
            moment = self._moment(value if isinstance(value, str) else "")
        except ValueError as error:
            raise Refused(f"it is no date written as {self.format}") from error
        if not first <= moment <= last:
            raise Refused(f"it is not from {self.earliest} to {self.latest}")
        return moment.strftime(self.format)

    def _moment(self, text: str) -> datetime:
        # Naive on purpose: only compared with others of the same policy.
        return datetime.strptime(text, self.format)

    def _count_of_dates(self) -> int:
        first, last = self.span
        seconds = (last - first).total_seconds()
        finest = 1 if "%S" in self.format else 60 if "%M" in self.format else 3600 if "%H" in self.format else 86400
        return int(seconds // finest) + 1


def answer_form(endorser: Endorser, members: Sequence[Member]) -> type[BaseModel]:
    """Return the form of a quarantined answer: a member of the endorser's domain, or a list of them, or null."""
    one: Any = _annotation(endorser, members)
    whole: Any = Annotated[list[one], Field(max_length=endorser.many)] if endorser.many else one
    return create_model("Choice", value=(whole | None, ...))


def _annotation(endorser: Endorser, members: Sequence[Member]) -> Any:
    match endorser.type:
        case "member":
            listed = tuple(member for member in members if not isinstance(member, float))
            return Literal[listed] if listed else types.NoneType
        case "number":
            return Annotated[float, Field(ge=endorser.minimum, le=endorser.maximum)]
        case "date":
            return Annotated[str, Field(max_length=MAX_DATE)]
        case _:
            return bool


def _is_range(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low <= high


def _member(value: Json, members: Sequence[Member]) -> Member:
    """Return the directory's own spelling; a near miss must not let a stranger's spelling through."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        if value in members:
            return members[members.index(value)]
        folded = [member for member in members if str(member).strip().casefold() == str(value).strip().casefold()]
        if len(folded) == 1:
            return folded[0]
    raise Refused("the directory does not list it")
