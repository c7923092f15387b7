"""Tool calls for models that know no tool format: a prompt that lists the tools, a grammar, a parser.

A call is one JSON object ``{"name": …, "arguments": …}``; several stand on a line each. The grammar lets through only
calls of listed tools with arguments of their schemas, or, where the model may choose, text that does not begin so.
"""

from __future__ import annotations

import itertools
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
_MOST_CALLS = 8
_TEXT = r"/[^{\s][\s\S]*/"


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools that an answer may call, whether it must call one, and whether it may make several calls."""

    functions: tuple[FunctionDefinition, ...]
    required: bool
    several: bool = False

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
        if not functions or choice == "none":
            return None
        # OpenAI's default is several; a small model that may make another call often does, so here it has to be asked.
        return Toolbox(functions, choice == "required", several=body.parallel_tool_calls is True)

    def instruction(self) -> str:
        """Return what the system message says of the tools."""
        listed = "\n".join(
            json.dumps({"name": tool.name, "description": tool.description or "", "parameters": _parameters(tool)})
            for tool in self.functions
        )
        when = "Answer with one call" if self.required else "To call one, answer with nothing but"
        more = "\nSeveral calls stand on a line each." if self.several else ""
        return f'You can call these tools:\n{listed}\n{when}: {{"name": "TOOL", "arguments": {{…}}}}{more}'

    def constraint(self, kinds: frozenset[str]) -> Constraint | None:
        """Return the grammar, as strict as an engine that takes ``kinds`` can hold."""
        if "lark" in kinds:
            return Constraint("lark", self._lark())
        if not self.required:
            return None  # a JSON schema cannot say "or any text"
        calls = [_call_schema(tool) for tool in self.functions]
        return Constraint("json_schema", json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}))

    def calls(self, text: str) -> list[Json]:
        """Return the calls that ``text`` begins with, none if it is text; a last one that was cut off is left out."""
        whole = self.parse(text)
        if whole is not None or not self.several:
            return [] if whole is None else [whole]
        parsed = (self.parse(line) for line in text.strip().split("\n"))
        return [call for call in itertools.takewhile(lambda call: call is not None, parsed) if call is not None]

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
        lines = ["start: calls" if self.required else "start: calls | TEXT"]
        lines.append(f'calls: call ("\\n" call){{0,{_MOST_CALLS - 1}}}' if self.several else "calls: call")
        lines.append("call: " + " | ".join(f"call_{number}" for number in numbers))
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
    """Chat completions that may be calls. What begins like a call is shown only when it is whole.

    ``sent`` counts the calls of each answer that were.
    """

    toolbox: Toolbox = field(kw_only=True)
    held: dict[int, list[Chunk]] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)
    sent: dict[int, int] = field(default_factory=dict)

    def piece(self, index: int, chunk: Chunk) -> list[Json]:
        if index in self.shown:
            return ChatFormat.piece(self, index, chunk)
        held = self.held.setdefault(index, [])
        begun = any(piece.text for piece in held)
        held.append(chunk if begun else replace(chunk, text=chunk.text.lstrip()))
        # What begins otherwise was shown at once, so what is held and has begun is perhaps a call.
        if begun or held[-1].text[:1] in ("", "{"):
            return self._send(index, joined(held).text.rpartition("\n")[0]) if "\n" in chunk.text else []
        return self._show(index)

    def ending(self, index: int, answer: Answer) -> list[Json]:
        text = "".join(answer.text)
        if calls := self.toolbox.calls(text):
            last = self.part(index, {}, self._reason(text, calls), chat_logprobs(answer.logprobs))
            return [*self._send(index, text), last]
        unsent = self._show(index) if self.held.get(index) else []
        return unsent + ChatFormat.ending(self, index, answer)

    def choice(self, index: int, answer: Answer) -> Json:
        text = "".join(answer.text)
        calls = self.toolbox.calls(text)
        whole = ChatFormat.choice(self, index, answer)
        if not calls:
            return whole
        message = whole["message"] | {"content": None, "tool_calls": calls}
        return whole | {"message": message, "finish_reason": self._reason(text, calls)}

    def _send(self, index: int, text: str) -> list[Json]:
        """Return the calls of ``text`` that were not sent yet."""
        calls, sent = self.toolbox.calls(text), self.sent.get(index, 0)
        self.sent[index] = max(sent, len(calls))
        return [
            self.part(index, {"tool_calls": [{"index": number, **calls[number]}]}) for number in range(sent, len(calls))
        ]

    def _show(self, index: int) -> list[Json]:
        self.shown.add(index)
        return ChatFormat.piece(self, index, joined(self.held.pop(index)))

    def _reason(self, text: str, calls: list[Json]) -> str:
        whole = len(calls) == len(text.strip().split("\n")) or self.toolbox.parse(text) is not None
        return "tool_calls" if whole else "length"


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
