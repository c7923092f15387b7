"""κ from what a request says, and whose cached prefixes it shares."""

from __future__ import annotations

import math

import openai

from agentsys.serving.server.urgency import Urgencies


class Known:
    """Urgencies at a standing clock, asked for κ alone."""

    def __init__(self, now: float = 1000.0) -> None:
        self._urgencies = Urgencies(clock=lambda: now)

    def of(self, *, deadline: float | None, priority: int | None, workflow: str | None) -> float:
        return self._urgencies.horizon(deadline=deadline, workflow=workflow).urgency(priority)


def test_a_deadline_counts_from_now_and_none_is_no_hurry() -> None:
    assert Known().of(deadline=5.0, priority=None, workflow=None) == 1005.0
    assert Known().of(deadline=None, priority=None, workflow=None) == math.inf


def test_a_smaller_priority_goes_first_and_the_earlier_of_both_counts() -> None:
    known = Known()
    order = [known.of(deadline=None, priority=priority, workflow=None) for priority in (-3, 0, 4, 2**53)]
    assert order == sorted(order) and order[-1] < math.inf
    assert known.of(deadline=5.0, priority=7, workflow=None) == 0.007
    assert known.of(deadline=5.0, priority=2**53, workflow=None) == 1005.0


def test_the_requests_of_a_workflow_share_its_deadline() -> None:
    known = Known()
    assert known.of(deadline=None, priority=None, workflow="w") == math.inf
    assert known.of(deadline=9.0, priority=None, workflow="w") == 1009.0
    assert known.of(deadline=None, priority=None, workflow="w") == 1009.0
    assert known.of(deadline=None, priority=None, workflow="other") == math.inf


def test_only_the_latest_workflows_are_remembered() -> None:
    known = Known()
    for number in range(5000):
        known.of(deadline=1.0, priority=None, workflow=str(number))
    assert known.of(deadline=None, priority=None, workflow="0") == math.inf
    assert known.of(deadline=None, priority=None, workflow="4999") == 1001.0


def test_prefixes_are_shared_within_a_salt_only(client: openai.OpenAI) -> None:
    cached = []
    for salt in (None, "a", "a", None):
        extra = {"cache_salt": salt} if salt else {}
        answer = client.completions.create(model="scripted", prompt="x" * 64, max_tokens=1, extra_body=extra)
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == cached[1] == 0 < cached[2] == cached[3]
