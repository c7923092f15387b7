"""Tools as the policy has them: what it says of a tool stands above the tool's own declaration."""

from __future__ import annotations

from dataclasses import replace

from agentsys.blackboard.labels import Label, Readers, join_all
from agentsys.policy.rules import ToolRule, readers_of
from agentsys.tools import Tool


def ruled(tool: Tool, rule: ToolRule, owner: str, arguments: object = None) -> Tool:
    """Return a tool with what ``rule`` says of it, and of calls with ``arguments``, in the place of its declaration."""
    if rule.consequential is not None:
        tool = replace(tool, consequential=rule.consequential)
    influencers = rule.source_of(arguments)
    if influencers is None and rule.readers is None and not rule.fields:
        return tool
    parts = [_source(tool, rule, influencers, owner), *field_labels(tool, rule, owner).values()]
    return replace(tool, source=join_all(parts))


def field_labels(tool: Tool, rule: ToolRule, owner: str) -> dict[str, Label]:
    """Return the labels of the parts of a tool's result that others shape than the whole, by pattern."""
    return {pattern: _source(tool, rule, influencers, owner) for pattern, influencers in rule.fields.items()}


def own_source(tool: Tool, rule: ToolRule, owner: str, arguments: object) -> Label:
    """Return the label of the result of a call outside its fields; ``tool`` is as declared."""
    return _source(tool, rule, rule.source_of(arguments), owner)


def _source(tool: Tool, rule: ToolRule, influencers: tuple[str, ...] | None, owner: str) -> Label:
    declared = tool.source
    if influencers is None:
        influencers = tuple(declared.influencers) if declared is not None else ()
    if rule.readers is not None:
        readers = readers_of(rule.readers)
    else:
        readers = declared.readers if declared is not None else Readers.of(owner)
    return Label(frozenset(influencers), readers)
