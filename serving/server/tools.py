"""Tool calls for models that know no tool format: a prompt that lists the tools, a grammar, a parser.

A call is one JSON object ``{"name": …, "arguments": …}``; the grammar lets through nothing but a call of a listed tool
with arguments of its schema, or, where the model may choose, text that does not begin like one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from agentsys.serving.requests import Chunk, Constraint, Message
from agentsys.serving.server.answers import Answer
from agentsys.serving.server.errors import InvalidRequestError
from agentsys.serving.server.formats import ChatFormat, Json
from agentsys.serving.server.logprobs import chat_logprobs
from agentsys.serving.server.outbox import joined
from agentsys.serving.server.schemas import ChatCompletionBody, ChatMessage, FunctionDefinition, NamedToolChoice

_EMPTY: Json = {"type": "object", "properties": {}, "additionalProperties": False}
# White space that a small model may choose freely it may write for ever.
_COMPACT = {"x-guidance": {"whitespace_flexible": False}}
_TEXT = r"/[^{\s][\s\S]*/"


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools that an answer may call, and whether it must call one."""

    functions: tuple[FunctionDefinition, ...]
    required: bool

    @staticmethod
    def of(body: ChatCompletionBody) -> Toolbox | None:
        """Return the tools that ``tools`` and ``tool_choice`` leave, or None; raises ``InvalidRequestError``."""
        choice, functions = body.tool_choice, tuple(tool.function for tool in body.tools or ())
        if isinstance(choice, NamedToolChoice):
            functions = tuple(function for function in functions if function.name == choice.function.name)
            if not functions:
                raise InvalidRequestError(f"tools hold no {choice.function.name!r}.", param="tool_choice")
            return Toolbox(functions[:1], required=True)
        if choice == "required" and not functions:
            raise InvalidRequestError("a call is required, and tools are empty.", param="tool_choice")
        return Toolbox(functions, choice == "required") if functions and choice != "none" else None

    def instruction(self) -> str:
        """Return what the system message says of the tools."""
        listed = "\n".join(
            json.dumps({"name": tool.name, "description": tool.description or "", "parameters": _parameters(tool)})
            for tool in self.functions
        )
        when = "Answer with one call" if self.required else "To call one, answer with nothing but"
        return f'You can call these tools:\n{listed}\n{when}: {{"name": "TOOL", "arguments": {{…}}}}'

    def constraint(self, kinds: frozenset[str]) -> Constraint | None:
        """Return the grammar, as strict as an engine that takes ``kinds`` can hold."""
        if "lark" in kinds:
            return Constraint("lark", self._lark())
        if not self.required:
            return None  # a JSON schema cannot say "or any text"
        calls = [_call_schema(tool) for tool in self.functions]
        return Constraint("json_schema", json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}))

    def parse(self, text: str) -> Json | None:
        """Return OpenAI's form of the call that ``text`` is, or None if it is text."""
        try:
            call = json.loads(text)
            name, arguments = call["name"], call["arguments"]
        except (ValueError, LookupError, TypeError):
            return None
        if not isinstance(arguments, dict) or name not in {tool.name for tool in self.functions}:
            return None
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}

    def _lark(self) -> str:
        # Each schema stands for itself, so that its references to its own definitions hold.
        numbers = range(len(self.functions))
        start = " | ".join([f"call_{number}" for number in numbers] + ([] if self.required else ["TEXT"]))
        lines = [f"start: {start}"]
        for number, tool in enumerate(self.functions):
            head = json.dumps(f'{{"name":{json.dumps(tool.name)},"arguments":')
            lines.append(f'call_{number}: {head} arguments_{number} "}}"')
            lines.append(f"arguments_{number}: %json {json.dumps(_parameters(tool) | _COMPACT)}")
        return "\n".join(lines if self.required else [*lines, f"TEXT: {_TEXT}"])


def conversation(messages: Sequence[ChatMessage], toolbox: Toolbox | None) -> list[Message]:
    """Return the messages as any chat template takes them: calls as their JSON, results as said by the user."""
    names = {call.id: call.function.name for message in messages for call in message.tool_calls or ()}
    plain = [_plain(message, names) for message in messages]
    if toolbox is None:
        return plain
    if plain[0].role == "system":
        return [Message("system", f"{plain[0].content}\n\n{toolbox.instruction()}"), *plain[1:]]
    return [Message("system", toolbox.instruction()), *plain]


@dataclass(frozen=True, slots=True)
class ToolChatFormat(ChatFormat):
    """Chat completions that may be calls. What begins like a call is shown only when it is whole."""

    toolbox: Toolbox = field(kw_only=True)
    held: dict[int, list[Chunk]] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)

    def piece(self, index: int, chunk: Chunk) -> list[Json]:
        if index in self.shown:
            return ChatFormat.piece(self, index, chunk)
        held = self.held.setdefault(index, [])
        begun = any(piece.text for piece in held)
        held.append(chunk if begun else replace(chunk, text=chunk.text.lstrip()))
        # What begins otherwise was shown at once, so what is held and has begun is perhaps a call.
        return [] if begun or held[-1].text[:1] in ("", "{") else self._show(index)

    def ending(self, index: int, answer: Answer) -> list[Json]:
        call = self.toolbox.parse("".join(answer.text))
        if call is not None:
            delta = {"tool_calls": [{"index": 0, **call}]}
            logprobs = chat_logprobs(answer.logprobs)
            return [self.part(index, delta, logprobs=logprobs), self.part(index, {}, "tool_calls")]
        unsent = self._show(index) if self.held.get(index) else []
        return unsent + ChatFormat.ending(self, index, answer)

    def _show(self, index: int) -> list[Json]:
        self.shown.add(index)
        return ChatFormat.piece(self, index, joined(self.held.pop(index)))

    def choice(self, index: int, answer: Answer) -> Json:
        call = self.toolbox.parse("".join(answer.text))
        whole = ChatFormat.choice(self, index, answer)
        if call is None:
            return whole
        message = whole["message"] | {"content": None, "tool_calls": [call]}
        return whole | {"message": message, "finish_reason": "tool_calls"}


def _plain(message: ChatMessage, names: dict[str, str]) -> Message:
    if message.role == "tool":
        return Message("user", f"Result of {names.get(message.tool_call_id or '', 'the tool')}: {message.text}")
    calls = [
        f'{{"name":{json.dumps(c.function.name)},"arguments":{c.function.arguments}}}' for c in message.tool_calls or ()
    ]
    role = "system" if message.role == "developer" else message.role
    return Message(role, "\n".join([message.text, *calls] if message.text else calls) if calls else message.text)


def _parameters(tool: FunctionDefinition) -> dict[str, Any]:
    # What a schema does not name, a function does not take; a small model would go on inventing it.
    return {"additionalProperties": False} | tool.parameters if tool.parameters else _EMPTY


def _call_schema(tool: FunctionDefinition) -> Json:
    properties = {"name": {"const": tool.name}, "arguments": _parameters(tool)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
