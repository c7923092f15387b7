"""What vLLM is started with; it is not started here."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from agentsys.serving.vllm_engine.loading import VllmOptions, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
]

BINDING = "VLLM_CPU_OMP_THREADS_BIND"


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The cores that each vLLM which is started would have."""
    from vllm.v1.engine.async_llm import AsyncLLM

    found: list[str | None] = []
    monkeypatch.setattr(AsyncLLM, "from_engine_args", lambda _: found.append(os.environ.get(BINDING)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5})
    monkeypatch.delenv(BINDING, raising=False)
    return found


def test_each_has_the_threads_of_its_own_options(bindings: list[str | None], tiny_model_dir: Path) -> None:
    for threads in (1, 2, None):
        start(tiny_model_dir, VllmOptions(threads=threads))
    assert bindings == ["3", "3,4", None]
    assert BINDING not in os.environ


def test_what_the_environment_says_counts_before(
    bindings: list[str | None], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BINDING, "nobind")
    start(tiny_model_dir, VllmOptions(threads=1))
    assert bindings == ["nobind"] and os.environ[BINDING] == "nobind"
