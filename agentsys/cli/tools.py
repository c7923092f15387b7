"""``agentsys tools``: the built-in tools that the settings turn on, and what each may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from agentsys.cli.composition import open_lake
from agentsys.cli.output import JsonOption, err, print_json, print_table, reported_errors

if TYPE_CHECKING:
    from agentsys.blackboard.labels import Readers
    from agentsys.tools import Tool

app = typer.Typer(help="See the built-in tools.", no_args_is_help=True)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the built-in tools that agents may call: what each takes, changes, tells and brings in."""
    from agentsys.settings import load_settings
    from agentsys.toolbox.builtin import builtin_tools

    with reported_errors(as_json=as_json):
        settings = load_settings().settings
        found = [_document(tool) for tool in builtin_tools(settings, lambda lake: open_lake(lake, settings))]
    if as_json:
        print_json(found)
        return
    columns = ["tool", "effect", "consequential", "audience", "what"]
    shown = [[one["tool"], one["effect"], one["consequential"], one["audience"], one["summary"]] for one in found]
    print_table(columns, shown)
    if not found:
        err.print('none is turned on; set builtin = ["run_python"] under \\[tools] in agentsys.toml', highlight=False)


def _document(tool: Tool) -> dict[str, Any]:
    return {
        "tool": tool.name,
        "effect": str(tool.effect_class),
        "consequential": tool.consequential,
        "audience": _names(tool.audience),
        "source": None if tool.source is None else tool.source.to_json(),
        "summary": tool.description.splitlines()[0],
        "description": tool.description,
        "arguments": tool.parameters.model_json_schema(),
    }


def _names(readers: Readers) -> str:
    return "everyone" if readers.members is None else ", ".join(sorted(readers.members)) or "nobody"
