"""The edge of the process: who may call any face, from which page, under which name.

Every face (HTTP API, OpenAI format, MCP, A2A) lies behind this one middleware. Sources: RFC 6750 (bearer tokens), and
the MCP specification's security page on DNS rebinding (Host and Origin must be allow-listed).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentsys.blackboard.labels import OWNER
from agentsys.errors import AgentsysError, ConfigurationError
from agentsys.protocols.principals import CALLER, Caller, Principals

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class FaceError(AgentsysError):
    """A face refused a caller."""

    code = "AGS-0700"
    remedy = "The message says what the caller must change."


class NotAuthenticated(FaceError):
    """A call came without a token, or with one that belongs to nobody."""

    code = "AGS-0701"
    remedy = "Send `Authorization: Bearer TOKEN` with the server's token, or that of a principal in its settings."


class ForbiddenOrigin(FaceError):
    """A browser page of another site called."""

    code = "AGS-0702"
    remedy = "Open the console of this server, or add the page's origin to server.origins."


class ForbiddenHost(FaceError):
    """The server was called under a name that is not its own, as in DNS rebinding."""

    code = "AGS-0703"
    remedy = "Call it by the address it prints, or add the name to server.hosts."


class UnprotectedBind(ConfigurationError):
    """A server that others can reach was to start without a token."""

    code = "AGS-0704"
    remedy = "Set AGENTSYS_SERVER__TOKEN (or --token), or bind to 127.0.0.1."


STATUS = {NotAuthenticated: 401, ForbiddenOrigin: 403, ForbiddenHost: 421}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket bound to ``host``; a name other than localhost counts as public."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, protected: object) -> None:
    """Raise :class:`UnprotectedBind` where others than this machine could call without a token."""
    if not protected and not is_loopback(host):
        raise UnprotectedBind(f"{host} is reachable from other machines, and no token is set.")


class EdgeMiddleware:
    """Answers 421, 403 and 401 itself, in this order, before a call reaches any route.

    ``hosts`` and ``origins`` are allowed beside the loopback names: hosts without a port, origins as browsers send them
    (``https://example.org``). Without ``principals`` (on loopback only, see :func:`check_bind`) callers are not
    authenticated. Who calls is in the scope of the request, for the routes. ``open_paths`` are answered whoever asks.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        principals: Principals | None = None,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        open_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._open_paths = frozenset(open_paths)
        self._principals = Principals(OWNER, {}) if principals is None else principals
        # Browsers send both in small letters.
        self._hosts = frozenset({*LOOPBACK_NAMES, *(host.lower() for host in hosts)})
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["path"] in self._open_paths and scope.get("method") in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        caller = None if (refusal := self._refusal(headers)) is not None else self._caller(headers)
        if caller is not None:
            await self._app({**scope, **_identity(caller)}, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            refusal = refusal or NotAuthenticated("The call has no valid bearer token.")
            challenge = {"WWW-Authenticate": "Bearer"} if isinstance(refusal, NotAuthenticated) else None
            response = JSONResponse({"error": refusal.to_json()}, STATUS[type(refusal)], headers=challenge)
            await response(scope, receive, send)

    def _refusal(self, headers: Headers) -> FaceError | None:
        host = _name_of(headers.get("host", ""))
        if host not in self._hosts:
            return ForbiddenHost(f"This server is not called {host[:100]!r}.")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and _name_of(_netloc(origin)) not in LOOPBACK_NAMES:
            return ForbiddenOrigin(f"Pages of {origin[:100]!r} may not call this server.")
        return None

    def _caller(self, headers: Headers) -> Caller | None:
        authorization = headers.getlist("authorization")
        scheme, _, presented = (authorization[0] if len(authorization) == 1 else "").partition(" ")
        # Headers are Latin-1.
        return self._principals.caller(presented.strip().encode("latin-1") if scheme.lower() == "bearer" else b"")


def _identity(caller: Caller) -> dict[str, object]:
    """Return what a request's scope says of its caller; of a principal beside the owner in MCP's and A2A's form too."""
    if caller.operator:
        return {CALLER: caller}
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    # The token itself has served its purpose. MCP binds a session to its first user, A2A keeps tasks by user.
    return {CALLER: caller, "user": AuthenticatedUser(AccessToken(token="", client_id=caller.principal, scopes=[]))}


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    name, separator, port = host.rpartition(":")
    return (name if separator and port.isdigit() else host).lower()


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
