"""Links that strangers wrote, made inactive: a person can still read where they lead, and no program follows them."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from agentsys.blackboard.entries import Json

_HOST: Final = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}"
_LINK: Final = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<host>[^\s/?#\"'<>)\]]+)"
    rf"|(?<![@\w.-])(?P<bare>www\.{_HOST}|{_HOST}(?=/)"
    rf"|(?:[a-z0-9-]+\.)+(?:com|net|org|info|io|co|biz|dev|app|xyz|ru|cn|uk|de|fr|eu|us|site|online|top))(?![\w.-]*@)\b",
    re.IGNORECASE,
)


def defang(value: Json, allowed: Collection[str] = ()) -> Json:
    """Return ``value`` with the links inside its texts made inactive, but for those to ``allowed`` hosts."""
    if isinstance(value, str):
        return _LINK.sub(lambda found: _inactive(found, allowed), value)
    if isinstance(value, list):
        return [defang(item, allowed) for item in value]
    if isinstance(value, dict):
        return {str(defang(key, allowed)): defang(item, allowed) for key, item in value.items()}
    return value


def _inactive(found: re.Match[str], allowed: Collection[str]) -> str:
    scheme, host = found["scheme"] or "", found["host"] or found["bare"]
    # A user name before the host is not the host: https://allowed.example@evil.example leads to the latter.
    name = host.rpartition("@")[2].partition(":")[0].lower()
    if "@" not in host and (name in allowed or name.removeprefix("www.") in allowed):
        return found[0]
    return scheme.replace("t", "x").replace("T", "X").replace("://", "[:]//") + host.replace(".", "[.]")
