"""What the dispatcher knows of calls and replicas, and what it may decide."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from agentsys.blackboard.labels import NOBODY, PUBLIC, Readers
from agentsys.errors import ServingError
from agentsys.serving.requests import WorkflowCall
from agentsys.serving.scheduling.step_time import StepTime


class OverloadedError(ServingError):
    """More calls wait than the dispatcher may hold, or a tenant has more in flight than it may.

    ``retry_after`` is the seconds after which a place is expected to be free.
    """

    code = "AGS-0454"
    remedy = "Send the call again after the time named, add replicas, or raise `dispatch.queue`."

    def __init__(self, message: str, *, retry_after: float, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after = retry_after


class NoReplicaError(ServingError):
    """No replica may see what the call says, or none that may is there any more."""

    code = "AGS-0455"
    remedy = "Add a replica whose audience the data's label allows, such as one on this machine."


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One engine of a model. ``slots`` is how many calls it runs at once.

    A ``preemptive`` one makes room for a more urgent call at its slots; one that ``rekeys`` takes a new κ while a call
    waits or runs. ``audience`` learns the prompts it gets. ``kv_tokens`` bounds what fits its cache (0: unknown).
    """

    name: str
    slots: int
    step_time: StepTime
    preemptive: bool = False
    rekeys: bool = False
    audience: Readers = NOBODY
    kv_tokens: int = 0
    adapters: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Call:
    """One model call on its way. ``most_tokens`` bounds the answer; calls of one ``domain`` may share cached prefixes.

    ``readers`` may learn the prompt. ``adapter`` names a LoRA adapter that the call needs. The answer of a ``movable``
    one can be continued by another replica after its first token; before that, every call may move. ``pinned`` is a κ
    that the caller names.
    """

    call_id: str
    place: WorkflowCall
    arrived: float
    prompt_tokens: int
    most_tokens: int
    domain: bytes = b""
    readers: Readers = PUBLIC
    adapter: str | None = None
    movable: bool = True
    pinned: float | None = None

    def may_go_to(self, audience: Readers, adapters: Set[str]) -> bool:
        """Whether ``audience``, who learn a replica's prompts, may see it, and its adapter is among ``adapters``."""
        return (self.adapter is None or self.adapter in adapters) and self.readers.permits(audience)


@dataclass(frozen=True, slots=True)
class Start:
    """Submit the call to the replica with this κ."""

    call_id: str
    replica: str
    urgency: float


@dataclass(frozen=True, slots=True)
class Rekey:
    """Tell the replica the call's new κ."""

    call_id: str
    replica: str
    urgency: float


@dataclass(frozen=True, slots=True)
class Move:
    """Abort the call at ``source`` and submit prompt and partial answer to ``target``."""

    call_id: str
    source: str
    target: str
    urgency: float


@dataclass(frozen=True, slots=True)
class Hedge:
    """Submit a second copy of a call that shows nothing yet; the first that does wins."""

    call_id: str
    replica: str
    urgency: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Abort this copy of a call: another one won, or nobody wants it."""

    call_id: str
    replica: str


@dataclass(frozen=True, slots=True)
class Fail:
    """End the call with an error: no replica may take it any more."""

    call_id: str
    error: ServingError


Decision = Start | Rekey | Move | Hedge | Cancel | Fail
