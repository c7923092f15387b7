"""From what a user writes as a model's name to the engine that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urldefrag, urlsplit

from agentsys.blackboard.labels import NOBODY, Readers
from agentsys.serving.client import EngineFactory, ServingClient
from agentsys.serving.engine import Engine
from agentsys.serving.weights.progress import ProgressListener, ignore_progress

_URL_SCHEMES = ("http://", "https://")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How engines run. All but ``api_key`` and ``context_length`` concern the in-process engine.

    ``weight_format`` "auto" is the engine's fastest batch-invariant format. ``threads`` None is all cores but one.
    ``context_length`` is what to assume of a remote server that does not tell.
    """

    weight_format: str = "auto"
    threads: int | None = None
    kv_cache_bytes: int = 256 * 2**20
    max_batch: int = 16
    max_step_tokens: int = 256
    drafter: Literal["auto"] | None = "auto"
    models_dir: Path | None = None
    api_key: str | None = None
    context_length: int = 8192


def engine_factory(
    spec: str, options: EngineOptions | None = None, *, progress: ProgressListener = ignore_progress
) -> EngineFactory:
    """Return a function that loads the engine of ``spec``; call it where blocking is allowed.

    ``spec`` is ``http(s)://host/v1#model`` for any OpenAI-compatible server (without ``#model``, the server's first),
    or anything that :func:`~agentsys.serving.weights.pull.pull` takes: a catalogue name, a folder, a ``.gguf``
    file, a Hugging Face id.
    """
    options = options or EngineOptions()
    if spec.startswith(_URL_SCHEMES):
        return lambda: _remote(spec, options)
    return lambda: _in_process(spec, options, progress)


def serving_client(
    spec: str, options: EngineOptions | None = None, *, progress: ProgressListener = ignore_progress
) -> ServingClient:
    """Return a client whose one engine serves ``spec``; the audience of a remote URL is ``model-server:HOST``."""
    engines = {spec: engine_factory(spec, options, progress=progress)}
    return ServingClient(engines, spec, audience=audience_of_spec(spec))


def audience_of_spec(spec: str) -> Readers:
    """Return who learns the prompts sent to ``spec``: nobody if it runs on this machine."""
    host = urlsplit(spec).hostname if spec.startswith(_URL_SCHEMES) else None
    return NOBODY if host is None or host in _LOOPBACK else Readers.of(f"model-server:{host}")


def _remote(spec: str, options: EngineOptions) -> Engine:
    from agentsys.serving.openai_engine import OpenAIEngine

    url, model = urldefrag(spec)
    return OpenAIEngine.connect(
        url, model=model or None, api_key=options.api_key, context_length=options.context_length
    )


def _in_process(spec: str, options: EngineOptions, progress: ProgressListener) -> Engine:
    # torch takes seconds to import, which callers with a remote model need not wait for.
    from agentsys.serving.torch_engine.engine import TorchEngine
    from agentsys.serving.torch_engine.model_runner import DEFAULT_WEIGHT_FORMAT
    from agentsys.serving.weights.pull import pull

    return TorchEngine.load(
        pull(spec, progress=progress, directory=options.models_dir),
        weight_format=DEFAULT_WEIGHT_FORMAT if options.weight_format == "auto" else options.weight_format,
        threads=options.threads,
        kv_cache_bytes=options.kv_cache_bytes,
        max_batch=options.max_batch,
        max_step_tokens=options.max_step_tokens,
        drafter=options.drafter,
    )
