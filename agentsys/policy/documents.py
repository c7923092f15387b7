"""Policies as TOML files, one for a deployment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from agentsys.errors import ConfigurationError
from agentsys.policy.policy import Policy


class PolicyFault(ConfigurationError):
    """A policy's file cannot be read, or says what means nothing."""

    code = "AGS-0311"
    remedy = "Mend the places that the message names; `agentsys policy check FILE` reads it again."


SHIPPED: Final = Path(__file__).with_name("shipped")
"""Policies that come with the package."""


def load_policy(path: Path) -> Policy:
    """Read a policy's file, or the one of that name that comes with the package: ``builtin``.

    Raises :class:`PolicyFault` naming every fault with its place.
    """
    shipped = SHIPPED / f"{path}.toml"
    if path.name == str(path) and not path.exists() and shipped.exists():
        path = shipped
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyFault(f"The policy {path} cannot be read: {error}.") from error
    return read_policy(text, str(path))


def read_policy(text: str, where: str = "the policy") -> Policy:
    """Read a policy from TOML. Raises :class:`PolicyFault` naming every fault with its place."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PolicyFault(f"{where} is no TOML: {error}.") from error
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise PolicyFault(f"{where}: {'; '.join(_explain(error))}.") from error


def _explain(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}" for fault in error.errors()]
