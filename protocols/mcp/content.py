"""From an MCP result to one JSON value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mcp_types import CallToolResult, ContentBlock, EmbeddedResource, TextContent

from agentsys.blackboard.entries import InvalidValue, Json, canonical_json
from agentsys.protocols.mcp.errors import UnusableAnswer

MAX_RESULT_BYTES: Final = 8 << 20
"""Bytes of one result as JSON, images and other files included in their base64."""

MAX_MESSAGE: Final = 2000
"""Characters of a server's error message that are kept."""


def value_of(result: CallToolResult) -> Json:
    """Return structured content where there is some; else one text as a string, several parts as a list.

    Parts that are no text are objects as MCP writes them. Raises :class:`UnusableAnswer` for what is too large.
    """
    value: Json = result.structured_content
    if value is None:
        parts = [_part(block) for block in result.content]
        value = parts[0] if len(parts) == 1 else parts or None
    try:
        size = len(canonical_json(value).encode())
    except InvalidValue as error:
        raise UnusableAnswer(f"The result is no JSON: {error.message}") from error
    if size > MAX_RESULT_BYTES:
        raise UnusableAnswer(f"The result has {size} bytes, above {MAX_RESULT_BYTES}.")
    return value


def message_of(result: CallToolResult) -> str:
    """Return the words of a result that is an error."""
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    return " ".join(texts)[:MAX_MESSAGE] or "no reason given"


def metadata_of(result: CallToolResult) -> Iterator[dict[str, Any] | None]:
    """Yield the ``_meta`` of a result, of its parts, and of the resources inside them."""
    yield result.meta
    for block in result.content:
        yield block.meta
        if isinstance(block, EmbeddedResource):
            yield block.resource.meta


def _part(block: ContentBlock) -> Json:
    if isinstance(block, TextContent):
        return block.text
    document: Json = block.model_dump(mode="json", by_alias=True, exclude_none=True)
    return document
