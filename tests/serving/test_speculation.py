"""Drafts may change the number of steps, never a token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.blackboard.labels import PUBLIC
from agentsys.serving.requests import Chunk, FinishReason, SamplingParams
from agentsys.serving.speculation.draft_length import Acceptance, VerifyCost, best_draft_length
from agentsys.serving.speculation.drafter import Draft, Drafter
from agentsys.serving.speculation.prompt_lookup import PromptLookupDrafter, PromptLookupSession
from agentsys.serving.text_stream import TextStream
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.active_request import ActiveRequest
from agentsys.serving.torch_engine.block_pool import domain_digest
from agentsys.serving.torch_engine.core import EngineCore, Speculation
from agentsys.serving.torch_engine.limits import SchedulerLimits
from agentsys.serving.torch_engine.sampling import Sampler
from agentsys.serving.torch_engine.sequence import SequenceState
from agentsys.serving.torch_engine.token_bias import TokenBias

PROMPTS = [[5, 6, 7, 5, 6, 7, 5], [40, 41], list(range(60, 83)), [9] * 12]


@dataclass
class RandomTokens:
    """The adversary: drafts that have nothing to do with the model."""

    chance: random.Random

    def session(self) -> RandomTokens:
        return self

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        return Draft([self.chance.randrange(3, 259) for _ in range(limit)], "random", 0.5)


@dataclass
class Oracle:
    """Drafts the model's own answer; ``wrong_at`` spoils one token of each draft."""

    runner: object
    wrong_at: int | None = None

    def session(self) -> Oracle:
        return self

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        history = list(tokens)
        for _ in range(limit):
            history.append(self.runner.next_token(history))
        draft = history[len(tokens) :]
        if self.wrong_at is not None and self.wrong_at < len(draft):
            draft[self.wrong_at] = (draft[self.wrong_at] + 1) % 259
        return Draft(draft, "oracle", 0.9)


class Bench:
    """Runs prompts through an :class:`EngineCore` and collects what each request got."""

    def __init__(
        self, runner, model_dir, drafter: Drafter | None, *, length: int = 8, max_batch: int = 4, budget: int = 48
    ):
        self.runner = runner
        self.tokenizer = ModelTokenizer(model_dir)
        limits = SchedulerLimits(
            runner.kv.num_blocks, runner.kv.block_size, runner.config.context_length, max_batch, budget
        )
        speculation = None if drafter is None else Speculation(drafter, length, None)
        self.core = EngineCore(runner, limits, speculation)
        self.chunks: dict[str, list[Chunk]] = {}

    def add(self, name: str, prompt: list[int], sampling: SamplingParams, urgency: float = 0.0) -> None:
        received = self.chunks.setdefault(name, [])
        sequence = SequenceState(
            name,
            list(prompt),
            len(prompt),
            len(prompt) + sampling.max_tokens,
            urgency,
            len(self.chunks),
            domain_digest(PUBLIC),
        )
        eos = frozenset() if sampling.ignore_eos else self.runner.config.eos_token_ids
        text = TextStream(self.tokenizer, sampling.stop)
        bias = TokenBias.of(sampling, ())
        self.core.add(ActiveRequest(sequence, Sampler.of(sampling, 1), text, eos, received.append, bias=bias))

    def run(self) -> None:
        while self.core.has_work:
            self.core.step()

    def tokens(self, name: str) -> list[int]:
        return [token for chunk in self.chunks[name] for token in chunk.token_ids]

    def text(self, name: str) -> str:
        return "".join(chunk.text for chunk in self.chunks[name])


def answers(runner, model_dir, drafter, sampling=None, length=8, **options) -> dict[str, tuple[list[int], str, object]]:
    bench = Bench(runner, model_dir, drafter, length=length, **options)
    for index, prompt in enumerate(PROMPTS):
        bench.add(str(index), prompt, sampling or SamplingParams(max_tokens=25), urgency=float(index % 2))
    bench.run()
    return {name: (bench.tokens(name), bench.text(name), bench.chunks[name][-1].finish_reason) for name in bench.chunks}


def drafter_of(kind: str, runner) -> Drafter:
    return {
        "random": lambda: RandomTokens(random.Random(3)),
        "oracle": lambda: Oracle(runner),
        "spoiled": lambda: Oracle(runner, wrong_at=2),
        "lookup": PromptLookupDrafter,
    }[kind]()


@pytest.mark.parametrize("kind", ["random", "oracle", "spoiled", "lookup"])
@pytest.mark.parametrize("length", range(9))
def test_greedy_tokens_equal_the_definition(kind, length, scripted_runner, tiny_model_dir) -> None:
    runner = scripted_runner(memory=2 if kind == "lookup" else None, eos_bias=1.0)
    got = answers(runner, tiny_model_dir, drafter_of(kind, runner), length=length)
    for index, prompt in enumerate(PROMPTS):
        assert got[str(index)][0] == runner.greedy(prompt, 25)


