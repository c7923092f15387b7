"""Where a benchmark of the board keeps it: a file of its own, or a board of its own on a PostgreSQL server."""

from __future__ import annotations

import secrets
from pathlib import Path


def board_location(folder: Path | None, server: str | None) -> str:
    """Return the location of a board that does not exist yet, in ``folder`` or on the ``server`` at a URL."""
    if server is None:
        assert folder is not None
        return str(folder / "board.db")
    return f"{server}{'&' if '?' in server else '?'}board=bench{secrets.token_hex(4)}"
