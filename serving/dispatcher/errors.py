"""How calls fail in the dispatcher itself."""

from __future__ import annotations

from agentsys.errors import ServingError


class AnswerInterruptedError(ServingError):
    """A replica broke off an answer of which a part was already shown, and no other can continue that very answer."""

    code = "AGS-0460"
    remedy = "Ask again from the start; greedy or seeded calls can be continued by other replicas."


class ReplicaHangsError(ServingError):
    """A replica took a call and then showed no sign of life."""

    code = "AGS-0461"
    remedy = "Restart the replica; `agentsys models ps` shows which are in use."


class DispatcherClosedError(ServingError):
    """The dispatcher was closed, with calls still waiting or running."""

    code = "AGS-0462"
    remedy = "Create it again."


class ReplicaFailedError(ServingError):
    """A replica raised an error that is no answer to a request."""

    code = "AGS-0463"
    remedy = "The message holds the error underneath; it is a fault of the engine or of its server."


class ReplicasDownError(ServingError):
    """All replicas that may see a call are broken, and none came back while it waited."""

    code = "AGS-0464"
    remedy = "Check that the model's servers run, then send the call again."
