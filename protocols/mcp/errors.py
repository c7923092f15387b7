"""What the MCP faces report of their own."""

from __future__ import annotations

from typing import ClassVar

from agentsys.protocols.edge import FaceError
from agentsys.tools import ToolError


class WithheldOutcome(FaceError):
    """A client's run ended with a value whose readers do not include the client."""

    code = "AGS-0740"
    remedy = "The owner finds it on the board, under the run; a label that MCP clients may read lets it out."


class ForeignServerError(ToolError):
    """A foreign MCP server could not be used."""

    code = "AGS-0741"


class ServerUnavailable(ForeignServerError):
    """A foreign MCP server could not be started or reached, or does not speak MCP. Nothing was sent to a tool."""

    code = "AGS-0742"
    remedy = "Check its entry under [mcp.servers] and that it runs; `agentsys mcp list` tries again."


class ConnectionLost(ForeignServerError):
    """A foreign MCP server went away during a call, so nobody knows whether the call took effect."""

    code = "AGS-0743"
    remedy = "Find out what happened; `effect` in its settings says which calls may be repeated."
    unknown: ClassVar[bool] = True


class UnusableAnswer(ForeignServerError):
    """A foreign MCP server answered a call with what cannot be used: malformed, too large, or a question."""

    code = "AGS-0744"
    remedy = "Ask for less, or have the server corrected; the call may have taken effect."
    unknown: ClassVar[bool] = True


class ForeignToolFailed(ForeignServerError):
    """A tool of a foreign MCP server reported an error, or the server refused the call."""

    code = "AGS-0745"
    remedy = "The server's own message says why."


class DefinitionRefused(ForeignServerError):
    """A foreign MCP server offers a tool otherwise than when it was accepted: changed, new, or no more."""

    code = "AGS-0746"
    remedy = "`agentsys mcp accept` shows the difference and accepts it."
