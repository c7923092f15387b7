"""Log-probabilities of tokens in OpenAI's two forms.

Source: OpenAI's API reference, ``choices[].logprobs`` of chat completions and of (legacy) completions.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Final

from agentsys.serving.requests import TokenLogprob, TokenLogprobs

_LEAST: Final = -9999.0
"""OpenAI's value for what is very unlikely. JSON has no infinity, and vLLM tells it of what a grammar excludes."""


def chat_logprobs(tokens: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
    """Return the object of a chat choice, ``None`` where the request asked for none."""
    if not tokens:
        return None
    listed = [_entry(token.chosen) | {"top_logprobs": [_entry(other) for other in token.top]} for token in tokens]
    return {"content": listed, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprobs], offset: int) -> dict[str, Any] | None:
    """Return the object of a text choice, whose tokens begin at character ``offset`` of its text."""
    if not tokens:
        return None
    # A character may be spread over tokens, and counts where it ends.
    offsets, decode = [], codecs.getincrementaldecoder("utf-8")("ignore").decode
    for token in tokens:
        offsets.append(offset)
        offset += len(decode(token.chosen.text))
    return {
        "tokens": [token_text(token.chosen) for token in tokens],
        "token_logprobs": [_told(token.chosen) for token in tokens],
        "top_logprobs": [{token_text(other): _told(other) for other in token.top} for token in tokens],
        "text_offset": offsets,
    }


def token_text(token: TokenLogprob) -> str:
    """Return a token as text; of one that is part of a character its bytes, as ``bytes:\\xe2\\x82``."""
    try:
        return token.text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.text)


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token_text(token), "logprob": _told(token), "bytes": list(token.text)}


def _told(token: TokenLogprob) -> float:
    return max(token.logprob, _LEAST)
