"""How the help of a command ends: with calls of it."""

from __future__ import annotations


def examples(*calls: str) -> str:
    """Return the end of a command's help."""
    return "\n\n".join(["Examples:", *(f"`{call}`" for call in calls)])
