"""10,000 malformed policies, labels, approvals, tool results: a coded error or a denial, never a trace or an allow."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from agentsys import topics
from agentsys.approvals import Approval
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass, EffectState
from agentsys.blackboard.labels import OWNER, PUBLIC, Label
from agentsys.context import Context
from agentsys.errors import AgentsysError
from agentsys.gateway import AllowCall, Deny, Gateway
from agentsys.handles import NoValue
from agentsys.policy.documents import PolicyFault, read_policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import ToolRegistry, tool
from tests.ifc.world import POLICY

POLICIES, LABELS, APPROVALS, RESULTS = 4000, 4000, 1000, 1000

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, 1e-320, math.inf, -math.inf, math.nan),
    *(
        "",
        " ",
        "a",
        "*",
        "$1",
        "everyone",
        "argument:",
        "argument:to",
        "person",
        "\0",
        "\ud800",
        "\U0010ffff",
        "x" * 5000,
    ),
    *([], {}, [[]], [None], {"": None}, ["mail", 1], {"a": {"b": [1, {"c": None}]}}),
]


def damaged(value: Any, choices: random.Random) -> Any:
    """Return a copy of ``value`` with something wrong somewhere."""
    if isinstance(value, dict) and value and choices.random() < 0.85:
        key = choices.choice(list(value))
        match choices.randrange(4):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, str(choices.choice(ODD))[:20]: choices.choice(ODD)}
            case _:
                return {**value, key: damaged(value[key], choices)}
    if isinstance(value, list | tuple) and value and choices.random() < 0.7:
        place = choices.randrange(len(value))
        return [damaged(item, choices) if number == place else item for number, item in enumerate(value)]
    return choices.choice(ODD)


def toml(value: Any) -> str:
    """Return a value as TOML, as far as that can say it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case dict():
            return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(toml, value)) + "]"
        case None:
            return "nothing"
        case _:
            return repr(value)


def scrambled(text: str, choices: random.Random) -> str:
    """Return a text with characters lost, doubled or replaced."""
    for _ in range(choices.randrange(1, 6)):
        place = choices.randrange(len(text) or 1)
        text = (
            text[:place]
            + choices.choice(["", '"', "[", "=", "\n", "\0", "9" * 5000, "é", "\ud800"])
            + text[place + 1 :]
        )
    return text


def is_coded(error: BaseException) -> bool:
    """Whether an error is one that people are meant to see."""
    return isinstance(error, AgentsysError) and error.code.startswith("AGS-") and bool(error.remedy)


