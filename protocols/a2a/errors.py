"""The base of what goes wrong between us and an A2A peer."""

from __future__ import annotations

from agentsys.errors import AgentsysError


class A2AError(AgentsysError):
    """A foreign agent could not be used."""

    code = "AGS-0760"
