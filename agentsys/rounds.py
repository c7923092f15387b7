"""What comes out of a round: a request was posted, agents volunteered, the chosen ones answered, the round closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from agentsys.blackboard.entries import EntryVersionRef, Json, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.errors import RunError

ResponseStatus = Literal["ok", "crashed", "timed_out", "declined"]


class Unanswered(RunError):
    """A round gave no single answer where one was needed."""

    code = "AGS-0610"
    remedy = "Look at the round's responses with `agentsys board log --run RUN`, or handle the outcome in the workflow."


LONGEST_TEXT = 4_000
"""Characters of an error's message that are put on record; it may quote a whole file."""


def recordable(text: str) -> str:
    """Return ``text`` as it can be put on record: bounded, and with what is no Unicode character escaped."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return plain if len(plain) <= LONGEST_TEXT else plain[: LONGEST_TEXT - 1] + "…"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an agent, a tool or a run failed: the stable code, the type's name, the message, and what to do about it."""

    code: str
    type: str
    message: str
    remedy: str = ""

    @staticmethod
    def of(error: BaseException, clean: Callable[[str], str] = str) -> Failure:
        """Describe ``error``; one that stands for another, recorded failure is described as that.

        ``clean`` takes out of a message what must not be on record.
        """
        recorded = getattr(error, "failure", None)
        if isinstance(recorded, Failure):
            return recorded
        code = getattr(error, "code", None)
        # Before it is cut, which might cut a value in two that is to be taken out.
        message = recordable(clean(str(getattr(error, "message", None) or error)))
        remedy = clean(str(getattr(error, "remedy", "")))
        return Failure(code if isinstance(code, str) else RunError.code, type(error).__name__, message, remedy)

    def to_json(self) -> dict[str, str]:
        return {"code": self.code, "type": self.type, "message": self.message, "remedy": self.remedy}


@dataclass(frozen=True, slots=True)
class Response:
    """What one agent gave: its answer, or why there is none.

    ``sources`` are the versions of entries that it was made from.
    """

    agent: str
    status: ResponseStatus
    value: Json
    label: Label
    failure: Failure | None = None
    sources: tuple[EntryVersionRef, ...] = ()

    def describe(self) -> str:
        """Return one line for people: who, with what status, and why where it failed."""
        why = f": {self.failure.code} {self.failure.message}" if self.failure else ""
        return f"{self.agent} {self.status}{why}"


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """How a round ended; ``label`` is the join of the request, the bids and the responses."""

    name: ClassVar[str] = ""
    request: str
    responses: tuple[Response, ...]
    label: Label

    @property
    def answers(self) -> tuple[Response, ...]:
        """The responses with status ``ok``, best bid first."""
        return tuple(response for response in self.responses if response.status == "ok")

    @property
    def value(self) -> Json:
        """The best bidder's answer. Raises :class:`Unanswered` unless the round was answered."""
        raise Unanswered(f"Request {self.request} has no single answer: {self.describe()}.")

    def describe(self) -> str:
        """Return one line for people: the outcome, and what each agent did."""
        agents = ", ".join(response.describe() for response in self.responses)
        return f"{self.name} ({agents})" if agents else self.name


@dataclass(frozen=True, slots=True)
class Answered(RoundOutcome):
    """At least one agent answered, and nothing contradicts where a single answer was asked for."""

    name: ClassVar[str] = "answered"

    @property
    def value(self) -> Json:
        return self.answers[0].value


@dataclass(frozen=True, slots=True)
class NoVolunteer(RoundOutcome):
    """No agent offered to answer."""

    name: ClassVar[str] = "no volunteer"


@dataclass(frozen=True, slots=True)
class AllFailed(RoundOutcome):
    """Agents volunteered, and every one of them crashed, timed out or declined."""

    name: ClassVar[str] = "all failed"


@dataclass(frozen=True, slots=True)
class Contradiction(RoundOutcome):
    """A single answer was asked for and agents gave different ones; ``groups`` lists who agrees with whom."""

    name: ClassVar[str] = "contradiction"
    groups: tuple[tuple[Response, ...], ...] = ()


def classify(request: str, responses: Sequence[Response], label: Label, *, single: bool) -> RoundOutcome:
    """Return the outcome of a closed round. Answers are equal when their canonical JSON is equal."""
    everything = label.join(*(response.label for response in responses))
    if not responses:
        return NoVolunteer(request, (), everything)
    groups: dict[str, list[Response]] = {}
    for response in responses:
        if response.status == "ok":
            groups.setdefault(canonical_json(response.value), []).append(response)
    if not groups:
        return AllFailed(request, tuple(responses), everything)
    if single and len(groups) > 1:
        agreeing = tuple(tuple(group) for group in groups.values())
        return Contradiction(request, tuple(responses), everything, agreeing)
    return Answered(request, tuple(responses), everything)
