"""Agents: what they are asked, how they volunteer, how they answer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    from agentsys.context import Context

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class UnknownAgent(RunError):
    """A run to be resumed or replayed needs an agent that is not registered."""

    code = "AGS-0612"
    remedy = "Register the agents that the run was started with, and resume it."


@dataclass(frozen=True, slots=True)
class Request:
    """An un-addressed request on the board.

    ``kind`` selects the agents it is offered to; ``deadline`` is in unix seconds; ``single`` says that one answer is
    wanted, so that answers with different values contradict each other.
    """

    id: str
    run: str
    kind: str
    value: Json
    label: Label
    asked_by: str
    deadline: float | None = None
    single: bool = False


@dataclass(frozen=True, slots=True)
class Bid:
    """An agent's offer to answer a request.

    ``score`` in 0..1 is the expected value of its answer, ``cost`` the expected work in any unit the agents share,
    ``label`` what shaped the bid beyond the request itself (the files an index was built from).
    """

    agent: str
    score: float
    reason: str = ""
    value: Json = None
    cost: float = 1.0
    label: Label | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"the score of a bid is in 0..1, got {self.score!r} from {self.agent}")
        if not self.cost > 0.0:
            raise ValueError(f"the cost of a bid is positive, got {self.cost!r} from {self.agent}")


class Decline(Exception):
    """Raised by ``act`` when the agent finds, after volunteering, that it cannot answer."""


class Agent(ABC):
    """A participant that answers requests of the kinds in ``interests``.

    ``volunteer`` must have no effects: it may run again after a crash. By default it needs no model.
    ``act`` touches the world only through its context, so that it can be recorded, replayed and retried.
    """

    name: str
    interests: frozenset[str]
    profile: str = ""

    async def volunteer(self, request: Request) -> Bid | None:
        """Return an offer, or ``None`` to stay silent."""
        return Bid(self.name, 1.0, f"answers every {request.kind}")

    @abstractmethod
    async def act(self, context: Context, request: Request) -> Any:
        """Return the answer: JSON, or a :class:`~agentsys.labelled.Labelled` around it."""


ActFunction = Callable[["Context", Request], Awaitable[Any]]
VolunteerFunction = Callable[[Request], Bid | None]


class FunctionAgent(Agent):
    """An agent made of an async function, by the :func:`agent` decorator."""

    def __init__(
        self, function: ActFunction, name: str, interests: frozenset[str], volunteer: VolunteerFunction | None = None
    ) -> None:
        self.name = name
        self.interests = interests
        self.profile = (function.__doc__ or "").strip()
        self._function = function
        self._volunteer = volunteer

    async def volunteer(self, request: Request) -> Bid | None:
        return self._volunteer(request) if self._volunteer else await super().volunteer(request)

    async def act(self, context: Context, request: Request) -> Any:
        return await self._function(context, request)


def agent(
    *, kind: str | Iterable[str], name: str | None = None, volunteer: VolunteerFunction | None = None
) -> Callable[[ActFunction], FunctionAgent]:
    """Turn an async function ``(context, request)`` into an agent that answers requests of ``kind``."""
    interests = frozenset({kind} if isinstance(kind, str) else kind)

    def decorate(function: ActFunction) -> FunctionAgent:
        return FunctionAgent(function, name or str(getattr(function, "__name__", "agent")), interests, volunteer)

    return decorate


def is_name(text: str) -> bool:
    """Whether ``text`` can name an agent or a workflow: it becomes part of paths on the board."""
    return _NAME.fullmatch(text) is not None


class AgentRegistry:
    """The agents of a runtime, indexed by interest, so that a request is offered only where it may be wanted."""

    def __init__(self, agents: Iterable[Agent] = ()) -> None:
        self._agents: dict[str, Agent] = {}
        self._by_kind: dict[str, list[Agent]] = {}
        for member in agents:
            self.add(member)

    def add(self, member: Agent) -> None:
        """Register an agent. Raises :class:`ConfigurationError` for a name that is taken or cannot be in a path."""
        if not is_name(member.name):
            raise ConfigurationError(
                f"The agent name {member.name!r} is not made of letters, digits, '_', '-' and '.'.",
                remedy="Rename the agent.",
            )
        if member.name in self._agents:
            raise ConfigurationError(f"Two agents are named {member.name!r}.", remedy="Give each agent its own name.")
        self._agents[member.name] = member
        for kind in member.interests:
            self._by_kind.setdefault(kind, []).append(member)

    def get(self, name: str) -> Agent | None:
        return self._agents.get(name)

    def __iter__(self) -> Iterator[Agent]:
        """All agents by name."""
        return iter(sorted(self._agents.values(), key=lambda member: member.name))

    def interested(self, kind: str, *, excluding: str | None = None) -> list[Agent]:
        """Return the agents interested in ``kind`` by name, without the asker itself."""
        found = [member for member in self._by_kind.get(kind, []) if member.name != excluding]
        return sorted(found, key=lambda member: member.name)
