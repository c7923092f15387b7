"""What the serving tests share: a tiny tokenizer, a scripted model that really uses its KV blocks, the real weights."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from starlette.types import ASGIApp
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from agentsys.serving.engine import Engine
from agentsys.serving.torch_engine.batch import SequenceSlice

VOCAB_SIZE = 320
EOS = 0


def history_logits(history: Sequence[int], memory: int | None = None) -> np.ndarray:
    """Deterministic logits ``[vocab]`` after a history; with ``memory`` only its last tokens count, so it loops."""
    seen = list(history if memory is None else history[-memory:])
    seed = int.from_bytes(hashlib.blake2b(repr(seen).encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(VOCAB_SIZE).astype(np.float32)


@dataclass(frozen=True)
class ScriptedConfig:
    vocab_size: int = VOCAB_SIZE
    context_length: int = 512
    eos_token_ids: frozenset[int] = frozenset({EOS})


@dataclass(frozen=True)
class ScriptedBlocks:
    block_size: int = 4
    num_blocks: int = 64


@dataclass
class ScriptedRunner:
    """A model whose logits depend on the tokens found in its KV blocks: a wrong block table gives wrong tokens."""

    config: ScriptedConfig = field(default_factory=ScriptedConfig)
    kv: ScriptedBlocks = field(default_factory=ScriptedBlocks)
    memory: int | None = None
    eos_bias: float = -10.0
    batch_invariant: bool = True
    steps: list[list[SequenceSlice]] = field(default_factory=list)
    fail_at: int | None = None

    def __post_init__(self) -> None:
        self._stored = np.full((self.kv.num_blocks, self.kv.block_size), -1)

    def step(self, batch: Sequence[SequenceSlice]) -> list[torch.Tensor]:
        if self.fail_at == len(self.steps):
            raise RuntimeError("planted failure")
        self.steps.append(
            [replace(piece, token_ids=list(piece.token_ids), block_table=list(piece.block_table)) for piece in batch]
        )
        for piece in batch:
            for position, token in enumerate(piece.token_ids, start=piece.start):
                block = piece.block_table[position // self.kv.block_size]
                self._stored[block, position % self.kv.block_size] = token
        return [self._states(piece) if piece.states else self._logits(piece) for piece in batch]

    def next_token(self, history: Sequence[int]) -> int:
        return int(self.biased(history).argmax())

    def biased(self, history: Sequence[int]) -> np.ndarray:
        logits = history_logits(history, self.memory)
        logits[EOS] += self.eos_bias
        return logits

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The answer by definition: one token after another from the whole history, without any engine."""
        tokens = list(prompt)
        while len(tokens) < len(prompt) + count:
            tokens.append(self.next_token(tokens))
            if tokens[-1] == EOS:
                break
        return tokens[len(prompt) :]

    def state(self, history: Sequence[int]) -> np.ndarray:
        """The hidden state ``[8]`` of the last token of a history, by definition."""
        return history_logits(history)[:8]

    def _states(self, piece: SequenceSlice) -> torch.Tensor:
        stored = self._stored[list(piece.block_table)].reshape(-1)
        ends = range(piece.start + 1, piece.start + len(piece.token_ids) + 1)
        return torch.from_numpy(np.array([self.state(stored[:end].tolist()) for end in ends]))

    def _logits(self, piece: SequenceSlice) -> torch.Tensor:
        stored = self._stored[list(piece.block_table)].reshape(-1)
        rows = [
            self.biased(stored[: piece.start + index + 1].tolist())
            for index in range(piece.logits_from, len(piece.token_ids))
        ]
        return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, VOCAB_SIZE))


@pytest.fixture
def scripted_runner() -> type[ScriptedRunner]:
    return ScriptedRunner


@pytest.fixture
def scripted_blocks() -> type[ScriptedBlocks]:
    return ScriptedBlocks


@pytest.fixture
def scripted_config() -> type[ScriptedConfig]:
    return ScriptedConfig


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a byte-level tokenizer of 259 tokens and a ChatML template, without weights."""
    folder = tmp_path_factory.mktemp("tiny-model")
    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {text: index for index, text in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    # The scripted model's logits are wider than the bytes, as real models' are wider than their vocabulary.
    tokenizer.add_tokens([AddedToken(f"<{index}>") for index in range(VOCAB_SIZE - len(vocabulary))])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="session")
def smollm2_dir() -> Path:
    """The default model's folder, pulled once into the user's cache."""
    from agentsys.serving.weights.errors import DownloadError
    from agentsys.serving.weights.pull import pull

    try:
        return pull()
    except DownloadError as error:
        pytest.skip(f"the default model cannot be pulled here: {error}")


@pytest.fixture(scope="session")
def vllm_engine(smollm2_dir: Path) -> Iterator[Engine]:
    """vLLM with four slots, one for all tests of a session: it takes a minute to start.

    In float32, since what else is in a batch moves bfloat16 answers where two tokens tie.
    """
    from agentsys.serving.models import EngineOptions, engine_factory

    options = EngineOptions(weight_format="float32", kv_cache_bytes=512 * 2**20, max_batch=4)
    engine = engine_factory(f"vllm:{smollm2_dir}", options)()
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait, without a sleep in the test, until a condition of another thread holds."""

    def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.002)

    return wait


@pytest.fixture(scope="session")
def listening() -> Callable[[ASGIApp], contextlib.AbstractContextManager[str]]:
    """Return a context manager that serves an app on a free port of this machine and yields the address."""
    return _listening


@contextlib.contextmanager
def _listening(app: ASGIApp) -> Iterator[str]:
    """Serve ``app`` on a free port of this machine in a thread; yields the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
