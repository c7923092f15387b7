"""P12: whatever goes wrong anywhere in a check, and however long it takes, the call is not made."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentsys import gateway as gateway_module
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import BOTTOM, OWNER, PUBLIC, Label
from agentsys.context import Context
from agentsys.errors import ConfigurationError
from agentsys.gateway import AllowCall, AskCall, Deny, Gateway, PolicyDenied
from agentsys.handles import NoValue
from agentsys.policy.documents import read_policy
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import ToolRegistry, tool

PACKAGE = Path(gateway_module.__file__).resolve().parent
CHECKING = ("gateway.py", "ruling.py", "paths.py", "policy", "labels.py", "handles.py")

POLICY = read_policy("""
links = ["good.example"]
[domains.people]
values = ["user:owner", "bob"]
[endorsers.person_known]
domain = "people"
[tools.send]
audience = ["argument:to"]
declassifies = true
limits = { run = 5 }
[tools.send.arguments]
to = { role = "target", endorsers = ["person_known"] }
text = { role = "payload", links = "defang" }
[tools.ask]
ask = "if-untrusted"
audience = []
""")


@tool(effect=EffectClass.IDEMPOTENT, source=Label(frozenset(), PUBLIC))
def send(to: str, text: str) -> str:
    return text


@tool(effect=EffectClass.IDEMPOTENT, source=Label(frozenset(), PUBLIC))
def ask(what: str) -> str:
    return what


class FailAt:
    """Raises at the line number ``at``, in order of execution, of the code that checks."""

    def __init__(self, at: int, error: Callable[[], BaseException] = lambda: RuntimeError("planted")) -> None:
        self.at = at
        self.lines = 0
        self.where = ""
        self._error = error

    def __enter__(self) -> FailAt:
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _enter(self, frame: types.FrameType, event: str, _: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        checks = PACKAGE in path.parents and (path.name in CHECKING or path.parent.name in CHECKING)
        return self._line if checks or path.name == "labels.py" else None

    def _line(self, frame: types.FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                raise self._error()
        return self._line


CALLS: list[tuple[str, dict[str, Any], Label, dict[str, Label]]] = [
    ("send", {"to": "bob", "text": "http://evil.example/x"}, Label.trusted(), {"text": Label(frozenset({"mail"}))}),
    ("send", {"to": "bob", "text": "x"}, Label(), {}),
    ("ask", {"what": "x"}, Label(), {}),
    ("nothing", {}, Label.trusted(), {}),
    ("send", {"to": "bob", "text": "x"}, BOTTOM, {"to": Label(frozenset({"mail"}), PUBLIC)}),
    ("send", {"to": "bob"}, Label.trusted(), {"to": Label().endorsed("person_known", 1.0, keeping=[OWNER])}),
]


@pytest.mark.parametrize("error", [RuntimeError, RecursionError, TimeoutError, MemoryError, KeyError])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}-{'-'.join(call[3])}")
def test_an_error_at_any_line_of_the_check_never_permits(call: Any, error: type[Exception]) -> None:
    name, arguments, control, labels = call
    gateway = Gateway(POLICY, ToolRegistry([send, ask]))
    at, never_denied = 0, []
    while True:
        at += 1
        with FailAt(at, error) as failing:
            try:
                decision: Any = gateway.decide(name, arguments, control=control, labels=labels)
            except Exception:
                # Only on the way in and out of the check itself.
                assert failing.where.startswith("Gateway.decide:")
                continue
        if failing.lines < at:
            assert at > 10 or name == "nothing"
            break
        if not isinstance(decision, Deny):
            never_denied.append(failing.where)
    assert never_denied == []


def test_a_check_that_swallows_errors_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Gateway._check_influence

    def swallowing(self: Gateway, proposal: Any) -> Any:
        try:
            return right(self, proposal)
        except Exception:
            return None

    monkeypatch.setattr(Gateway, "_check_influence", swallowing)
    with pytest.raises(AssertionError):
        test_an_error_at_any_line_of_the_check_never_permits(CALLS[4], RuntimeError)


@pytest.mark.parametrize("allowed", [True, False])
async def test_no_error_in_a_check_lets_a_call_of_a_run_through(allowed: bool) -> None:
    """A run is executed again and again, each time with an error at another line of whatever checks it."""
    for at in range(1, 2000, 7):
        made: list[str] = []
        failing = FailAt(at)
        await run_with(failing, made, trusted_call=allowed)
        if failing.lines < at:
            assert made == (["x"] if allowed else [])
            assert at > 60
            return
        assert made == [] or (allowed and not failing.where.startswith("Gateway.")), failing.where
    raise AssertionError("the run never ends")


async def run_with(failing: FailAt, made: list[str], *, trusted_call: bool) -> None:
    @tool(effect=EffectClass.IDEMPOTENT, source=Label(frozenset(), PUBLIC))
    def send(to: str, text: str) -> str:
        made.append(text)
        return text

    async def main(context: Context, _: Any) -> None:
        if not trusted_call:
            context.deliver(Label())
        with failing:
            await context.call_hidden("send", to="bob", text="x")

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[send], policy=POLICY)
        try:
            await runtime.run(main, run_id="r")
        except RuntimeError as error:
            assert "planted" in str(error)


def sleepy(name: str, arguments: Mapping[str, Any], label: Label) -> str | None:
    threading.Event().wait(0.2)
    return None


def cancelled(name: str, arguments: Mapping[str, Any], label: Label) -> str | None:
    raise ConfigurationError("x", remedy="y")


async def test_a_check_that_takes_too_long_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "CHECK_SECONDS", 0.02)
    gateway = Gateway(Policy(checks=(sleepy,)), ToolRegistry([ask]))
    decision = await gateway.judge("ask", {"what": "x"}, control=Label.trusted(OWNER, PUBLIC), labels={})
    assert decision == Deny("check-timed-out", "a check of the policy took more than 0.02 s")


async def test_a_check_that_fails_denies() -> None:
    gateway = Gateway(Policy(checks=(cancelled,)), ToolRegistry([ask]))
    decision = await gateway.judge("ask", {"what": "x"}, control=Label.trusted(OWNER, PUBLIC), labels={})
    assert isinstance(decision, Deny) and (decision.rule, decision.telling) == ("error-in-check", True)
    assert gateway_module.CHECK_SECONDS == 5.0


async def test_a_source_of_tools_that_cannot_be_had_denies() -> None:
    class Gone:
        prefix = "far/"

        def known(self) -> Mapping[str, Any]:
            return {}

        async def discover(self, name: str | None = None) -> None:
            raise ConfigurationError("the server is down", remedy="start it")

        async def close(self) -> None: ...

    registry = ToolRegistry([])
    registry.attach(Gone())
    decision = await Gateway(Policy(), registry).judge("far/x", {}, control=Label.trusted(), labels={})
    assert isinstance(decision, Deny) and decision.rule == "unavailable-tool"
    assert "the server is down" in decision.reason


def test_the_kinds_of_decision_do_not_mix() -> None:
    assert not issubclass(AskCall, AllowCall) and not issubclass(Deny, AllowCall)
    assert issubclass(PolicyDenied, Exception) and issubclass(NoValue, Exception)
