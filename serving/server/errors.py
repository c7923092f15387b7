"""Errors of the OpenAI-compatible server, and every serving error in OpenAI's shape.

Source of the shape: OpenAI's API reference, "error codes": ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError

from agentsys.errors import AgentsysError, ServingError
from agentsys.serving.client import UnknownEngineError
from agentsys.serving.constraints import ConstraintError
from agentsys.serving.engine_errors import RequestTooLongError
from agentsys.serving.openai_engine import RemoteRefusedError
from agentsys.serving.openai_format import UnsupportedConstraintError
from agentsys.serving.tokenizer import PromptError

_BAD_REQUEST, _NOT_FOUND, _CLIENT_CLOSED, _FAILED, _UNAVAILABLE = 400, 404, 499, 500, 503


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


_REFUSED = (
    InvalidRequestError,
    PromptError,
    RequestTooLongError,
    ConstraintError,
    UnsupportedConstraintError,
    RemoteRefusedError,
)


def status_of(error: AgentsysError) -> int:
    """Return the HTTP status of an error: whose fault it was."""
    if isinstance(error, _REFUSED):
        return _BAD_REQUEST
    if isinstance(error, UnknownEngineError):
        return _NOT_FOUND
    if isinstance(error, ClientGoneError):
        return _CLIENT_CLOSED
    return _UNAVAILABLE if isinstance(error, ServingError) else _FAILED


def error_body(error: AgentsysError) -> dict[str, Any]:
    """Return the error as OpenAI's clients read it; ``remedy`` is ours."""
    caller = status_of(error) < _FAILED
    return {
        "error": {
            "message": f"{error.message} {error.remedy}",
            "type": "invalid_request_error" if caller else "server_error",
            "param": getattr(error, "param", None),
            "code": error.code,
            "remedy": error.remedy,
        }
    }


def of_validation(error: RequestValidationError) -> InvalidRequestError:
    """Name the first fault of a body by its path; the value itself may be long or secret and is not repeated."""
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return InvalidRequestError(f"{param}: {first['msg']}.", param=param)
