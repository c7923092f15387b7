"""Where a request's calls stand in their workflow: from body, headers and token, over a scripted model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from starlette.types import ASGIApp

from agentsys.protocols.edge import EdgeMiddleware
from agentsys.protocols.principals import Principals, digest_of
from agentsys.serving.client import ServingClient
from agentsys.serving.requests import GenerateRequest, WorkflowCall
from agentsys.serving.server.app import serving_app
from agentsys.serving.server.errors import OtherTenantError
from agentsys.serving.server.places import PlaceFields, PlaceHeaders, Places
from agentsys.serving.server.urgency import Urgencies
from agentsys.serving.torch_engine.engine import TorchEngine


@pytest.fixture
def places() -> Places:
    return Places(Urgencies(clock=lambda: 1000.0))


def test_a_call_of_which_nothing_is_known_has_no_place(places: Places) -> None:
    assert places.of(PlaceFields(), None) == (math.inf, None)
    assert places.of(PlaceFields(priority=5000), None) == (5.0, None)


def test_all_fields_come_to_the_place(places: Places) -> None:
    fields = PlaceFields(workflow="w", workflow_kind="travel", stage="plan", tenant="t", deadline=5)
    assert places.of(fields, None) == (1005.0, WorkflowCall("w", "travel", "plan", "t", 1005.0, 1000.0))
    again = places.of(PlaceFields(workflow="w", stage="book"), None)[1]
    assert again is not None and (again.deadline, again.arrived) == (1005.0, 1000.0)


def test_a_known_user_is_the_tenant_and_meets_nobody_elses_workflow(places: Places) -> None:
    ann = places.of(PlaceFields(workflow="w", deadline=5), "user:ann")[1]
    bob = places.of(PlaceFields(workflow="w"), "user:bob")[1]
    assert ann is not None and bob is not None
    assert (ann.tenant, bob.tenant, bob.deadline) == ("user:ann", "user:bob", math.inf)
    assert ann.workflow != bob.workflow
    with pytest.raises(OtherTenantError):
        places.of(PlaceFields(tenant="user:ann"), "user:bob")
    assert places.of(PlaceFields(tenant="user:bob"), "user:bob")[1] is not None


def test_a_priority_is_the_urgency_of_a_call_with_a_place_too(places: Places) -> None:
    for fields, user in ((PlaceFields(priority=5000), "user:ann"), (PlaceFields(priority=5000, stage="s"), None)):
        urgency, place = places.of(fields, user)
        assert place is not None and (urgency, place.urgency, place.deadline) == (5.0, 5.0, math.inf)
    place = places.of(PlaceFields(priority=2_000_000, deadline=5), None)[1]
    assert place is not None and (place.urgency, place.deadline) == (None, 1005.0), "the earlier of the two counts"


def test_headers_fill_what_the_body_leaves_out() -> None:
    headers = PlaceHeaders(x_agentsys_workflow="h", x_agentsys_stage="s", x_agentsys_deadline=3)
    assert headers.fill(PlaceFields(workflow="b")) == PlaceFields(workflow="b", stage="s", deadline=3)


@pytest.fixture
def seen(scripted_engine: TorchEngine) -> list[GenerateRequest]:
    """The requests that reach the engine."""
    requests: list[GenerateRequest] = []
    submit = scripted_engine.submit

    def noted(request: GenerateRequest) -> object:
        requests.append(request)
        return submit(request)

    scripted_engine.submit = noted  # type: ignore[method-assign, assignment]
    return requests


@pytest.fixture
def guarded(scripted_engine: TorchEngine, serve: Callable[[ASGIApp], str]) -> Iterator[str]:
    """The address of a server with two principals."""
    app = serving_app(ServingClient({"scripted": scripted_engine}, "scripted"))
    tokens = {"user:owner": digest_of("owner-token-1234"), "user:ann": digest_of("anns-token-12345")}
    yield serve(EdgeMiddleware(app, principals=Principals("user:owner", tokens))) + "/v1"


def test_the_official_client_says_it_in_headers_or_in_the_body(
    client: openai.OpenAI, seen: list[GenerateRequest]
) -> None:
    headers = {"X-Agentsys-Workflow": "w1", "X-Agentsys-Stage": "plan", "X-Agentsys-Deadline": "60"}
    body = {"workflow": "w1", "workflow_kind": "trip", "stage": "book"}
    for options in ({"extra_headers": headers}, {"extra_body": body}):
        client.completions.create(model="scripted", prompt="x", max_tokens=1, **options)
    first, second = (request.call for request in seen)
    assert first is not None and second is not None
    assert (first.workflow, first.stage) == ("w1", "plan")
    assert (second.kind, second.stage, second.deadline) == ("trip", "book", first.deadline)
    assert seen[0].urgency == first.deadline < math.inf


def test_a_bad_header_is_named(url: str) -> None:
    answer = httpx.post(f"{url}/completions", json={"prompt": "x"}, headers={"X-Agentsys-Deadline": "soon"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "AGS-0720")
    assert "deadline" in answer.json()["error"]["param"]


def test_the_tenant_is_who_has_the_token(guarded: str, seen: list[GenerateRequest]) -> None:
    with openai.OpenAI(base_url=guarded, api_key="anns-token-12345", max_retries=0) as ann:
        ann.completions.create(model="scripted", prompt="x", max_tokens=1)
        with pytest.raises(openai.PermissionDeniedError) as caught:
            ann.completions.create(model="scripted", prompt="x", max_tokens=1, extra_body={"tenant": "user:owner"})
    assert caught.value.code == "AGS-0729"
    assert [request.call.tenant for request in seen if request.call] == ["user:ann"]
