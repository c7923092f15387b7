"""What may go wrong around the engine's thread: other processes, other loops, foreign code that raises."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import threading
import traceback
import weakref
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from agentsys.serving.engine_errors import EngineClosedError, EngineFailedError
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, SamplingParams
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter
from agentsys.serving.tokenizer import ModelTokenizer, PromptError
from agentsys.serving.torch_engine.core import Speculation
from agentsys.serving.torch_engine.engine import TorchEngine

PROMPT = [5, 6, 7, 8, 9]


def request(prompt=PROMPT, *, max_tokens: int = 20, **options) -> GenerateRequest:
    return GenerateRequest(prompt, SamplingParams(max_tokens=max_tokens), **options)


async def collect(engine: TorchEngine, asked: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in engine.submit(asked)]


@pytest.fixture
async def start(scripted_runner, tiny_model_dir):
    engines = []

    def make(runner=None, **options) -> TorchEngine:
        engine = TorchEngine(runner or scripted_runner(), ModelTokenizer(tiny_model_dir), name="scripted", **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await engine.close()


async def test_abort_reaches_a_request_whose_prompt_is_still_being_read(start, monkeypatch) -> None:
    engine = start()
    reading, go_on = threading.Event(), threading.Event()
    encode = ModelTokenizer.encode

    def slow_encode(self, prompt):
        reading.set()
        go_on.wait(20)
        return encode(self, prompt)

    monkeypatch.setattr(ModelTokenizer, "encode", slow_encode)
    task = asyncio.create_task(collect(engine, request(max_tokens=400, request_id="r")))
    await asyncio.to_thread(reading.wait, 20)
    engine.abort("r")
    go_on.set()
    chunks = await task
    assert chunks[-1].finish_reason is FinishReason.ABORTED
    assert (await collect(engine, request(request_id="r")))[-1].finish_reason is FinishReason.LENGTH


async def test_a_new_key_reaches_a_request_whose_prompt_is_still_being_read(start, monkeypatch) -> None:
    engine = start(max_batch=1)
    reading, go_on = threading.Event(), threading.Event()
    encode, order = ModelTokenizer.encode, []

    def slow_encode(self, prompt):
        if prompt == [42]:
            reading.set()
            go_on.wait(20)
        return encode(self, prompt)

    async def ask(name: str, prompt: list[int], urgency: float, count: int) -> None:
        await collect(engine, request(prompt, max_tokens=count, urgency=urgency, request_id=name))
        order.append(name)

    monkeypatch.setattr(ModelTokenizer, "encode", slow_encode)
    asked = [asyncio.create_task(ask("first", [40], 0.0, 250)), asyncio.create_task(ask("second", [41], 5.0, 10))]
    asked.append(asyncio.create_task(ask("read late", [42], 9.0, 10)))
    await asyncio.to_thread(reading.wait, 20)
    engine.rekey("read late", 1.0)
    go_on.set()
    await asyncio.gather(*asked)
    assert order == ["first", "read late", "second"]


async def test_a_closed_engine_knows_no_request_to_abort_or_rekey(start) -> None:
    engine = start()
    await engine.close()
    engine.abort("r")
    engine.rekey("r", 1.0)


async def test_an_error_is_raised_anew_for_each_caller(start) -> None:
    engine = start()
    await engine.close()
    errors = []
    for _ in range(3):
        with pytest.raises(EngineClosedError) as caught:
            await collect(engine, request())
        errors.append(caught.value)
    depths = [len(traceback.extract_tb(error.__traceback__)) for error in errors]
    assert len({id(error) for error in errors}) == 3 and len(set(depths)) == 1


async def test_those_whose_answers_end_with_the_engine_get_an_error_each(
    start, scripted_runner, monkeypatch, until
) -> None:
    runner, go_on, read = scripted_runner(fail_at=1), threading.Event(), []
    step, encode = runner.step, ModelTokenizer.encode
    runner.step = lambda batch: go_on.wait(20) and step(batch)
    monkeypatch.setattr(ModelTokenizer, "encode", lambda self, prompt: read.append(prompt) or encode(self, prompt))
    engine = start(runner)
    asked = [asyncio.create_task(collect(engine, request([40 + index]))) for index in range(4)]
    await asyncio.to_thread(until, lambda: len(read) == 4)
    go_on.set()
    errors = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(error, EngineFailedError) and error.__cause__ is not None for error in errors)
    assert len({id(error) for error in errors}) == 4


async def test_a_failed_engine_lets_go_of_its_model(start, scripted_runner) -> None:
    runner = scripted_runner(fail_at=1)
    model = weakref.ref(runner)
    engine = start(runner)
    del runner
    with pytest.raises(EngineFailedError) as caught:
        await collect(engine, request())
    assert "planted failure" in "".join(traceback.format_exception(caught.value))
    await engine.close()
    gc.collect()
    assert model() is None, "the error's traceback must not keep the weights in memory"


class Panic(BaseException):
    """As ``pyo3_runtime.PanicException``, which tokenizers and llguidance raise where their Rust code panics."""


async def test_no_stream_waits_for_ever_when_native_code_panics(start, scripted_runner) -> None:
    runner = scripted_runner()

    def panic(batch):
        raise Panic("planted panic")

    runner.step = panic
    engine = start(runner)
    for _ in range(2):
        with pytest.raises(EngineFailedError, match="planted panic"):
            await asyncio.wait_for(collect(engine, request()), 20)


async def test_a_prompt_on_which_the_tokenizer_panics_ends_its_own_call_alone(start) -> None:
    engine = start()
    engine.tokenizer.backend.enable_truncation(2, stride=2)  # its Rust code panics over each longer text
    with pytest.raises(PromptError, match="PanicException"):
        await asyncio.wait_for(collect(engine, request("a longer text")), 20)
    assert (await collect(engine, request()))[-1].finish_reason is FinishReason.LENGTH


class FailingDrafter(PromptLookupDrafter):
    """Raises for its second session."""

    def __init__(self) -> None:
        self.sessions = 0

    def session(self):
        self.sessions += 1
        if self.sessions == 2:
            raise LookupError("planted drafter failure")
        return super().session()


async def test_no_stream_waits_for_ever_when_a_drafter_fails(start) -> None:
    engine = start(speculation=Speculation(FailingDrafter(), 4, None))
    asked = [collect(engine, request([40 + index], max_tokens=200)) for index in range(6)]
    results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
    assert any("planted drafter failure" in str(result) for result in results)
    assert all(isinstance(result, EngineFailedError | list) for result in results)


async def test_one_engine_serves_two_loops_at_the_same_time(start, scripted_runner) -> None:
    engine = start(max_batch=2)
    answers: dict[int, list[int]] = {}

    def ask(first: int) -> None:
        chunks = asyncio.run(collect(engine, request([first], max_tokens=60)))
        answers[first] = [token for chunk in chunks for token in chunk.token_ids]

    threads = [threading.Thread(target=ask, args=(50 + index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert answers == {50 + index: scripted_runner().greedy([50 + index], 60) for index in range(3)}


@pytest.fixture(scope="module")
def random_model_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model folder: the tiny tokenizer and random weights."""
    folder = tmp_path_factory.mktemp("random-model")
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return shutil.copytree(tiny_model_dir, folder, dirs_exist_ok=True)


