"""Errors of the HTTP API, and the status and body of every error that reaches a client."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from agentsys.approvals import AlreadyDecided, ApprovalExpired, ApprovalInvalid, UnknownApproval
from agentsys.beginning import RunExists
from agentsys.blackboard.board import ReadOnlyBoard
from agentsys.blackboard.conflicts import Conflict
from agentsys.blackboard.lock import BoardBusy
from agentsys.blackboard.storage import BoardClosed, BoardCorrupt, BoardFull, HistoryCompacted, StorageFailed
from agentsys.deciding import UnfitWord
from agentsys.errors import AgentsysError, LabelError, ServingError
from agentsys.journal import ReplayDivergence
from agentsys.leases import RunBusy
from agentsys.protocols.edge import NotAuthenticated
from agentsys.runs import UnknownRun
from agentsys.runtime import UnknownWorkflow
from agentsys.views.why import UnknownStep


class BadRequest(AgentsysError):
    """A request's parameters or body do not have the form that the API describes."""

    code = "AGS-0705"
    remedy = "Compare the request with /api/v1/openapi.json."


class NotFound(AgentsysError):
    """Nothing is at this address."""

    code = "AGS-0706"
    remedy = "List what there is first: /api/v1/openapi.json names every route."


class ServerFault(AgentsysError):
    """The server met an error that it does not know."""

    code = "AGS-0707"
    remedy = "The server's standard error holds the traceback; report it."


STATUSES: dict[type[AgentsysError], int] = {
    UnknownRun: 404,
    UnknownWorkflow: 404,
    UnknownApproval: 404,
    UnknownStep: 404,
    NotFound: 404,
    RunBusy: 409,
    RunExists: 409,
    Conflict: 409,
    ReadOnlyBoard: 409,
    BoardBusy: 409,
    ReplayDivergence: 409,
    AlreadyDecided: 409,
    ApprovalExpired: 409,
    ApprovalInvalid: 409,
    UnfitWord: 422,
    NotAuthenticated: 401,
    HistoryCompacted: 410,
    StorageFailed: 503,
    BoardFull: 503,
    BoardClosed: 503,
    BoardCorrupt: 500,
    LabelError: 403,
    BadRequest: 422,
    ServingError: 503,
    ServerFault: 500,
}


def status_of(error: AgentsysError) -> int:
    """Return the status of the nearest class in :data:`STATUSES`; 400 for all others."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 400)


def error_body(error: AgentsysError) -> dict[str, dict[str, str]]:
    """Return ``error`` in the API's shape."""
    # Lone surrogates of a client's own text cannot be encoded.
    return {"error": {key: text.encode("utf-8", "backslashreplace").decode() for key, text in error.to_json().items()}}


def error_response(error: AgentsysError, status: int | None = None) -> JSONResponse:
    """Return what answers a request that ``error`` ended."""
    return JSONResponse(error_body(error), status_code=status or status_of(error))


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` in the API's shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AgentsysError)
        return error_response(error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # Without the values: a message may be logged, and a value may be private.
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        return error_response(BadRequest(f"{faults}."))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        kind = NotFound if error.status_code == 404 else BadRequest
        return error_response(kind(f"{error.detail}: {request.method} {request.url.path}"), error.status_code)

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return error_response(ServerFault(f"{type(error).__name__} while answering {request.method}."))

    app.add_exception_handler(AgentsysError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unknown)
