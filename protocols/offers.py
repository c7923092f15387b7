"""The workflows that clients of every face are offered: the owner's own."""

from __future__ import annotations

from typing import Final

from agentsys.runtime import Runtime
from agentsys.workflow import Workflow

CALL_WORKFLOW: Final = "mcp_call"
"""The workflow in whose runs MCP clients call tools; it is offered to nobody."""


def offered_workflows(runtime: Runtime) -> dict[str, Workflow]:
    """Return the workflows by name."""
    return {name: workflow for name, workflow in runtime.workflows.items() if name != CALL_WORKFLOW}