FORKING = """
import asyncio, os, signal, sys
from pathlib import Path
from agentsys.serving.requests import GenerateRequest, SamplingParams
from agentsys.serving.engine_errors import EngineClosedError
from agentsys.serving.torch_engine.engine import TorchEngine

async def ask(engine):
    return [chunk async for chunk in engine.submit(GenerateRequest([5, 6], SamplingParams(max_tokens=3)))]

engine = TorchEngine.load(Path(sys.argv[1]), threads=2, kv_cache_bytes=2**20, drafter=None)
asyncio.run(ask(engine))
child = os.fork()
signal.alarm(60)
if child == 0:
    try:
        asyncio.run(ask(engine))
    except EngineClosedError:
        engine.abort("unknown")
        sys.exit(7)
    sys.exit(1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert len(asyncio.run(ask(engine))) > 0
print("child", status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_refuses_and_ends_while_the_parent_goes_on(random_model_dir) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(random_model_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "child 7", done.stderr[-2000:]


UNCLOSED = """
import asyncio, sys
from pathlib import Path
from agentsys.serving.requests import GenerateRequest, SamplingParams
from agentsys.serving.torch_engine.engine import TorchEngine

async def main():
    engines = [TorchEngine.load(Path(sys.argv[1]), threads=2, kv_cache_bytes=2**20, drafter=None) for _ in range(2)]
    request = GenerateRequest([5, 6], SamplingParams(max_tokens=200, ignore_eos=True))
    streams = [engine.submit(request) for engine in engines]
    for stream in streams:
        await anext(stream)
    print("busy")
    sys.exit(3)

asyncio.run(main())
"""


def test_the_interpreter_exits_cleanly_while_two_engines_are_busy(random_model_dir) -> None:
    command = [sys.executable, "-W", "ignore", "-c", UNCLOSED, str(random_model_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (3, "busy"), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
