"""What a planning model is told: the runtime's prompts, read as the scripted planner needs them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentsys.benchmarks.ifc.dojo import strings
from agentsys.planning.planner import INSTRUCTIONS
from agentsys.serving.requests import GenerateRequest, Message


@dataclass(frozen=True, slots=True)
class Told:
    """One prompt: all its text, and the outcome of the step before.

    ``name`` is that of the step's result, where it has one; ``hidden``: the planner does not see all of it, but what
    ``shown`` holds as text.
    ``refused``: the step was not taken, or came to nothing.
    """

    text: str
    name: str = ""
    hidden: bool = False
    shown: str = ""
    refused: bool = False


def is_planning(request: GenerateRequest) -> bool:
    """Whether a request is a turn of the planner; all others are quarantined."""
    first = request.prompt[0] if request.prompt else ""
    return isinstance(first, Message) and first.content.startswith(INSTRUCTIONS)


def told(request: GenerateRequest) -> Told:
    """Read the prompt of a planning turn."""
    messages = [message for message in request.prompt if isinstance(message, Message)]
    text = "\n".join(message.content for message in messages)
    if len(messages) == 2:
        return Told(text)
    outcome: dict[str, Any] = json.loads(messages[-1].content)
    name = outcome.get("name", "")
    seen = _without(outcome.get("result"), name)
    return Told(text, name, seen != outcome.get("result"), "\n".join(strings(seen)), "error" in outcome)


def _without(value: Any, name: str) -> Any:
    """Return a result without the references to its hidden parts."""
    if isinstance(value, dict):
        return None if value.get("from") == name else {key: _without(item, name) for key, item in value.items()}
    return [_without(item, name) for item in value] if isinstance(value, list) else value
