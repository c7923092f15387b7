"""The server whose runs and board the console shows: ``agentsys console`` names it in the environment."""

import os
from functools import lru_cache
from typing import Final

from agentsys.protocols.http.client import RuntimeClient

URL: Final = "AGENTSYS_URL"
TOKEN: Final = "AGENTSYS_TOKEN"  # noqa: S105 - the variable's name
LOCAL: Final = "http://127.0.0.1:8700"
"""Where ``agentsys serve`` listens by default."""


def connect() -> RuntimeClient:
    """Return a client of the server that the environment names, shared by all pages and browsers."""
    return _client(os.environ.get(URL, LOCAL), os.environ.get(TOKEN))


@lru_cache(maxsize=4)
def _client(url: str, token: str | None) -> RuntimeClient:
    return RuntimeClient(url, token)
