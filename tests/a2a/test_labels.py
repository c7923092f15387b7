"""A peer's word about labels only lowers trust, and hostile answers end in typed errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from a2a.types.a2a_pb2 import Artifact, Part, StreamResponse, Task, TaskArtifactUpdateEvent, TaskState, TaskStatus
from hypothesis import given
from hypothesis import strategies as st

from agentsys.blackboard.labels import Label, Readers
from agentsys.egress import EgressDenied, EgressGuard, ResponseTooLarge, host_of
from agentsys.policy.policy import Policy
from agentsys.protocols.a2a import answers
from agentsys.protocols.a2a.answers import AnswerBuilder, AnswerTooLarge
from agentsys.protocols.a2a.errors import A2AError
from agentsys.protocols.a2a.labels import FLOW_EXTENSION, flow_metadata, label_from_peer
from agentsys.protocols.a2a.parts import parts_of, value_of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.lists(st.text()))
def test_no_metadata_raises_trust(garbage: Any, names: list[str]) -> None:
    base = label_from_peer("eve", "user:owner", {})
    claims: list[dict[str, Any]] = [
        {FLOW_EXTENSION: garbage},
        {FLOW_EXTENSION: {"integrity": "trusted", "readers": None, "provenance": garbage}},
        {FLOW_EXTENSION: {"provenance": [{"principal": name} for name in names]}},
    ]
    for metadata in claims:
        label = label_from_peer("eve", "user:owner", metadata)
        assert base.flows_to(label)
        assert not Policy().trusts(label)


@given(JSON)
def test_values_survive_the_wire(value: Any) -> None:
    assert value_of(parts_of(value)) == value


def test_the_metadata_names_no_readers() -> None:
    label = Label(frozenset({"file:a.csv"}), Readers.of("user:owner", "user:auditor"))
    assert "auditor" not in str(flow_metadata(label, Policy()))


def test_an_endless_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 1000)
    builder = AnswerBuilder()
    piece = TaskArtifactUpdateEvent(
        task_id="1", artifact=Artifact(artifact_id="a", parts=[Part(text="x" * 300)]), append=True
    )
    with pytest.raises(AnswerTooLarge):
        for _ in range(4):
            builder.add(StreamResponse(artifact_update=piece))


def test_an_answer_of_links_is_an_error() -> None:
    builder = AnswerBuilder()
    done = TaskStatus(state=TaskState.TASK_STATE_COMPLETED)
    link = Artifact(artifact_id="a", parts=[Part(url="http://169.254.169.254/")])
    builder.add(StreamResponse(task=Task(id="1", status=done, artifacts=[link])))
    with pytest.raises(A2AError, match="url"):
        builder.answer()


async def test_a_redirect_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = EgressGuard(["127.0.0.1:1"])

    async def moved(self: object, request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "http://127.0.0.1:2/"}, request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", moved)
    async with httpx.AsyncClient(transport=guard, follow_redirects=True) as client:
        with pytest.raises(EgressDenied, match=r"127\.0\.0\.1:2"):
            await client.get("http://127.0.0.1:1/")


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}])
async def test_an_endless_response_is_cut_off(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    guard = EgressGuard(["127.0.0.1:1"])

    async def flood() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * (1 << 20)

    async def answer(self: object, request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(200, headers=headers, content=flood(), request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", answer)
    async with httpx.AsyncClient(transport=guard) as client:
        with pytest.raises(ResponseTooLarge):
            await client.get("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.example/x", "a.example"),
        ("https://a.example:443", "a.example"),
        ("http://a.example:443", "a.example:443"),
        ("http://[::1]:80/", "[::1]"),
        ("https://user:secret@a.example:8443", "a.example:8443"),
    ],
)
def test_hosts(url: str, host: str) -> None:
    assert host_of(url) == host
