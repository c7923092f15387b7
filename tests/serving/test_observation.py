"""What a serving client keeps of its requests, with a clock of the test's own and with the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agentsys.errors import ServingError
from agentsys.serving.client import ServingClient
from agentsys.serving.engine import EngineStats, QueuedRequest
from agentsys.serving.observation import BUCKETS, KEPT_REQUESTS, ModelRecord
from agentsys.serving.requests import Chunk, FinishReason, GenerateRequest, SamplingParams, Timings, Usage
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine

SECRET = "a secret prompt"
END = Chunk("", (), FinishReason.STOP, Usage(3, 0, 4, 2, 1), Timings(queued=0.2, first_token=0.5, total=1.0))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def record(clock) -> ModelRecord:
    return ModelRecord(clock, clock)


def view(record, queue=None):
    return record.view(EngineStats(), queue)


def answer(record, clock, *gaps, **options):
    """Answer one request, whose pieces of one token each come so many seconds apart."""
    observed = record.begin(GenerateRequest(SECRET, **options))
    for gap in gaps:
        clock.now += gap
        observed.note(Chunk("x", (1,)))
    observed.note(replace(END, usage=replace(END.usage, completion_tokens=len(gaps))))
    observed.end(failed=False)


def test_latencies_are_counted_and_ranked(record, clock):
    answer(record, clock, 0.5, 0.01, 0.01, 0.03)
    answer(record, clock, 1.5)
    seen = view(record)
    assert (seen.first_token.p50, seen.first_token.p95, seen.first_token.count) == (0.5, 1.5, 2)
    assert seen.inter_token.p50 == pytest.approx(0.01) and seen.inter_token.p95 == pytest.approx(0.03)
    assert seen.inter_token.count == 3 and seen.inter_token.sum == pytest.approx(0.05)
    assert seen.queued.p50 == 0.2
    assert sum(seen.first_token.buckets) == 2 and seen.first_token.buckets[BUCKETS.index(0.5)] == 1
    assert view(ModelRecord()).queued.p50 is None


def test_a_piece_of_several_tokens_shares_its_gap(record, clock):
    observed = record.begin(GenerateRequest(SECRET))
    observed.note(Chunk("x", (1,)))
    clock.now += 0.4
    observed.note(Chunk("abcd", (1, 2, 3, 4)))
    assert view(record).inter_token.p50 == pytest.approx(0.1)
    assert view(record).inter_token.count == 4


def test_tokens_that_a_server_tells_at_the_end_are_counted_without_a_gap(record):
    observed = record.begin(GenerateRequest(SECRET))
    observed.note(Chunk("ab"))
    observed.note(END)
    observed.end(failed=False)
    seen = view(record)
    assert (seen.recent[0].tokens, seen.tokens_per_second[-1], seen.inter_token.count) == (4, 4, 0)


def test_throughput_is_by_second_and_ends_now(record, clock):
    answer(record, clock, 0.0, 0.0, 1.0)
    clock.now += 2
    assert view(record).tokens_per_second[-4:] == (2, 1, 0, 0)


def test_phases_follow_the_answer_and_the_queue(record, clock):
    late = record.begin(GenerateRequest(SECRET, urgency=9.0, request_id="late", tags={"run": "r"}))
    soon = record.begin(GenerateRequest(SECRET, urgency=5.0, request_id="soon"))
    late.note(Chunk("x", (1,)))
    guessed = view(record)
    assert not guessed.queue_known
    assert [(one.request_id, one.phase) for one in guessed.requests] == [("soon", "waiting"), ("late", "decode")]
    told = view(record, [QueuedRequest("soon", 99.0, "paused", Usage(completion_tokens=7))])
    assert told.queue_known
    assert [(one.request_id, one.phase, one.tokens) for one in told.requests] == [
        ("late", "decode", 1),
        ("soon", "paused", 7),
    ]
    record.rekey("late", 1.0)
    soon.end(failed=True)
    assert [(one.urgency, dict(one.tags)) for one in view(record).requests] == [(1.0, {"run": "r"})]
    late.end(failed=False)
    assert [one.phase for one in view(record).recent] == ["aborted", "failed"]


def test_memory_is_bounded_and_no_text_is_kept(record, clock):
    for _ in range(KEPT_REQUESTS + 5):
        answer(record, clock, 0.1)
    seen = view(record)
    assert len(seen.recent) == KEPT_REQUESTS and seen.first_token.count == KEPT_REQUESTS + 5
    assert SECRET not in repr(seen)


async def test_the_engine_tells_its_queue_in_order_of_urgency(scripted_runner, tiny_model_dir):
    engine = TorchEngine(scripted_runner(), ModelTokenizer(tiny_model_dir), name="scripted", max_batch=1)
    client = ServingClient({"a": engine}, "a")
    sampling = SamplingParams(max_tokens=120, ignore_eos=True)
    asked = [GenerateRequest([5, 6, 7], sampling, urgency=urgency, request_id=f"{urgency}") for urgency in (3.0, 2.0)]
    await client.engine()
    tasks = [asyncio.create_task(client.generate(request)) for request in asked]
    seen = None
    while not all(task.done() for task in tasks):
        now = client.observe()["a"]
        if {one.phase for one in now.requests} & {"waiting", "paused"}:
            seen = now
        await asyncio.sleep(0)
    assert seen is not None and seen.queue_known
    assert [one.request_id for one in seen.requests] == ["2.0", "3.0"]
    assert seen.stats.slots == 1
    ended = client.observe()["a"]
    assert ended.requests == () and {one.tokens for one in ended.recent} == {120}
    assert {one.phase for one in ended.recent} == {"length"}
    assert sum(ended.tokens_per_second) == ended.stats.generated_tokens == 240
    await client.close()


async def test_a_reader_that_leaves_aborts_and_an_error_fails(make_failing, scripted_runner, tiny_model_dir):
    engine = TorchEngine(scripted_runner(), ModelTokenizer(tiny_model_dir), name="scripted")
    client = ServingClient({"a": engine, "b": make_failing}, "a")
    stream = client.stream(GenerateRequest([5, 6, 7], SamplingParams(max_tokens=200, ignore_eos=True)))
    await anext(stream)
    await stream.aclose()
    with pytest.raises(ServingError):
        await client.generate(GenerateRequest([5]), model="b")
    seen = client.observe()
    assert seen["a"].recent[0].phase == "aborted" and seen["b"].recent[0].phase == "failed"
    await client.close()


@pytest.fixture
def make_failing(scripted_runner, tiny_model_dir):
    class Failing(TorchEngine):
        async def submit(self, request: GenerateRequest) -> AsyncIterator[Chunk]:
            raise ServingError("no")
            yield

    return Failing(scripted_runner(), ModelTokenizer(tiny_model_dir), name="failing")
