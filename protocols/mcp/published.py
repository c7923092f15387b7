"""What the owner publishes for MCP clients on the board: prompts, documents, and every entry that they may read.

A prompt or a document is an entry of a topic of its own. It is offered if its label lets clients read it and only
trusted principals shaped it: a client's model obeys what a prompt says.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from urllib.parse import quote, unquote

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    PromptReference,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.policy.policy import Policy
from agentsys.protocols.mcp.results import CLIENT, client_of, flow_of
from agentsys.tenancy import board_for

PROMPTS: Final = "mcp_prompts"
"""Topic of prompts; the key is a prompt's name."""

DOCUMENTS: Final = "mcp_documents"
"""Topic of documents, each as MCP writes one: ``uri``, ``mimeType``, and ``text`` or ``blob``."""

TEMPLATE: Final = "board://{topic}/{key}"
MAX_COMPLETIONS: Final = 100

_CONTENTS: Final[TypeAdapter[TextResourceContents | BlobResourceContents]] = TypeAdapter(
    TextResourceContents | BlobResourceContents
)
_Context = ServerRequestContext[Any]


class _Argument(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    required: bool = False
    values: list[str] = []


class _Prompt(BaseModel):
    """A prompt as it lies on the board; ``{name}`` in a message stands for an argument."""

    model_config = ConfigDict(extra="forbid")

    description: str = ""
    arguments: list[_Argument] = []
    messages: list[dict[str, Any]]


class Published:
    """The request handlers for what lies on a board."""

    def __init__(self, board: Board, policy: Policy) -> None:
        self._board, self._policy = board, policy

    async def list_prompts(self, context: _Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
        found = (await self._prompts(client_of(context))).values()
        return ListPromptsResult(prompts=[_described(entry, prompt) for entry, prompt in found])

    async def get_prompt(self, context: _Context, params: GetPromptRequestParams) -> GetPromptResult:
        found = (await self._prompts(client_of(context))).get(params.name)
        if found is None:
            raise MCPError(INVALID_PARAMS, "No such prompt.")
        entry, prompt = found
        given = params.arguments or {}
        missing = [argument.name for argument in prompt.arguments if argument.required and argument.name not in given]
        if missing:
            raise MCPError(INVALID_PARAMS, f"The prompt needs the argument {missing[0]}.")
        filled = {argument.name: given.get(argument.name, "") for argument in prompt.arguments}
        messages = [PromptMessage.model_validate(_message(_fill(message, filled))) for message in prompt.messages]
        meta = flow_of(entry.label, self._policy)
        return GetPromptResult(description=prompt.description, messages=messages, _meta=meta)

    async def list_resources(self, context: _Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        documents = [
            Resource(name=entry.key, uri=contents.uri, mime_type=contents.mime_type)
            for entry, contents in (await self._documents(client_of(context))).values()
        ]
        entries = [
            Resource(name=f"{entry.topic}/{entry.key}", uri=_uri(entry), mime_type="application/json")
            for entry in await self._readable(Predicate(), client_of(context))
            if entry.topic not in (PROMPTS, DOCUMENTS)
        ]
        return ListResourcesResult(resources=[*documents, *entries])

    async def list_templates(
        self, context: _Context, params: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        entry = ResourceTemplate(
            name="entry", uri_template=TEMPLATE, description="An entry of the board.", mime_type="application/json"
        )
        return ListResourceTemplatesResult(resource_templates=[entry])

    async def read_resource(self, context: _Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        uri = str(params.uri)
        document = (await self._documents(client_of(context))).get(uri)
        if document is not None:
            return ReadResourceResult(contents=[document[1]], _meta=flow_of(document[0].label, self._policy))
        scheme, _, address = uri.partition("://")
        topic, _, key = address.partition("/")
        client, addressed = client_of(context), scheme == "board" and topic and key
        seen = self._seen(client)
        entry = await asyncio.to_thread(seen.get, unquote(topic), unquote(key)) if addressed else None
        # One answer for what is absent and what is withheld, so that it does not tell them apart.
        if entry is None or not _is_readable(entry, client):
            raise MCPError(INVALID_PARAMS, "No such resource.", data={"uri": uri})
        text = json.dumps(entry.value, ensure_ascii=False)
        contents = TextResourceContents(uri=uri, mime_type="application/json", text=text)
        return ReadResourceResult(contents=[contents], _meta=flow_of(entry.label, self._policy))

    async def complete(self, context: _Context, params: CompleteRequestParams) -> CompleteResult:
        name, begun = params.argument.name, params.argument.value
        if isinstance(params.ref, PromptReference):
            values = await self._values_of(params.ref.name, name, client_of(context))
        elif params.ref.uri == TEMPLATE:
            topic = (params.context.arguments or {}).get("topic") if params.context else None
            values = await self._names(name, topic, client_of(context))
        else:
            values = set()
        fitting = sorted(value for value in values if value.startswith(begun))
        shown = fitting[:MAX_COMPLETIONS]
        return CompleteResult(
            completion=Completion(values=shown, total=len(fitting), has_more=len(shown) < len(fitting))
        )

    async def _values_of(self, prompt: str, argument: str, client: str) -> set[str]:
        found = (await self._prompts(client)).get(prompt)
        arguments = found[1].arguments if found else []
        return {value for known in arguments if known.name == argument for value in known.values}

    async def _names(self, part: str, topic: str | None, client: str) -> set[str]:
        entries = await self._readable(Predicate(topic=topic) if topic else Predicate(), client)
        return {quote(entry.topic if part == "topic" else entry.key, safe="") for entry in entries}

    async def _prompts(self, client: str) -> dict[str, tuple[Entry, _Prompt]]:
        found: dict[str, tuple[Entry, _Prompt]] = {}
        for entry in await self._trusted(PROMPTS, client):
            try:
                prompt = _Prompt.model_validate(entry.value)
                for message in prompt.messages:
                    PromptMessage.model_validate(_message(message))
            except ValidationError:
                continue
            found[entry.key] = entry, prompt
        return found

    async def _documents(self, client: str) -> dict[str, tuple[Entry, TextResourceContents | BlobResourceContents]]:
        found: dict[str, tuple[Entry, TextResourceContents | BlobResourceContents]] = {}
        for entry in await self._trusted(DOCUMENTS, client):
            try:
                contents = _CONTENTS.validate_python(entry.value, by_name=False)
            except ValidationError:
                continue
            found.setdefault(contents.uri, (entry, contents))
        return found

    async def _trusted(self, topic: str, client: str) -> list[Entry]:
        readable = await self._readable(Predicate(topic=topic), client)
        return [entry for entry in readable if self._policy.trusts(entry.label)]

    def _seen(self, client: str) -> Board:
        return self._board if client == CLIENT else board_for(self._board, client)

    async def _readable(self, predicate: Predicate, client: str) -> list[Entry]:
        found = await asyncio.to_thread(self._seen(client).query, predicate)
        return [entry for entry in found if _is_readable(entry, client)]


def _described(entry: Entry, prompt: _Prompt) -> Prompt:
    arguments = [
        PromptArgument(name=argument.name, description=argument.description, required=argument.required)
        for argument in prompt.arguments
    ]
    return Prompt(name=entry.key, description=prompt.description, arguments=arguments)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose content, where it is written as a string, is a text block."""
    content = message.get("content")
    return message | {"content": {"type": "text", "text": content}} if isinstance(content, str) else message


def _fill(part: Any, arguments: dict[str, str]) -> Any:
    if isinstance(part, dict):
        return {key: _fill(value, arguments) for key, value in part.items()}
    if isinstance(part, list):
        return [_fill(value, arguments) for value in part]
    if isinstance(part, str):
        # In one pass, so that an argument's own braces stay as they are.
        pieces = part.split("{")
        return pieces[0] + "".join(_piece(piece, arguments) for piece in pieces[1:])
    return part


def _piece(piece: str, arguments: dict[str, str]) -> str:
    name, closed, rest = piece.partition("}")
    return arguments[name] + rest if closed and name in arguments else "{" + piece


def _is_readable(entry: Entry, client: str) -> bool:
    return not entry.deleted and entry.label.readers.permits(Readers.of(client))


def _uri(entry: Entry) -> str:
    return f"board://{quote(entry.topic, safe='')}/{quote(entry.key, safe='')}"
