"""Secrets: values that tools use and nobody else sees. Everywhere but in the call itself, a name stands for the value.

A tool declares a parameter as pydantic's ``SecretStr``; its argument is then ``{"secret": NAME}``, which is what the
board, models, approvals and logs hold, and the function gets the value. The operator says whom a secret may be told.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin
from weakref import WeakSet

from pydantic import BaseModel, ConfigDict, SecretStr, WithJsonSchema

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import NOBODY, Readers
from agentsys.errors import ConfigurationError, LabelError
from agentsys.redaction import LEAST_CHARACTERS, Redactor, Stream
from agentsys.settings import Settings

UNDO: Final = "undo_"
"""Begins the names of tools that take calls of others back."""


class SecretUnavailable(LabelError):
    """A secret has no value where it is said to come from, or one too short to be told from other text."""

    code = "AGS-0340"
    remedy = "Run `agentsys secrets check`; set the variable or write the file that the settings name."


class UnknownSecret(LabelError):
    """No secret has this name."""

    code = "AGS-0341"
    remedy = "Declare it in the settings, under [secrets.NAME]; `agentsys secrets list` lists those there are."


class SecretReference(BaseModel):
    """What stands for a secret among arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secret: str


_SHOWN: Final = WithJsonSchema(
    {
        "type": "object",
        "description": "a secret, by its name",
        "properties": {"secret": {"type": "string"}},
        "required": ["secret"],
        "additionalProperties": False,
    }
)
"""Where it stands, not by reference: models are shown single arguments."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret comes from, an environment ``variable`` or a ``file``, and who may be given it.

    ``tools`` may have it as an argument, if all who learn their arguments are among ``readers``; those are principals.
    """

    name: str
    variable: str = ""
    file: Path | None = None
    tools: frozenset[str] = frozenset()
    readers: Readers = NOBODY

    @property
    def source(self) -> str:
        return f"variable {self.variable}" if self.file is None else f"file {self.file}"

    def value(self) -> str:
        """Return the value as it is now. Raises :class:`SecretUnavailable`."""
        try:
            found = os.environ.get(self.variable, "") if self.file is None else self.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretUnavailable(f"The secret {self.name} cannot be read from {self.source}: {error}.") from error
        # A file ends in a line end, which belongs to no value.
        found = found.strip("\r\n")
        if not found:
            raise SecretUnavailable(f"The secret {self.name} has no value: {self.source} is unset or empty.")
        if len(found) < LEAST_CHARACTERS:
            raise SecretUnavailable(
                f"The secret {self.name} is shorter than {LEAST_CHARACTERS} characters, so that it could not be found "
                "and taken out of other text."
            )
        return found


def declared_in(settings: Settings) -> list[Secret]:
    """Return the secrets that the settings declare."""
    return [
        Secret(name, said.variable or "", said.file, said.tools, Readers(said.readers))
        for name, said in sorted(settings.secrets.items())
    ]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Secrets:
    """The secrets of a runtime. Each is read when it is used, so that a changed one needs no restart."""

    declared: Mapping[str, Secret] = field(default_factory=dict)
    _seen: dict[str, set[str]] = field(default_factory=dict)
    _redactor: Redactor | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(*secrets: Secret) -> Secrets:
        return Secrets({secret.name: secret for secret in secrets})

    def refusal(self, tool: str, names: Iterable[str], audience: Readers) -> str | None:
        """Say why a call whose arguments ``audience`` learns may not have the secrets ``names``; ``None``: it may."""
        for name in names:
            secret = self.declared.get(name)
            if secret is None:
                return f"no secret is named {name!r}; there are {', '.join(sorted(self.declared)) or 'none'}"
            if tool not in secret.tools:
                return f"the secret {name} is not granted to {tool}"
            if not secret.readers.permits(audience):
                told = "everyone" if audience.members is None else ", ".join(sorted(audience.members))
                return f"{tool} would tell the secret {name} to {told}, who are not all among its readers"
        return None

    def fault(self, arguments: Json) -> str | None:
        """Say that arguments hold the value of a secret, which would go on record; ``None``: they hold none."""
        if self._current().json(arguments) == arguments:
            return None
        return 'an argument holds the value of a secret; give its name instead, as {"secret": NAME}'

    def resolve(self, tool: str, reference: SecretReference) -> SecretStr:
        """Return the value for a call of ``tool`` that begins now.

        Raises :class:`UnknownSecret`, :class:`SecretUnavailable`.
        """
        secret = self.declared.get(reference.secret)
        # What takes a call back may use what the call used.
        if secret is None or secret.tools.isdisjoint({tool, tool.removeprefix(UNDO)}):
            raise UnknownSecret(f"{tool} has no secret named {reference.secret!r}.")
        value = secret.value()
        self._remember(secret.name, value)
        return SecretStr(value)

    def text(self, text: str) -> str:
        """Return ``text`` without the value of any secret."""
        return self._current().text(text)

    def json(self, value: Json) -> Json:
        """Return a document without the value of any secret."""
        return self._current().json(value)

    def stream(self) -> Stream:
        """Return a filter for a text that comes in pieces."""
        return self._current().stream()

    def _current(self) -> Redactor:
        # Any thread that logs comes here, also while another takes in a changed value.
        with self._lock:
            if self._redactor is None:
                # Also of those that were not used yet: a tool may find one by itself, in its environment.
                for name, secret in self.declared.items():
                    try:
                        self._seen.setdefault(name, set()).add(secret.value())
                    except SecretUnavailable:
                        continue
                self._redactor = Redactor(self._seen)
            return self._redactor

    def _remember(self, name: str, value: str) -> None:
        with self._lock:
            held = self._seen.setdefault(name, set())
            if value not in held:
                held.add(value)
                self._redactor = None


NO_SECRETS: Final = Secrets()
_logged: Final[WeakSet[Secrets]] = WeakSet()


def as_parameter(hint: Any) -> Any:
    """Return the type of an argument for a parameter's type hint: a reference in the place of a secret.

    Raises :class:`ConfigurationError` where a secret is part of something.
    """
    if hint is SecretStr:
        return Annotated[SecretReference, _SHOWN]
    if not _holds_secret(hint):
        return hint
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(as_parameter(part) for part in get_args(hint))]  # noqa: UP007 - made at run time
    if get_origin(hint) is Annotated:
        return as_parameter(get_args(hint)[0])
    raise ConfigurationError(
        f"A tool's parameter is a {hint}.", remedy="Give each secret a parameter of its own: SecretStr."
    )


def redact_logs(secrets: Secrets) -> None:
    """Take the secrets' values out of what is logged in this process, whoever logs it, as long as they are in use."""
    _logged.add(secrets)
    make = logging.getLogRecordFactory()
    if not isinstance(make, _RedactingFactory):
        logging.setLogRecordFactory(_RedactingFactory(make))


class _RedactingFactory:
    """Makes records of the log without the values of any secrets in use."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **options: Any) -> logging.LogRecord:
        record = self._make(*arguments, **options)
        message = _message(record)
        clean = _clean(message)
        if clean != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = _clean(logging.Formatter().formatException(record.exc_info))
        return record


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:
        # Whoever logs with arguments that do not fit must not fail for it; nor may handlers print them as they are.
        record.msg, record.args = f"{record.msg} {record.args} ({type(error).__name__}: {error})", ()
        return str(record.msg)


def _clean(text: str) -> str:
    for secrets in list(_logged):
        text = secrets.text(text)
    return text


def _holds_secret(hint: Any) -> bool:
    return hint is SecretStr or any(map(_holds_secret, get_args(hint)))