@dataclass
class Fuzzed:
    """How malformed inputs ended, and those that ended wrongly."""

    refused: int = 0
    taken: int = 0
    wrong: list[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.wrong = []

    def add(self, what: object, outcome: object) -> None:
        if isinstance(outcome, AgentsysError) and is_coded(outcome):
            self.refused += 1
        elif isinstance(outcome, BaseException):
            self.wrong.append(f"{what!r:.300} → {type(outcome).__name__}: {outcome!s:.200}")
        else:
            self.taken += 1


def attempt(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        return error


@tool(effect=EffectClass.IRREVERSIBLE, source=Label(frozenset(), PUBLIC))
def send(to: str, text: str) -> str:
    return "sent"


STRANGER = Label(frozenset({"nobody the policy names"}), PUBLIC)


def policies(count: int) -> Iterator[str]:
    import tomllib

    document, choices = tomllib.loads(POLICY), random.Random(1)
    for number in range(count):
        if number % 4 == 0:
            yield scrambled(POLICY, choices)
        else:
            damage = document
            for _ in range(choices.randrange(1, 4)):
                damage = damaged(damage, choices)
            body = damage if isinstance(damage, dict) else {"x": damage}
            yield "\n".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in body.items())


def test_malformed_policies_are_refused_or_deny_strangers() -> None:
    fuzzed = Fuzzed()
    for text in policies(POLICIES):
        read = attempt(lambda text=text: read_policy(text))  # type: ignore[misc]
        fuzzed.add(text, read)
        if isinstance(read, PolicyFault):
            assert "Traceback" not in str(read)
        elif not isinstance(read, BaseException):
            fuzzed.add(text, attempt(lambda read=read: read.version))  # type: ignore[misc]
            for by in read.endorsers.values():
                fuzzed.add(text, attempt(lambda by=by: by.bits(("a",))))  # type: ignore[misc]
            arguments = {"to": "eve", "text": "x"}
            decision = Gateway(read, ToolRegistry([send])).decide("send", arguments, control=STRANGER, labels={})
            consequential = read.rule("send").consequential is not False
            if isinstance(decision, AllowCall) and consequential:
                fuzzed.wrong.append(f"{text!r:.300} lets strangers send")
    assert fuzzed.wrong == []
    assert fuzzed.refused > POLICIES / 4 and fuzzed.taken > POLICIES / 10


def test_malformed_labels_are_refused_and_never_come_out_lower() -> None:
    choices, refused = random.Random(2), 0
    whole = Label(frozenset({"mail", "web"}), PUBLIC, 3.0).endorsed("contact", 2.0, keeping=["web"]).to_json()
    for _ in range(LABELS):
        data = damaged(whole, choices)
        made = attempt(lambda data=data: Label.from_json(data))  # type: ignore[misc]
        if isinstance(made, Label):
            assert made.to_json() == {**data, "capacity": None if made.capacity == math.inf else data["capacity"]} or (
                set(made.to_json().get("endorsements", ())) == set()
            )
            decision = Gateway(read_policy(POLICY), ToolRegistry([send])).decide(
                "send", {"to": "eve", "text": "x"}, control=made.join(STRANGER), labels={}
            )
            assert isinstance(decision, Deny)
        else:
            assert type(made) is ValueError, f"{data!r:.200} → {made!r:.200}"
            refused += 1
    assert refused > LABELS / 4


class Lazy:
    """Fails when somebody looks."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __iter__(self) -> Any:
        raise self._error

    def __getattr__(self, name: str) -> Any:
        raise self._error

    def __repr__(self) -> str:
        raise self._error

    def __eq__(self, other: object) -> bool:
        raise self._error

    __hash__ = object.__hash__


def _generator() -> Iterator[int]:
    yield 1
    raise ZeroDivisionError


def deep(depth: int) -> Any:
    value: Any = "bottom"
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    return value


def cyclic() -> Any:
    value: dict[str, Any] = {}
    value["itself"] = [value]
    return value


def results(count: int) -> Iterator[Any]:
    choices = random.Random(3)
    whole = {"items": [{"id": 1, "sender": "a", "body": "b"}, {"id": 2, "sender": None, "body": ["c"]}]}
    # Not math.nan alone: JSON has neither it nor what cannot be told from it.
    makers: list[Callable[[], Any]] = [
        lambda: deep(choices.choice([10, 63, 64, 65, 500, 5000])),
        cyclic,
        lambda: Lazy(choices.choice([ValueError("x"), RuntimeError("x"), AttributeError("x"), RecursionError("x")])),
        _generator,
        lambda: object(),
        lambda: {1, "a", None},
        lambda: {("a", 1): 2},
        lambda: b"\xff\xfe",
        lambda: "x" * choices.choice([10, 10**5]),
        lambda: list(range(choices.choice([10, 5_000]))),
        lambda: 1 + 2j,
        lambda: Label,
        lambda: asyncio.sleep,
        lambda: {"a": Lazy(ValueError("x"))},
        lambda: [Label(), STRANGER],
    ]
    for number in range(count):
        yield damaged(whole, choices) if number % 2 else choices.choice(makers)()


def test_malformed_results_of_tools_are_failures_or_values_of_strangers() -> None:
    waiting = list(results(RESULTS))

    @tool(effect=EffectClass.IDEMPOTENT)
    def read() -> Any:
        return waiting.pop()

    async def main(context: Context, _: Any) -> list[Any]:
        wrong: list[Any] = []
        while waiting:
            try:
                handle = await context.call_hidden("read")
                assert handle.label.influencers > {"external"} - {OWNER}
                part = handle["items"][0]["sender"]
                assert "external" in part.label.influencers
                if len(waiting) % 4 == 0:
                    await context.endorse(part, "contact")
                    await context.endorse(handle, "amount")
                context.visible(handle)
            except AgentsysError as error:
                if not is_coded(error):
                    wrong.append(repr(error))
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
        return wrong

    policy = read_policy(
        POLICY.replace("budget_bits = 24", "budget_bits = 1e9") + "[tools.read]\naudience = []\nconsequential = false\n"
    )
    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[read], policy=policy)
        result = asyncio.run(runtime.run(main))
        assert result.status == "done", result.failure
        assert result.value == []
        states = {effect.state for effect in board.effects()}
        assert states <= {EffectState.SUCCEEDED, EffectState.FAILED, EffectState.IN_DOUBT}
        assert len(board.effects()) == RESULTS
        assert board.verify() == board.head


@tool(effect=EffectClass.IRREVERSIBLE, source=Label(frozenset(), PUBLIC))
def act(what: str) -> str:
    return "done"


def test_malformed_approvals_allow_nothing() -> None:
    choices = random.Random(4)

    async def main(context: Context, _: Any) -> None:
        await context.call("act", what="x")

    async def ask() -> None:
        policy = read_policy('[tools.act]\nask = "always"\naudience = []')
        with Board.open(":memory:") as board:
            runtime = Runtime(board, ScriptedModel(str), tools=[act], policy=policy)
            running = asyncio.ensure_future(runtime.run(main, run_id="r"))
            while not runtime.approvals("pending"):
                await asyncio.sleep(0.01)
            (asked,) = runtime.approvals("pending")
            entry = board.get(topics.APPROVALS, asked.id)
            assert entry is not None
            fuzzed = Fuzzed()
            for number in range(APPROVALS):
                body = damaged(entry.value, choices)
                transaction = board.begin("vandal")
                written = attempt(
                    lambda body=body, transaction=transaction, number=number: transaction.put(  # type: ignore[misc]
                        topics.APPROVALS, f"fuzz{number}", body, type="approval", label=entry.label
                    )
                )
                if isinstance(written, BaseException):
                    fuzzed.add(body, written)
                    continue
                board.commit(transaction)
                try:
                    await runtime.decide(f"fuzz{number}", "approve")
                    fuzzed.taken += 1
                except Exception as error:
                    fuzzed.add(body, error)
            assert fuzzed.wrong == []
            assert all(effect.id != asked.id for effect in board.effects()), "the waiting call was let through"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(ask())


def test_the_fuzzing_notices_a_trace() -> None:
    fuzzed = Fuzzed()
    fuzzed.add("x", ZeroDivisionError("x"))
    fuzzed.add("x", PolicyFault("x"))
    fuzzed.add("x", NoValue("x", STRANGER))
    assert (len(fuzzed.wrong), fuzzed.refused) == (1, 2)
    assert POLICIES + LABELS + APPROVALS + RESULTS == 10_000
    assert Approval is not None
