"""Entries: the versioned, labelled values on the board, and the JSON they hold."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any, Final, TypeAlias

from agentsys.blackboard.labels import Label
from agentsys.blackboard.records import quickly
from agentsys.errors import BoardError

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
"""What an entry can hold. Numbers are finite, keys of objects are strings."""

Key: TypeAlias = tuple[str, str]
"""Address of an entry: (topic, key)."""

MAX_DEPTH: Final = 64
MAX_NAME_LENGTH: Final = 1024
LAST_CODE_POINT: Final = "\U0010ffff"
"""Never part of a name, so that ``prefix + LAST_CODE_POINT`` bounds every name that starts with ``prefix``."""


class InvalidValue(BoardError):
    """A value is not JSON."""

    code = "AGS-0211"
    remedy = "Pass None, bool, int, finite float, str, list or dict with str keys, nested at most 64 deep."


class InvalidName(BoardError):
    """A topic, key, type or principal cannot be stored."""

    code = "AGS-0212"
    remedy = "Use 1 to 1024 characters, without NUL, lone surrogates or U+10FFFF."


@dataclass(frozen=True, slots=True)
class EntryVersionRef:
    """Name of one version of one entry."""

    topic: str
    key: str
    version: int


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The recorded decision of ``by`` to give an entry a lower label than what it was derived from."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one entry.

    ``seq`` is the commit that wrote it, ``version`` counts from 1; both are 0 while the writing transaction is open.
    ``committed_at`` is in Unix seconds. A ``deleted`` version marks the end of the entry and holds no value.
    """

    topic: str
    key: str
    type: str
    version: int
    value: Json
    label: Label
    seq: int
    writer: str
    run: str | None
    derived_from: tuple[EntryVersionRef, ...]
    committed_at: float
    endorsement: Endorsement | None = None
    deleted: bool = False

    def holding(self, value: Json) -> "Entry":
        """Return this version with an own copy of its value."""
        # What dataclasses.replace does, in a tenth of the time: this is most of the cost of a read.
        return new_entry(
            self.topic,
            self.key,
            self.type,
            self.version,
            value,
            self.label,
            self.seq,
            self.writer,
            self.run,
            self.derived_from,
            self.committed_at,
            self.endorsement,
            self.deleted,
        )

    @property
    def ref(self) -> EntryVersionRef:
        return EntryVersionRef(self.topic, self.key, self.version)

    @property
    def address(self) -> Key:
        return self.topic, self.key


new_ref: Final = quickly(EntryVersionRef)
new_entry: Final = quickly(Entry)

_PLAIN: Final = frozenset((str, int, bool, type(None)))

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER: Final = json.JSONDecoder()


def _encoder() -> Callable[[Json], str]:
    """Return what ``_ENCODER.encode`` does, in half of its time: it makes anew for every value what this makes once."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    # Circles need no looking for: values are checked to end at a depth.
    chunks = make(None, _ENCODER.default, encode_basestring, None, ":", ",", True, False, False)
    return lambda value: "".join(chunks(value, 0))


_encode: Final = _encoder()


def canonical_json(value: Json) -> str:
    """Return the one JSON text of ``value`` (sorted keys, no spaces); raises :class:`InvalidValue` naming the fault."""
    if not _is_json(value, MAX_DEPTH):
        _check(value, "value", MAX_DEPTH)
    try:
        text = _encode(value)
        text.encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise InvalidValue(f"The value cannot be written as JSON: {error}.") from error
    return text


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can be stored as a ``what``; raises :class:`InvalidName`."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise InvalidName(f"{what} must be a string of 1 to {MAX_NAME_LENGTH} characters, got {name!r:.80}.")
    if not name.isascii() and (LAST_CODE_POINT in name or any("\ud800" <= char <= "\udfff" for char in name)):
        raise InvalidName(f"{what} holds a character that cannot be stored: {name!r:.80}.")
    if "\0" in name:
        raise InvalidName(f"{what} holds a NUL character: {name!r:.80}.")
    return name


def _is_json(value: object, depth: int) -> bool:
    """Whether ``value`` is surely JSON; of an odd one :func:`_check` says more, and costs more."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if depth == 0:
        return False
    if kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not (type(item) in _PLAIN or _is_json(item, depth - 1)):
                return False
        return True
    if kind is list:
        return all(type(item) in _PLAIN or _is_json(item, depth - 1) for item in value)  # type: ignore[attr-defined]
    return kind is float and math.isfinite(value)  # type: ignore[arg-type]


def parse_canonical(text: str) -> Json:
    """Return the value of a canonical JSON text."""
    # What `json.loads` does besides is to look for blanks around the text.
    value: Json = _DECODER.raw_decode(text)[0]
    return value


def _check(value: object, path: str, depth: int) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValue(f"{path} is {value!r}, which JSON cannot hold.")
        return
    if depth == 0:
        raise InvalidValue(f"{path[:200]} is nested more than {MAX_DEPTH} deep.")
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidValue(f"{path} has the key {key!r:.80} of type {type(key).__name__}; keys are strings.")
            _check(item, f"{path}.{key}", depth - 1)
    else:
        raise InvalidValue(f"{path} is a {type(value).__name__}, which JSON cannot hold.")