@pytest.mark.parametrize("kind", ["random", "oracle", "spoiled", "lookup"])
def test_tiny_kv_cache_forces_preemption_and_changes_nothing(
    kind, scripted_runner, scripted_blocks, tiny_model_dir
) -> None:
    runner = scripted_runner(kv=scripted_blocks(num_blocks=14), memory=2 if kind == "lookup" else None)
    bench = Bench(runner, tiny_model_dir, drafter_of(kind, runner), max_batch=2, budget=10)
    bench.add("slow", PROMPTS[2], SamplingParams(max_tokens=25), urgency=9.0)
    for _ in range(4):
        bench.core.step()
    bench.add("fast", [4, *PROMPTS[2]], SamplingParams(max_tokens=25), urgency=1.0)
    bench.run()
    assert bench.tokens("slow") == runner.greedy(PROMPTS[2], 25)
    assert bench.tokens("fast") == runner.greedy([4, *PROMPTS[2]], 25)
    assert bench.chunks["slow"][-1].usage.preemptions >= 1


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_tokens=3),
        SamplingParams(max_tokens=1),
        SamplingParams(max_tokens=30, temperature=0.8, seed=11),
        SamplingParams(max_tokens=30, temperature=1.3, top_p=0.7, seed=12),
        SamplingParams(max_tokens=30, ignore_eos=True),
        SamplingParams(max_tokens=30, frequency_penalty=0.3, presence_penalty=-0.5, logit_bias={0: -3.0, 70: 1.5}),
        SamplingParams(max_tokens=30, temperature=1.0, seed=13, frequency_penalty=1.5, presence_penalty=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["random", "oracle", "lookup"])
def test_every_way_to_end_and_to_sample_is_untouched_by_drafts(kind, sampling, scripted_runner, tiny_model_dir) -> None:
    runner = scripted_runner(memory=2, eos_bias=2.0)
    plain = answers(runner, tiny_model_dir, None, sampling)
    assert answers(runner, tiny_model_dir, drafter_of(kind, runner), sampling) == plain


def test_a_stop_string_inside_a_draft_ends_the_answer_there(scripted_runner, tiny_model_dir) -> None:
    runner = scripted_runner()
    plain = answers(runner, tiny_model_dir, None)["1"][1]
    stop = plain[7:9]
    sampling = SamplingParams(max_tokens=25, stop=(stop,))
    expected = answers(runner, tiny_model_dir, None, sampling)
    assert expected["1"][1] == plain[: plain.index(stop)]
    assert expected["1"][2] is FinishReason.STOP
    assert answers(runner, tiny_model_dir, Oracle(runner), sampling) == expected


def test_right_drafts_save_steps_and_are_counted(scripted_runner, tiny_model_dir) -> None:
    drafted = scripted_runner()
    bench = Bench(drafted, tiny_model_dir, Oracle(drafted), length=4)
    bench.add("a", PROMPTS[1], SamplingParams(max_tokens=25))
    bench.run()
    usage = bench.chunks["a"][-1].usage
    assert len(drafted.steps) == 5, "each step brings four drafted tokens and one more"
    assert (usage.accepted_tokens, usage.drafted_tokens, usage.completion_tokens) == (20, 20, 25)


def test_lookup_continues_the_latest_occurrence_of_the_longest_ngram() -> None:
    session = PromptLookupSession()
    draft = session.propose([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 3)
    assert draft is not None and list(draft.tokens) == [4, 9, 2] and draft.source == "lookup-3"
    draft = session.propose([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3, 77, 2, 3], 2)
    assert draft is not None and list(draft.tokens) == [77, 2] and draft.source == "lookup-2"


def test_lookup_repeats_a_short_period_to_the_full_length() -> None:
    draft = PromptLookupSession().propose([8, 1, 2, 1, 2, 1], 5)
    assert draft is not None and list(draft.tokens) == [2, 1, 2, 1, 2]


def test_lookup_has_nothing_to_say_about_new_tokens() -> None:
    assert PromptLookupSession().propose([1, 2, 3], 4) is None
    assert PromptLookupSession().propose([1], 4) is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 8))
def test_incremental_lookup_equals_a_fresh_one(tokens: list[int], limit: int) -> None:
    session = PromptLookupSession()
    for end in range(1, len(tokens) + 1):
        assert session.propose(tokens[:end], limit) == PromptLookupSession().propose(tokens[:end], limit)


def test_draft_length_follows_the_price() -> None:
    flat = VerifyCost((1, 32), (1.0, 1.01))
    steep = VerifyCost((1, 2), (1.0, 2.0))
    assert best_draft_length(flat, 0.9, rows=1, limit=8) == 8
    assert best_draft_length(steep, 0.9, rows=1, limit=8) == 0
    assert best_draft_length(flat, 0.01, rows=1, limit=8) == 0


def test_drafting_stops_past_the_knee_of_the_cost_curve() -> None:
    knee = VerifyCost((1, 8, 16), (1.0, 1.05, 2.05))
    assert best_draft_length(knee, 0.8, rows=1, limit=7) > 0
    assert best_draft_length(knee, 0.8, rows=12, limit=7) == 0


def test_measured_cost_never_falls_with_size_and_is_linear_between_points() -> None:
    readings = {1: iter([3.0, 2.0]), 2: iter([9.0, 8.0]), 4: iter([4.0, 5.0])}
    cost = VerifyCost.measure(lambda rows: next(readings[rows]), [1, 2, 4], repeats=2)
    assert [cost.of(rows) for rows in (1, 2, 3, 4)] == [2.0, 4.0, 4.0, 4.0]


def test_a_single_reading_is_the_price_of_everything() -> None:
    assert VerifyCost((1,), (2.0,)).of(9) == 2.0


def test_failed_drafts_lower_the_estimate_and_good_ones_raise_it() -> None:
    failing, working = Acceptance(0.5), Acceptance(0.5)
    for _ in range(20):
        failing.record(4, 0)
        working.record(4, 4)
    assert failing.rate < 0.1 < 0.9 < working.rate
