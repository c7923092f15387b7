"""What the MCP face reports of its own."""

from __future__ import annotations

from agentsys.protocols.edge import FaceError


class WithheldOutcome(FaceError):
    """A client's run ended with a value whose readers do not include the client."""

    code = "AGS-0740"
    remedy = "The owner finds it on the board, under the run; a label that MCP clients may read lets it out."
