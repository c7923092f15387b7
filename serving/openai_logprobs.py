"""Log-probabilities of tokens as OpenAI-compatible servers are asked for them, and as they tell them.

Source: OpenAI's API reference, ``choices[].logprobs`` of chat completions and of (legacy) completions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from agentsys.serving.engine_errors import UnsupportedFeatureError
from agentsys.serving.requests import TokenLogprob, TokenLogprobs

_PART: Final = re.compile(r"bytes:(?:\\x[0-9a-f]{2})+")


class LogprobsWithheldError(UnsupportedFeatureError):
    """A model server answered a call that asked for log-probabilities without them."""

    code = "AGS-0445"
    remedy = "Leave `logprobs` out, or use an engine that tells them: torch, vLLM, or a server of either."


def logprobs_fields(count: int, *, chat: bool) -> dict[str, Any]:
    """Return the fields that ask for every token's log-probability and ``count`` alternatives."""
    return {"logprobs": True, "top_logprobs": count} if chat else {"logprobs": count}


def wanted_alternatives(body: Mapping[str, Any]) -> int | None:
    """Return how many alternatives the body of a call asks for; ``None`` if it asks for no log-probability."""
    if "logprobs" not in body:
        return None
    return int(body.get("top_logprobs", 0) if body["logprobs"] is True else body["logprobs"])


def parse_logprobs(told: Mapping[str, Any] | None, most: int) -> tuple[TokenLogprobs, ...]:
    """Read ``choices[].logprobs`` of either form, with at most ``most`` alternatives for each token.

    Servers tell no token ids. Raises ``ValueError``, ``TypeError``, ``AttributeError`` or ``LookupError`` for any other
    form.
    """
    if not told:
        return ()
    if "tokens" in told:
        return _of_text(told, most)
    return tuple(
        TokenLogprobs(_of_chat(token), _likeliest([_of_chat(other) for other in token.get("top_logprobs") or ()], most))
        for token in told.get("content") or ()
    )


def _of_chat(token: Mapping[str, Any]) -> TokenLogprob:
    told = token.get("bytes")
    return TokenLogprob(None, _bytes_of(token["token"]) if told is None else bytes(told), float(token["logprob"]))


def _of_text(told: Mapping[str, Any], most: int) -> tuple[TokenLogprobs, ...]:
    tokens, values = told["tokens"], told["token_logprobs"]
    tops = told.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        TokenLogprobs(
            TokenLogprob(None, _bytes_of(token), float(value)),
            _likeliest([TokenLogprob(None, _bytes_of(text), float(its)) for text, its in (top or {}).items()], most),
        )
        for token, value, top in zip(tokens, values, tops, strict=True)
    )


def _likeliest(tokens: list[TokenLogprob], most: int) -> tuple[TokenLogprob, ...]:
    # Some servers tell the chosen token beside as many others as were asked for.
    return tuple(sorted(tokens, key=lambda token: -token.logprob)[:most])


def _bytes_of(token: str) -> bytes:
    """Return the bytes of a token that is told as text; of one that is part of a character, as OpenAI escapes it."""
    return bytes.fromhex(token[6:].replace("\\x", "")) if _PART.fullmatch(token) else token.encode()
