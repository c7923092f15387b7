"""Tool calls out of a text that grows: what each piece of it adds to them, in OpenAI's deltas.

Source: OpenAI's API reference, ``choices[].delta.tool_calls`` of ``chat.completion.chunk``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from uuid import uuid4

from agentsys.serving.server.formats import Json

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
_CLOSE = re.compile(r"\s*\}")


class CallReader:
    """Reads calls ``{"name": …, "arguments": {…}}``, one behind another, of which a grammar says that they are some.

    ``calls`` are those that have begun, in OpenAI's form: the arguments are the text itself, of the last call as far
    as it has come.
    """

    def __init__(self, names: Collection[str]) -> None:
        """``names`` are the tools that may be called."""
        self.calls: list[Json] = []
        self._names = names
        self._unread = ""
        self._arguments: _ObjectText | None = None
        self._closed = True

    @property
    def whole(self) -> bool:
        """Whether there are calls and nothing beside them."""
        return bool(self.calls) and self._closed and not self._unread.strip()

    def feed(self, text: str) -> list[Json]:
        """Return what ``text`` adds: a call's index, id and name, then pieces of its arguments, by its index."""
        self._unread += text
        deltas = []
        while (delta := self._go_on() if self._arguments else self._begin()) is not None:
            deltas.append(delta)
        return deltas

    def _begin(self) -> Json | None:
        if not self._closed:
            close = _CLOSE.match(self._unread)
            if close is None:
                return None
            self._closed, self._unread = True, self._unread[close.end() :]
        head = _HEAD.match(self._unread)
        name = json.loads(head[1]) if head else None
        if head is None or name not in self._names:
            return None
        self._closed, self._unread, self._arguments = False, self._unread[head.end() :], _ObjectText()
        call = {"id": f"call_{uuid4().hex}", "type": "function"}
        self.calls.append({**call, "function": {"name": name, "arguments": ""}})
        return {"index": len(self.calls) - 1, **call, "function": {"name": name, "arguments": ""}}

    def _go_on(self) -> Json | None:
        assert self._arguments is not None
        length = self._arguments.length_in(self._unread)
        piece, self._unread = self._unread[:length], self._unread[length:]
        if self._arguments.ended:
            self._arguments = None
        if not piece:
            return None
        self.calls[-1]["function"]["arguments"] += piece
        return {"index": len(self.calls) - 1, "function": {"arguments": piece}}


class _ObjectText:
    """Finds the end of a JSON object in its text."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def length_in(self, text: str) -> int:
        """Return how much of ``text``, which follows what was given before, belongs to the object."""
        for place, character in enumerate(text, start=1):
            if self._in_string:
                self._in_string = character != '"' or self._escaped
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._in_string = True
            elif character in "{}":
                self._depth += 1 if character == "{" else -1
                if not self._depth:
                    self.ended = True
                    return place
        return len(text)
