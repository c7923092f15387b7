"""The options ``--url`` and ``--token``: which server a command asks, and as whom."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agentsys.errors import ConfigurationError
from agentsys.settings import load_settings

if TYPE_CHECKING:
    from agentsys.protocols.http.client import RuntimeClient

URL_VARIABLE: Final = "AGENTSYS_URL"

UrlOption = Annotated[
    str | None, typer.Option("--url", envvar=URL_VARIABLE, help="The server; default: server.host and server.port.")
]
UrlBesideBoardOption = Annotated[
    str | None, typer.Option("--url", envvar=URL_VARIABLE, help="A server to ask instead of this machine's board.")
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="AGENTSYS_TOKEN", show_envvar=True, help="Its token; default: server.token."),
]


def connected(url: str | None, token: str | None) -> RuntimeClient:
    """Return a client of the server that the flags, or the settings, name.

    The settings' token goes only to the settings' server: a foreign address must not learn it.
    """
    from agentsys.protocols.http.client import RuntimeClient

    if url is not None:
        return RuntimeClient(url, token)
    server = load_settings().settings.server
    return RuntimeClient(f"http://{server.host_in_url}:{server.port}", token or server.token)


def server_beside(board: str | None, url: str | None) -> str | None:
    """Return the server to ask, ``None`` where ``--board`` says that a board is meant: a flag counts before a variable.

    Raises :class:`ConfigurationError` where flags name both.
    """
    if board is None or url is None:
        return url
    if url != os.environ.get(URL_VARIABLE):
        raise ConfigurationError("--board and --url name two places to ask.", remedy="Leave one of them out.")
    return None
