"""No request that the server's own description allows, and none near one, makes it fail. Source: schemathesis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.serving.server.scripted import ScriptedEngine, operated

ENDING = "/admin/drain"
EXAMPLES = 20


@pytest.fixture
def url() -> Iterator[str]:
    with operated(ScriptedEngine()) as (address, _):
        yield address


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_makes_the_server_fail(url: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    answered: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == ENDING:
            continue

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            answer = case.call(base_url=url)
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)
            if answer.status_code >= 400 and "error" in answer.json():
                assert answer.json()["error"]["code"].startswith("AGS-")
            answered.setdefault(case.path, set()).add(answer.status_code)

        with contextlib.suppress(Unsatisfiable):  # nothing wrong can be sent to an operation without parameters
            check()
    posted = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
    assert posted <= set(answered)
    if mode is GenerationMode.NEGATIVE:
        assert all(400 in answered[path] for path in posted)
    else:
        assert {"/health", "/ready", "/metrics", "/v1/models"} <= set(answered)
