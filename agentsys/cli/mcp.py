"""``agentsys mcp``: the foreign MCP servers of the settings, their tools, and what was accepted of them."""

from __future__ import annotations

import asyncio
import difflib
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import settings_with
from agentsys.cli.output import JsonOption, err, print_json, print_table, reported_errors
from agentsys.errors import AgentsysError, ConfigurationError

if TYPE_CHECKING:
    from agentsys.blackboard.board import Board
    from agentsys.protocols.mcp.pins import Offer, Pins
    from agentsys.settings import Settings

app = typer.Typer(help="Look at foreign MCP servers, and accept their tools.", no_args_is_help=True)


@app.command("list")
def show(board: BoardOption = None, as_json: JsonOption = False) -> None:
    """Ask the servers for their tools, and say whether each is as accepted, changed, new, gone, or unusable."""
    with reported_errors(as_json=as_json):
        rows = asyncio.run(_list(settings_with(board_path=board)))
    if as_json:
        print_json(rows)
    else:
        print_table(["server", "tool", "state", "description"], [list(row.values()) for row in rows])


@app.command("accept")
def accept(
    name: Annotated[str, typer.Argument(help="The server's name in the settings.")],
    tool: Annotated[str | None, typer.Argument(help="One of its tools; default: all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept without asking.")] = False,
    board: BoardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a server's tools differ from what was accepted, and accept them as they are now."""
    with reported_errors(as_json=as_json):
        changes = asyncio.run(_accept(name, tool, settings_with(board_path=board), sure=yes))
    if as_json:
        print_json(changes)
    else:
        err.print("accepted" if changes else "nothing to accept", highlight=False)


async def _list(settings: Settings) -> list[dict[str, Any]]:
    from agentsys.protocols.mcp.remote import RemoteServer

    rows: list[dict[str, Any]] = []
    with _opened(settings, writing=False) as board:
        for name, wanted in sorted(settings.mcp.servers.items()):
            server = RemoteServer(name, wanted, board)
            try:
                rows += _states(name, server.pins(), await server.offer())
            except AgentsysError as error:
                rows.append({"server": name, "tool": "", "state": "unavailable", "description": str(error)})
            finally:
                await server.close()
    return rows


def _states(name: str, pins: Pins | None, offer: Offer) -> list[dict[str, Any]]:
    changes = dict.fromkeys(offer.tools, "not used yet") if pins is None else dict(pins.changes(offer))
    tools = {**(pins.tools if pins else {}), **offer.tools}
    rows = [
        {
            "server": name,
            "tool": tool,
            "state": changes.get(tool, "accepted"),
            "description": definition.get("description", "").partition("\n")[0][:100],
        }
        for tool, definition in sorted(tools.items())
    ]
    faults = sorted(offer.faults.items())
    return rows + [{"server": name, "tool": tool, "state": "unusable", "description": why} for tool, why in faults]


async def _accept(name: str, tool: str | None, settings: Settings, *, sure: bool) -> dict[str, str]:
    from agentsys.protocols.mcp.pins import Pins
    from agentsys.protocols.mcp.remote import RemoteServer

    if name not in settings.mcp.servers:
        known = ", ".join(sorted(settings.mcp.servers)) or "none"
        raise ConfigurationError(f"No MCP server is named {name!r}; there are {known}.")
    with _opened(settings, writing=True) as board:
        server = RemoteServer(name, settings.mcp.servers[name], board)
        try:
            # What is shown is what is accepted: a second listing could differ.
            offer = await server.offer()
            pins = server.pins() or Pins(offer.server, {})
            if tool is not None:
                _check_one(name, tool, pins, offer)
            changes = {key: change for key, change in pins.changes(offer).items() if tool in (None, key)}
            _show_differences(changes, pins, offer)
            if changes and not sure:
                typer.confirm("Accept this?", abort=True, err=True)
            if changes:
                await server.accept(offer, tool)
        finally:
            await server.close()
    return dict(changes)


def _check_one(name: str, tool: str, pins: Pins, offer: Offer) -> None:
    """Raise :class:`ConfigurationError` for a tool that cannot be accepted by itself."""
    if tool in offer.faults:
        raise ConfigurationError(f"The tool {tool} of {name} cannot be accepted: {offer.faults[tool]}.")
    known = {*pins.tools, *offer.tools}
    if tool not in known:
        raise ConfigurationError(f"{name} has no tool {tool!r}; there are {', '.join(sorted(known)) or 'none'}.")
    if pins.server != offer.server:
        raise ConfigurationError(
            f"{name} calls itself {offer.server!r}, before {pins.server!r}, which concerns all its tools.",
            remedy=f"`agentsys mcp accept {name}` shows the differences and accepts them.",
        )


def _show_differences(changes: dict[str, Any], pins: Pins, offer: Offer) -> None:
    if pins.server != offer.server:
        err.print(f"the server calls itself {offer.server!r}, before {pins.server!r}", markup=False, highlight=False)
    for tool, change in sorted(changes.items()):
        before, after = _lines(pins.tools.get(tool)), _lines(offer.tools.get(tool))
        err.print(f"{tool}: {change}", markup=False, highlight=False)
        for line in difflib.unified_diff(before, after, "accepted", "offered", lineterm=""):
            err.print(line, markup=False, highlight=False)


def _lines(definition: dict[str, Any] | None) -> list[str]:
    # Escaped, so that no control character reaches the terminal.
    return [] if definition is None else json.dumps(definition, indent=2, sort_keys=True).splitlines()


def _opened(settings: Settings, *, writing: bool) -> Board:
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.storage import BoardMissing

    if writing:
        return Board.open(settings.board.location, durability=settings.board.durability)
    try:
        return Board.open_read_only(settings.board.location)
    except BoardMissing:
        return Board.open(":memory:")
