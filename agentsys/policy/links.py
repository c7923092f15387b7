"""Links that strangers wrote, made inactive: a person can still read where they lead, and no program follows them.

What counts as a link is what lenient programs make one of: the URL standard (https://url.spec.whatwg.org) takes
backslashes for slashes and does without them, mail readers and chat programs find hosts without a scheme.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from agentsys.blackboard.entries import Json

_INVISIBLE: Final = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_DOT: Final = re.compile("[.\u3002\uff0e\uff61]")
_LABELS: Final = r"(?:[^\W_](?:[\w-]*[^\W_])?[.\u3002\uff0e\uff61])+"
_TOP: Final = (
    "com|net|org|info|io|co|biz|dev|app|ai|me|xyz|ru|cn|uk|de|fr|eu|us|it|ly|gl|gg|site|online|top|link|click|zip|mov"
)
_OPAQUE: Final = "https?|ftp|file|javascript|vbscript|data|mailto|tel|sms|blob|about|view-source"
_LINK: Final = re.compile(
    # Any scheme before slashes; the known ones without them, too; any at all where Markdown or HTML has a target.
    rf"(?P<scheme>(?<![\w+.-])(?:[a-z][a-z0-9+.-]*:(?=[/\\])|(?:{_OPAQUE}):(?=[^\s])"
    rf"|(?<=[(<\"'=])[a-z][a-z0-9+.-]*:(?=[^\s])))(?P<slashes>[/\\]*)(?P<host>\[[0-9a-f:.%]+\]|[^\s/?#\"'<>)\]\[]*)"
    rf"|(?<![:\w/\\\[])(?P<relative>//|\\\\)(?P<server>[^\s/?#\"'<>)\]\[]+)"
    rf"|(?<![@\w.-])(?P<bare>www\.{_LABELS}\w{{2,}}|{_LABELS}\w{{2,}}(?=[/\\:])|{_LABELS}(?:{_TOP}))(?![\w.-]*@)\b",
    re.IGNORECASE,
)

# Quotation marks and brackets end a link in most texts, and a host in no standard: `https://a.org'.b.org` is of b.org.
_GOES_ON: Final = re.compile(
    "[\"')][^\\s/?#<>\\\\.\u3002\uff0e\uff61]{0,253}[.\u3002\uff0e\uff61][^\\s/?#<>\\\\]{0,253}[^\\W_]"
)


def defang(value: Json, allowed: Collection[str] = ()) -> Json:
    """Return ``value`` with the links inside its texts made inactive, but for those to ``allowed`` hosts."""
    if isinstance(value, str):
        return _defanged(value, allowed)
    if isinstance(value, list):
        return [defang(item, allowed) for item in value]
    if isinstance(value, dict):
        return {_defanged(key, allowed): defang(item, allowed) for key, item in value.items()}
    return value


def _defanged(text: str, allowed: Collection[str]) -> str:
    visible = _INVISIBLE.sub("", text)
    # Characters that nobody sees join emoji elsewhere; beside a link they only hide it.
    if visible != text and _LINK.search(visible):
        text = visible
    return _LINK.sub(lambda found: _inactive(found, allowed), text)


def _inactive(found: re.Match[str], allowed: Collection[str]) -> str:
    scheme, slashes = found["scheme"] or "", found["slashes"] or ""
    host = found["host"] or found["server"] or found["bare"] or ""
    plain = scheme.lower() in ("", "http:", "https:") and slashes in ("", "//")
    if plain and _is_allowed(host, allowed) and not _GOES_ON.match(found.string, found.end()):
        return found[0]
    dead = _DOT.sub("[.]", host)
    if found["relative"]:
        return f"[{found['relative']}]{dead}"
    return scheme.replace("t", "x").replace("T", "X").replace(":", "[:]") + slashes + dead


def _is_allowed(host: str, allowed: Collection[str]) -> bool:
    # A user name before the host is not the host: https://allowed.example@evil.example leads to the latter.
    name = host.partition(":")[0].lower()
    return not {"@", "\\"} & set(host) and (name in allowed or name.removeprefix("www.") in allowed)
