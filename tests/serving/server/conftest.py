"""A model server on a real socket, over a scripted model or the real one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from starlette.types import ASGIApp

from agentsys.serving.client import ServingClient
from agentsys.serving.server.app import serving_app
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine

Listening = Callable[[ASGIApp], contextlib.AbstractContextManager[str]]


@pytest.fixture
def serve(listening: Listening) -> Iterator[Callable[[ASGIApp], str]]:
    """Return a function that serves an app until the test ends, and returns the address."""
    with contextlib.ExitStack() as stack:
        yield lambda app: stack.enter_context(listening(app))


@pytest.fixture
def scripted_engine(scripted_runner, scripted_config, scripted_blocks, tiny_model_dir: Path) -> Iterator[TorchEngine]:
    """An engine over the scripted model, whose answers are noise of bytes, long ones."""
    runner = scripted_runner(config=scripted_config(context_length=2048), kv=scripted_blocks(num_blocks=1024))
    engine = TorchEngine(runner, ModelTokenizer(tiny_model_dir), name="scripted", max_batch=4)
    yield engine
    engine._stop()


@pytest.fixture
def url(scripted_engine: TorchEngine, serve: Callable[[ASGIApp], str]) -> str:
    """The address of a server of the scripted model."""
    return serve(serving_app(ServingClient({"scripted": scripted_engine}, "scripted"))) + "/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    """The official client, as anybody would configure it."""
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=60) as instance:
        yield instance


@pytest.fixture(scope="session")
def real_url(smollm2_dir: Path, listening: Listening) -> Iterator[str]:
    """The address of a server of the real model."""
    engine = TorchEngine.load(smollm2_dir, kv_cache_bytes=64 * 2**20)
    with listening(serving_app(ServingClient({"smollm2-135m": engine}, "smollm2-135m"))) as address:
        yield address + "/v1"
    engine._stop()
