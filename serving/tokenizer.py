"""Text to tokens and back: the model folder's tokenizer and chat template, without importing transformers."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from agentsys.errors import ServingError
from agentsys.serving.requests import Message


class PromptError(ServingError):
    """A prompt cannot be turned into this model's tokens."""

    code = "AGS-0414"
    remedy = "Check the message roles and their order against the model's chat template, or pass raw text."


class UnknownTokenError(ServingError):
    """A request names a token that the model does not have; ``param`` is the field that does."""

    code = "AGS-0424"
    remedy = "Name tokens by the ids of this model's own tokenizer; those of another model's mean nothing here."

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class ModelTokenizer:
    """The tokenizer of one model folder. Thread-safe."""

    def __init__(self, model_dir: Path) -> None:
        """Read ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``; the last two are optional.

        Raises :class:`PromptError` for one that is unreadable.
        """
        path = model_dir / "tokenizer.json"
        try:
            self.backend = _read_tokenizer(path)
        except Exception as error:  # the tokenizers library raises bare Exception
            raise PromptError(
                f"{path} is not a readable tokenizer: {error}.", remedy="Pull the model again."
            ) from error
        self.path = path
        try:
            self._config = _read_config(model_dir)
            self._template = _read_template(model_dir, self._config)
        except (ValueError, TypeError, LookupError, AttributeError, TemplateError) as error:
            raise PromptError(
                f"the tokenizer's configuration or chat template in {model_dir} is unreadable: {error!r}.",
                remedy="Pull the model again, or correct tokenizer_config.json or chat_template.jinja there.",
            ) from error
        self._special = {token.content for token in self.backend.get_added_tokens_decoder().values() if token.special}

    def limit_to(self, vocab_size: int) -> None:
        """Refuse tokens from id ``vocab_size`` on. Some tokenizers name more, such as one for padding, than their
        models have embeddings for."""
        self._last_id = min(self._last_id, vocab_size - 1)

    def encode(self, prompt: Sequence[Message] | str | Sequence[int]) -> list[int]:
        """Return token ids of chat messages, raw text or ids.

        Raises :class:`PromptError` if there are none, or the tokenizer fails on the prompt.
        """
        try:
            tokens = self._encode_any(prompt)
        except (UnicodeEncodeError, TypeError) as error:  # the second is what `tokenizers` raises for the first
            raise PromptError(
                f"the prompt holds text that is no Unicode: {error}.", remedy="Replace lone surrogates."
            ) from error
        except (ServingError, KeyboardInterrupt, SystemExit):
            raise
        # `tokenizers` raises bare Exception, and a panic of its Rust code is not even that.
        except BaseException as error:
            raise PromptError(
                f"the model's tokenizer fails on this prompt: {error!r}.",
                remedy="Send other text, or use a model whose tokenizer can read it.",
            ) from error
        if not tokens:
            raise PromptError("the prompt is empty.", remedy="Send at least one token.")
        if not 0 <= min(tokens) <= max(tokens) <= self._last_id:
            raise PromptError(f"token ids go from 0 to {self._last_id}, got {min(tokens)} to {max(tokens)}.")
        return tokens

    def check_known(self, tokens: Iterable[int], param: str) -> None:
        """Raise :class:`UnknownTokenError` if one of the tokens, which ``param`` names, is none of the model's."""
        for token in tokens:
            if not 0 <= token <= self._last_id:
                raise UnknownTokenError(f"{param}: token ids go from 0 to {self._last_id}, got {token}.", param=param)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens without special tokens; incomplete characters become U+FFFD."""
        return str(self.backend.decode(list(tokens), skip_special_tokens=True))

    def render(self, messages: Sequence[Message]) -> str:
        """Return the chat template's text, up to where the assistant's answer starts."""
        if self._template is None:
            raise PromptError("the model has no chat template.", remedy="Pass raw text instead of messages.")
        try:
            return self._template.render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **{name: _token_text(self._config.get(name)) for name in ("bos_token", "eos_token", "pad_token")},
            )
        except Exception as error:  # a template is a program of the model's, made for other callers than this one
            raise PromptError(f"the chat template refused the messages: {error}.") from error

    def _encode_any(self, prompt: Sequence[Message] | str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return list(self.backend.encode(prompt).ids)
        messages = [item for item in prompt if isinstance(item, Message)]
        return self._encode_chat(messages) if messages else [item for item in prompt if isinstance(item, int)]

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if not any(special in message.content for message in messages for special in self._special):
            return list(self.backend.encode(self.render(messages), add_special_tokens=False).ids)
        return self._encode_guarded(messages)

    def _encode_guarded(self, messages: Sequence[Message]) -> list[int]:
        """Encode contents that spell special tokens as plain text, so that no content can open a turn of its own."""
        mark = uuid4().hex
        marked = [Message(message.role, f"{mark}{index}{mark}") for index, message in enumerate(messages)]
        pieces = self.render(marked).split(mark)
        tokens: list[int] = []
        for index, piece in enumerate(pieces):
            if index % 2:
                tokens.extend(self._encode_plain(messages[int(piece)].content))
            else:
                tokens.extend(self.backend.encode(piece, add_special_tokens=False).ids)
        return tokens

    def _encode_plain(self, text: str) -> list[int]:
        return list(self._without_special_tokens.encode(text, add_special_tokens=False).ids)

    @functools.cached_property
    def _last_id(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True) - 1

    @functools.cached_property
    def _without_special_tokens(self) -> Tokenizer:
        plain = _read_tokenizer(self.path)
        plain.encode_special_tokens = True
        return plain


def _read_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    # Those of training, which stay in the file: prompts would be cut or filled up without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "tokenizer_config.json"
    if not path.is_file():
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _read_template(model_dir: Path, config: dict[str, Any]) -> Template | None:
    path = model_dir / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):
        source = next((item["template"] for item in source if item.get("name") == "default"), None)
    if source is None:
        return None
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment.from_string(source)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # Jinja's own filter escapes characters for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _token_text(token: object) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
