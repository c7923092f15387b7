"""How large a request's body may be for the faces that lie behind one edge."""

from __future__ import annotations

from typing import Final

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from agentsys.serving.server.bodies import BoundedBodies
from agentsys.serving.server.errors import BodyTooLargeError, status_of

MOST_BYTES: Final = 8 * 1024 * 1024
"""As much as what a foreign agent or tool may answer."""

MODELS: Final = "/v1/"
"""Where prompts come in, by the hundred in one request: the server of the models has a bound of its own for them."""


def bounded(app: ASGIApp) -> ASGIApp:
    """Return ``app``, which gets no body of more than :data:`MOST_BYTES`, but for models."""
    return BoundedBodies(app, most=MOST_BYTES, refuse=_refused, but=(MODELS,))


def _refused(error: BodyTooLargeError) -> Response:
    return JSONResponse({"error": error.to_json()}, status_of(error))
