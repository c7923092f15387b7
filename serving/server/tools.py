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
from agentsys.serving.server.call_reader import CallReader
from agentsys.serving.server.errors import InvalidRequestError
from agentsys.serving.server.formats import ChatFormat, Json, finish_word
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

    @property
    def names(self) -> frozenset[str]:
        """The names of the tools."""
        return frozenset(tool.name for tool in self.functions)

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
        # A JSON schema cannot say "or any text".
        return Constraint("json_schema", self._schema()) if self.required else None

    def holds(self, constraint: Constraint | None) -> bool:
        """Whether under ``constraint`` nothing but a call begins like one."""
        return constraint in (Constraint("lark", self._lark()), Constraint("json_schema", self._schema()))

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
            known = name in self.names
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        if not isinstance(arguments, dict) or not known:
            return None
        # Half a surrogate pair stays the escape that it was.
        written = json.dumps(arguments, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        function = {"name": name, "arguments": written}
        return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}

    def _schema(self) -> str:
        calls = [_call_schema(tool) for tool in self.functions]
        return json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})

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
    """Chat completions that may be calls.

    Where a grammar ``holds`` what begins like a call to be one, it is sent as it comes, its arguments in pieces; else
    when it is whole, for until then it may be text.
    """

    toolbox: Toolbox = field(kw_only=True)
    holds: bool = field(kw_only=True)
    unsure: dict[int, list[Chunk]] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)
    readers: dict[int, CallReader] = field(default_factory=dict)

    def piece(self, index: int, chunk: Chunk) -> list[Json]:
        if index in self.shown:
            return ChatFormat.piece(self, index, chunk)
        if index not in self.readers:
            self.unsure.setdefault(index, []).append(chunk)
            chunk = joined(self.unsure[index])
            chunk = replace(chunk, text=chunk.text.lstrip())
            if not chunk.text:
                return []
            if not chunk.text.startswith("{"):
                self.shown.add(index)
                return ChatFormat.piece(self, index, chunk)
            self.readers[index] = CallReader(self.toolbox.names)
        return self._parts(index, self.readers[index].feed(chunk.text)) if self.holds else []

    def ending(self, index: int, answer: Answer) -> list[Json]:
        if index in self.shown:
            return ChatFormat.ending(self, index, answer)
        reader = self.readers.get(index, CallReader(self.toolbox.names))
        calls, reason = self._calls(reader, answer)
        if not calls:
            whole = Chunk("".join(answer.text).lstrip(), logprobs=tuple(answer.logprobs))
            said = ChatFormat.piece(self, index, whole) if whole.text or whole.logprobs else []
            return said + ChatFormat.ending(self, index, answer)
        unsent = [] if reader.calls else [{"index": number, **call} for number, call in enumerate(calls)]
        last = self.part(index, {}, reason, chat_logprobs(answer.logprobs))
        return [*self._parts(index, unsent), last]

    def choice(self, index: int, answer: Answer) -> Json:
        reader = CallReader(self.toolbox.names)
        if self.holds:
            reader.feed("".join(answer.text))
        calls, reason = self._calls(reader, answer)
        whole = ChatFormat.choice(self, index, answer)
        if not calls:
            return whole
        return whole | {"message": whole["message"] | {"content": None, "tool_calls": calls}, "finish_reason": reason}

    def _parts(self, index: int, deltas: Sequence[Json]) -> list[Json]:
        return [self.part(index, {"tool_calls": [delta]}) for delta in deltas]

    def _calls(self, reader: CallReader, answer: Answer) -> tuple[list[Json], str]:
        """Return the calls of an answer, and the word for why it ended."""
        text, word = "".join(answer.text), finish_word(answer.finish_reason)
        if reader.calls:
            return reader.calls, "tool_calls" if reader.whole else word
        calls = self.toolbox.calls(text)
        whole = len(calls) == len(text.strip().split("\n")) or self.toolbox.parse(text) is not None
        return calls, "tool_calls" if whole else word


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
