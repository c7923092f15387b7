"""Who calls: bearer tokens, and the principals that they stand for. Only digests of tokens are kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentsys.errors import ConfigurationError
from agentsys.sections import SHORTEST_TOKEN, PrincipalSettings

CALLER: Final = "agentsys.caller"
"""Key of the caller in the scope of an ASGI request."""

HASH: Final = "sha256:"
"""What a digest begins with in the settings."""


class AmbiguousToken(ConfigurationError):
    """A principal has no token, several, or one that another has too."""

    code = "AGS-0771"
    remedy = "Give each principal a token of its own: `agentsys principals token NAME` makes one."


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request. The ``operator`` is the server's owner, who sees that others' records are there."""

    principal: str
    operator: bool


class Principals:
    """Which principal a token belongs to. ``tokens`` are digests (:func:`digest_of`) by principal.

    Without any, nobody authenticates, and everybody is the ``owner``.
    """

    def __init__(self, owner: str, tokens: Mapping[str, str]) -> None:
        if len(set(tokens.values())) < len(tokens):
            raise AmbiguousToken("Two principals have the same token.")
        self._owner = owner
        self._tokens = {name: known.encode() for name, known in tokens.items()}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def caller(self, presented: bytes) -> Caller | None:
        """Return who presents a token, or ``None``. Every known one is compared, in the same time for all."""
        if not self._tokens:
            return self._named(self._owner)
        given, found = digest_of(presented).encode(), None
        for name, known in self._tokens.items():
            if secrets.compare_digest(given, known):
                found = name
        return None if found is None else self._named(found)

    def _named(self, principal: str) -> Caller:
        return Caller(principal, operator=principal == self._owner)


def principals(owner: str, token: str | None, named: Mapping[str, PrincipalSettings]) -> Principals:
    """Return the principals of a server's settings; ``token`` is the owner's. Raises :class:`AmbiguousToken`."""
    tokens: dict[str, str] = {}
    for name, settings in named.items():
        if principal_of(name) in tokens:
            raise AmbiguousToken(f"{principal_of(name)} stands twice under principals, each time with a token.")
        tokens[principal_of(name)] = _digest(name, settings)
    if token is not None:
        if owner in tokens:
            raise AmbiguousToken(f"{owner} has two tokens: server.token, and one under principals.")
        tokens[owner] = digest_of(token)
    return Principals(owner, tokens)


def principal_of(name: str) -> str:
    """Return the principal that a name in the settings stands for: of a name without a kind, a user."""
    return name if ":" in name else f"user:{name}"


def digest_of(token: str | bytes) -> str:
    """Return what is kept of a token. Tokens are long and random, so that one round of SHA-256 is enough."""
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).hexdigest()


def new_token() -> str:
    """Return a new token of 256 random bits."""
    return secrets.token_urlsafe(32)


def _digest(name: str, settings: PrincipalSettings) -> str:
    if settings.token_hash is not None:
        return settings.token_hash.removeprefix(HASH)
    if settings.token is not None:
        return digest_of(settings.token.get_secret_value())
    assert settings.token_file is not None, "the settings have one of the three"
    try:
        token = settings.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AmbiguousToken(f"The token of {name} cannot be read from {settings.token_file}: {error}.") from error
    if len(token) < SHORTEST_TOKEN:
        raise AmbiguousToken(f"The token of {name} in {settings.token_file} has less than {SHORTEST_TOKEN} characters.")
    return digest_of(token)
