"""Values and numbers of things as one line of text, and values that were typed as one."""

import json
from typing import Final

from agentsys.blackboard.entries import InvalidValue, Json, canonical_json

MAX_CHARACTERS: Final = 200


def shorten(text: str, limit: int = MAX_CHARACTERS) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def value_text(value: Json) -> str:
    """Return strings as they are and everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def value_of(text: str) -> Json:
    """Return what a person typed: the JSON that it is, where an entry can hold that, and otherwise the text."""
    try:
        value: Json = json.loads(text)
        canonical_json(value)
    except (ValueError, RecursionError, InvalidValue):
        return text
    return value


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
