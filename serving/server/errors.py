"""Errors of the OpenAI-compatible server, and every serving error in OpenAI's shape.

Source of the shape: OpenAI's API reference, "error codes": ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from agentsys.errors import AgentsysError, ServingError
from agentsys.serving.constraints import ConstraintError
from agentsys.serving.engine_errors import QueueFullError, RequestTooLongError, UnsupportedFeatureError
from agentsys.serving.loading import UnknownEngineError
from agentsys.serving.openai_engine import RemoteOverloadedError
from agentsys.serving.openai_format import RemoteRefusedError, UnsupportedConstraintError
from agentsys.serving.scheduling.calls import OverloadedError
from agentsys.serving.tokenizer import PromptError, UnknownTokenError

if TYPE_CHECKING:  # Limits are used without a server too, and to import FastAPI takes as long as a short command.
    from fastapi.exceptions import RequestValidationError

_BAD_REQUEST, _FORBIDDEN, _NOT_FOUND, _TOO_LARGE, _TOO_MANY, _CLIENT_CLOSED = 400, 403, 404, 413, 429, 499
_FAILED, _UNAVAILABLE = 500, 503
_LARGEST_SHOWN = 2**63


class BodyTooLargeError(ServingError):
    """A request's body is larger than the server reads."""

    code = "AGS-0710"
    remedy = "Send less at once, or put the data where a workflow reads it, such as in a file."


class InvalidRequestError(ServingError):
    """A request's body is malformed, or contradicts itself."""

    code = "AGS-0720"
    remedy = "Correct the field named; docs/serving.md lists the fields that are understood."

    def __init__(self, message: str, *, param: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.param = param


class UnsupportedFieldError(InvalidRequestError):
    """A request asks for something that our engines do not do, such as log probabilities."""

    code = "AGS-0721"
    remedy = "Leave the field out, or use an engine that has it."


class AnswerAbortedError(ServingError):
    """The engine was closed or the request aborted before the answer was whole."""

    code = "AGS-0722"
    remedy = "Send the request again."


class ClientGoneError(ServingError):
    """The client closed its connection; its request was aborted. Nobody reads this answer, but access logs do."""

    code = "AGS-0723"
    remedy = "Keep the connection open until the answer is whole."


class OperatorOnlyError(ServingError):
    """Somebody else than the server's owner asked for what concerns all its users."""

    code = "AGS-0725"
    remedy = "Send the owner's token, which is `server.token` in the server's settings."


class DrainingError(ServingError):
    """The server finishes what it has begun, takes nothing more, and then ends. ``retry_after`` is in seconds."""

    code = "AGS-0726"
    remedy = "Send the request again after the time named, to another server or when this one is back."

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimitReachedError(ServingError):
    """A tenant, or all of them together, have as much under way as the server's limits allow.

    ``retry_after`` is the seconds after which a place is expected to be free.
    """

    code = "AGS-0727"
    remedy = "Send the request again after the time named; the operator sets the bounds in [server.limits]."

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SlowClientError(ServingError):
    """A client did not read its answer for longer than the server waits; its requests were aborted."""

    code = "AGS-0728"
    remedy = "Read the stream as it comes; the operator sets the patience in server.limits.read_seconds."


class OtherTenantError(ServingError):
    """A client that is known by name asked in another tenant's."""

    code = "AGS-0729"
    remedy = "Leave the tenant out: it is known from the token."


_REFUSED = (
    InvalidRequestError,
    PromptError,
    UnknownTokenError,
    RequestTooLongError,
    ConstraintError,
    UnsupportedConstraintError,
    RemoteRefusedError,
    UnsupportedFeatureError,
)


_STATUSES: tuple[tuple[type[AgentsysError] | tuple[type[AgentsysError], ...], int], ...] = (
    (_REFUSED, _BAD_REQUEST),
    ((OperatorOnlyError, OtherTenantError), _FORBIDDEN),
    (UnknownEngineError, _NOT_FOUND),
    (BodyTooLargeError, _TOO_LARGE),
    ((LimitReachedError, OverloadedError, QueueFullError, RemoteOverloadedError), _TOO_MANY),
    (ClientGoneError, _CLIENT_CLOSED),
    (ServingError, _UNAVAILABLE),
)


def status_of(error: AgentsysError) -> int:
    """Return the HTTP status of an error: whose fault it was."""
    return next((status for kinds, status in _STATUSES if isinstance(error, kinds)), _FAILED)


def headers_of(error: AgentsysError) -> dict[str, str]:
    """Return what else the client is told: after how many seconds it may try again."""
    seconds = getattr(error, "retry_after", 1.0 if status_of(error) == _TOO_MANY else None)
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


def error_body(error: AgentsysError) -> dict[str, Any]:
    """Return the error as OpenAI's clients read it; ``remedy`` is ours."""
    return {
        "error": {
            "message": f"{error.message} {error.remedy}",
            "type": _kind(status_of(error)),
            "param": getattr(error, "param", None),
            "code": error.code,
            "remedy": error.remedy,
        }
    }


def of_validation(error: RequestValidationError) -> InvalidRequestError:
    """Name the first fault of a body by its path; a value that is no number may be long or secret, and is left out."""
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if part not in ("body", "header")) or "body"
    given = first.get("input")
    short = isinstance(given, float) or (isinstance(given, int) and abs(given) < _LARGEST_SHOWN)
    got = f", got {given}" if short else ""
    return InvalidRequestError(f"{param}: {first['msg']}{got}.", param=param)


def _kind(status: int) -> str:
    if status == _TOO_MANY:
        return "rate_limit_error"
    return "invalid_request_error" if status < _FAILED else "server_error"
