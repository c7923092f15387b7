"""Serialised values as JSON: base64, compressed where that makes them smaller."""

from __future__ import annotations

import binascii
import zlib
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol

from agentsys.blackboard.entries import Json

WORTH_COMPRESSING: Final = 1_024
"""Bytes; below, the attempt costs more than it spares."""
FAST: Final = 1


def packed(data: bytes) -> str:
    """Return ``data`` as text: ``z`` before compressed, ``r`` before raw bytes, both in base64."""
    if len(data) >= WORTH_COMPRESSING:
        smaller = zlib.compress(data, FAST)
        if len(smaller) < len(data):
            return "z" + _base64(smaller)
    return "r" + _base64(data)


def unpacked(text: str) -> bytes:
    """Return the bytes that :func:`packed` wrote."""
    data = binascii.a2b_base64(text[1:])
    return zlib.decompress(data) if text[0] == "z" else data


def encoded(serde: SerializerProtocol, value: Any) -> list[Json]:
    """Return ``value`` as a kind and its packed bytes."""
    kind, data = serde.dumps_typed(value)
    return [kind, packed(data)]


def decoded(serde: SerializerProtocol, found: Any) -> Any:
    """Return the value that :func:`encoded` wrote."""
    return serde.loads_typed((found[0], unpacked(found[1])))


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
