"""No request that the API's own description allows, and none near one, makes it fail. Source: schemathesis."""

import contextlib

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

ENDLESS = ("/board/tail",)
EXAMPLES = 20


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_makes_the_server_fail(client, mode):
    api = str(client.base_url).rstrip("/") + "/api/v1"
    headers = {"Authorization": client.headers["Authorization"]}
    schema = schemathesis.openapi.from_url(f"{api}/openapi.json", headers=headers)
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith(ENDLESS):
            continue

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            if "wait" in (case.query or {}):
                case.query["wait"] = 0
            answer = case.call(base_url=api, headers=headers)
            assert answer.status_code < 500, (case.method, case.path, case.query, case.body, answer.text)
            tried.add((case.method, case.path))

        # Nothing wrong can be sent to an operation without parameters.
        with contextlib.suppress(Unsatisfiable):
            check()
    assert len(tried) >= (17 if mode is GenerationMode.POSITIVE else 10)
