"""How requests to an engine fail, whichever engine it is."""

from __future__ import annotations

import copy

from agentsys.errors import ServingError


class RequestTooLongError(ServingError):
    """A prompt leaves no room for an answer in the model's context or in the KV cache."""

    code = "AGS-0410"
    remedy = "Shorten the prompt, use a model with a longer context, or raise the engine's KV-cache size."


class EngineClosedError(ServingError):
    """The engine was closed, or belongs to the process that this one was forked from."""

    code = "AGS-0412"
    remedy = "Load the engine again."


class EngineFailedError(ServingError):
    """The model's step failed, so nothing in the engine can be trusted any more."""

    code = "AGS-0413"
    remedy = "Load the engine again, with a smaller KV cache or batch if memory ran out; report the cause otherwise."


class RequestFailedError(ServingError):
    """The engine failed on one request, and goes on with all others."""

    code = "AGS-0425"
    remedy = "Send the request again; if it fails each time, leave out what is unusual in it, and report the cause."


class DuplicateRequestError(ServingError):
    """A request id is already in use."""

    code = "AGS-0415"
    remedy = "Give every request its own request_id, or wait for the earlier one to end."


class UnsupportedFeatureError(ServingError):
    """The engine cannot do what the request asks for; its capabilities say what it can."""

    code = "AGS-0417"
    remedy = "Leave the field out, or use an engine that has the capability, such as the torch engine."


class UnknownAdapterError(UnsupportedFeatureError):
    """No engine of the model has loaded the LoRA adapter that a request asks for."""

    code = "AGS-0444"
    remedy = "Name an adapter that it has, or none; `adapter` in [models.NAME] of agentsys.toml gives it one more."


class RequestAbortedError(ServingError):
    """A request that has nothing to give in part was aborted."""

    code = "AGS-0419"
    remedy = "Send the request again if its result is still wanted."


class QueueFullError(ServingError):
    """As many requests wait in the engine as it may hold, which bounds its memory."""

    code = "AGS-0418"
    remedy = "Send the request again later, add replicas, or raise the engine's `max_waiting`."


def anew(error: ServingError) -> ServingError:
    """Return a copy: one exception that is raised many times collects the tracebacks of all its callers."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied
