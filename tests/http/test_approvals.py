"""Approvals over HTTP: listed, approved once, refused; what the owner may not read is withheld."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from agentsys.approvals import Approval
from agentsys.blackboard.labels import NOBODY, OWNER, Label, Readers
from agentsys.policy.policy import Policy
from agentsys.protocols.http.approval_routes import APPROVAL
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool
from agentsys.views.approvals import approval_view
from agentsys.views.withholding import withhold


@pytest.fixture
def runtime(board: Any) -> Runtime:
    @tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
    def send(text: str) -> str:
        return f"sent {text}"

    async def forward(context: Any, text: Any) -> Any:
        return (await context.call("send", text=text)).value

    return Runtime(board, ScriptedModel(str), tools=[send], workflows=[forward], policy=Policy.of(asks=["send"]))


def until(client: httpx.Client, path: str, wanted: Any) -> Any:
    for _ in range(1000):
        found = client.get(f"/api/v1{path}").json()
        if wanted(found):
            return found
        time.sleep(0.01)
    raise AssertionError(found)


@pytest.mark.parametrize(("verdict", "status"), [("approve", "done"), ("reject", "failed")])
def test_a_person_decides_once(client: httpx.Client, verdict: str, status: str):
    run = client.post("/api/v1/runs", json={"workflow": "forward", "input": "hi"}).json()["run"]
    (asked,) = until(client, f"/approvals?status=pending&run={run}", bool)
    assert (asked["subject"], asked["arguments"], asked["withheld"]) == ("send", {"text": "hi"}, False)
    decided = client.post(f"/api/v1/approvals/{asked['id']}/{verdict}", json={"note": "so"})
    assert decided.status_code == 200 and decided.json()["decided_by"] == OWNER
    ended = until(client, f"/runs/{run}", lambda found: found["status"] != "running")
    assert ended["status"] == status
    again = client.post(f"/api/v1/approvals/{asked['id']}/approve", json={})
    assert again.status_code == 409 and again.json()["error"]["code"] == "AGS-0331"
    kinds = [event["type"] for event in client.get(f"/api/v1/runs/{run}/events").json()["events"]]
    assert {"approval_requested", "approval_decided"} <= set(kinds)


def test_an_unknown_approval_is_not_found(client: httpx.Client):
    assert client.get("/api/v1/approvals/none").status_code == 404
    assert client.post("/api/v1/approvals/none/approve", json={}).status_code == 404


def test_what_the_reader_may_not_read_is_withheld():
    secret = Label(frozenset({OWNER}), Readers.of("user:ann"))
    for kind in ("call", "question"):
        asked = Approval("a", "r", "g", kind, "SECRET" if kind == "question" else "send", "SECRET", "ask", "SECRET",
                         1.0, note="SECRET", answer="SECRET", label=secret)  # type: ignore[arg-type]  # fmt: skip
        view = approval_view(asked)
        assert b"SECRET" not in APPROVAL.dump_json(withhold(view, OWNER))
        assert b"SECRET" in APPROVAL.dump_json(withhold(view, "user:ann"))
