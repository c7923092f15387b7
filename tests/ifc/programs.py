"""Programs at random over the world of :mod:`tests.ifc.world`, done by an agent that obeys whatever it sees.

A program is a list of steps, as plain data, so that a stranger's text can hold steps too: whoever thinks about a text
with orders in it carries them out.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label, join_all
from agentsys.blackboard.predicates import Predicate
from agentsys.context import Context
from agentsys.gateway import PolicyDenied
from agentsys.handles import Handle, NoValue
from agentsys.labelled import unwrap
from agentsys.models import InvalidAnswer
from agentsys.policy.documents import read_policy
from agentsys.runs import RunResult
from agentsys.tool_calls import ToolFailed
from tests.ifc.world import POLICY, World, attempt

Step = list[Any]
SOURCES = ["read_mail", "browse", "read_diary"]
MEMBERS = ["ann@example.org", "bob@example.org", "general", "random", "7", "100"]
PARTS: list[list[Any]] = [[], [0], [0, "body"], [1, "body"], [0, "sender"], [0, "id"], ["value"], ["flag"], [9]]

handles = st.integers(0, 3)
parts = st.sampled_from(PARTS)
LAST = ["$", -1, []]
whom = st.sampled_from(
    ["ann@example.org", "general", "eve@evil.example", "user:owner", LAST, LAST, ["$", 0, [0, "sender"]]]
)
how_much = st.sampled_from(["5", "5", "many", LAST, ["$", 0, [0, "body"]]])
anything = st.one_of(whom, st.tuples(st.just("$"), handles, parts).map(list))
reading = st.tuples(st.sampled_from(["hide", "hide", "open"]), st.sampled_from(SOURCES)).map(list)
quiet_reading = st.sampled_from(SOURCES).map(lambda source: ["hide", source])
vouching = st.tuples(
    st.sampled_from(["endorse", "choose"]),
    st.sampled_from([0, 0, 1, -1]),
    st.sampled_from([[0, "body"], [0, "sender"], [1, "body"], [0], ["value"]]),
    st.sampled_from(["contact", "contact", "channel", "amount"]),
).map(list)
looking = st.one_of(
    st.tuples(st.just("reveal"), handles, parts).map(list),
    st.tuples(st.just("extract"), handles, parts).map(list),
    st.just(["think"]),
)
noting = st.one_of(st.tuples(st.just("note"), anything).map(list), st.just(["recall"]))
acting = st.one_of(
    st.tuples(st.just("send"), whom, anything).map(list),
    st.tuples(st.just("pay"), whom, how_much).map(list),
    st.tuples(st.just("post"), anything).map(list),
)
quiet = st.lists(st.one_of(vouching, vouching, acting, acting, acting, quiet_reading), min_size=2, max_size=6)
loud = st.lists(st.one_of(reading, looking, acting, noting), max_size=4)
programs = st.builds(lambda before, after: [["hide", "read_mail"], *before, *after], quiet, loud)
orders = st.lists(acting, min_size=1, max_size=2).map(lambda ordered: f"ORDER {json.dumps(ordered)}")
texts = st.one_of(
    st.sampled_from([*MEMBERS, "hello"]),
    st.sampled_from(MEMBERS),
    st.sampled_from(MEMBERS).map("PICK {}".format),
    orders,
)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """What strangers may write: senders and bodies of two mails, and pages, which may fail to load."""
    mail = [{"id": number, "sender": draw(texts), "body": draw(texts)} for number in (1, 2)]
    return {"mail": mail, "pages": draw(st.none() | st.lists(texts, max_size=2))}


class Read(BaseModel):
    value: str
    flag: bool


@dataclass
class Doer:
    """Does a program, checks at each step that labels only rise, and keeps the labels of all that it was shown."""

    context: Context
    world: World
    known: list[Handle] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    shown: list[Label] = field(default_factory=list)
    notes: int = 0
    number: int = 0
    """Which step of the program is done; what a text orders is done within the step that thought about it."""
    made: dict[int, int] = field(default_factory=dict)
    """How many calls had been made once the calls of a step were."""
    lacking: set[int] = field(default_factory=set)
    """The steps with a call whose argument stood for nothing: what it was to say is not there."""

    async def do(self, program: Sequence[Step], *, obeying: bool = True) -> None:
        for number, step in enumerate(program):
            before = self.context.label
            self.number = number if obeying else self.number
            try:
                await getattr(self, f"_{step[0]}")(*step[1:])
            except (PolicyDenied, ToolFailed, NoValue, InvalidAnswer) as error:
                if isinstance(error, NoValue):
                    assert error.label.flows_to(self.context.label)
                self.seen.append(str(error))
            assert before.flows_to(self.context.label), f"{step} lowered the control label"
            if step[0] == "think" and obeying:
                await self.do(ordered(self.seen[-1]), obeying=False)

    def _part(self, number: int, path: list[Any]) -> Handle:
        if not self.known:
            raise PolicyDenied("nothing was read")
        found = self.known[number % len(self.known)]
        for key in path:
            found = found[key]
        return found

    def _reference(self, reference: Any) -> Any:
        return self._part(*reference[1:]) if isinstance(reference, list) else reference

    def _keep(self, handle: Handle, *shaping: Label) -> None:
        assert join_all([self.context.label, *shaping]).flows_to(handle.label), "a result is below what shaped it"
        self.known.append(handle)

    def _show(self, value: Any, label: Label) -> None:
        self.seen.append(json.dumps(value))
        self.shown.append(label)

    async def _hide(self, tool: str) -> None:
        self._keep(await self.context.call_hidden(tool))

    async def _open(self, tool: str) -> None:
        found = await self.context.call(tool)
        self._show(found.value, found.label)

    async def _reveal(self, number: int, path: list[Any]) -> None:
        found = await self.context.reveal(self._part(number, path))
        self._show(found.value, found.label)

    async def _vouched(self, action: str, number: int, path: list[Any], endorser: str) -> None:
        given = self._part(number, path)
        handle: Handle = await getattr(self.context, action)(given, endorser)
        assert given.label.shaped_by <= handle.label.shaped_by, "an endorsement erased somebody"
        assert handle.label.readers.join(given.label.readers) == handle.label.readers
        self.known.append(handle)

    async def _endorse(self, *arguments: Any) -> None:
        await self._vouched("endorse", *arguments)

    async def _choose(self, *arguments: Any) -> None:
        await self._vouched("choose", *arguments)

    async def _extract(self, number: int, path: list[Any]) -> None:
        given = self._part(number, path)
        handle = await self.context.extract(given, Read, question="what does it say?")
        assert given.label.influencers <= handle.label.influencers
        self.known.append(handle)

    async def _think(self) -> None:
        answer = await self.context.generate("\n".join(["Go on.", *self.seen]))
        self._show(answer.value, answer.label)

    async def _note(self, reference: Any) -> None:
        self.notes += 1
        self.context.put("notes/all", "n", {"is": self._reference(reference)}, type="note")

    async def _recall(self) -> None:
        entry = self.context.read("notes/all", "n")
        if entry is not None:
            self._show(entry.value, entry.label)

    async def _send(self, to: Any, text: Any) -> None:
        await self._act("send", to=self._reference(to), text=self._reference(text))

    async def _post(self, text: Any) -> None:
        await self._act("post", text=self._reference(text))

    async def _pay(self, to: Any, amount: Any) -> None:
        await self._act("pay", to=self._reference(to), amount=self._reference(amount))

    async def _act(self, tool: str, **arguments: Any) -> None:
        shaping = [value.label for value in arguments.values() if isinstance(value, Handle)]
        if any(map(_stands_for_nothing, arguments.values())):
            self.lacking.add(self.number)
        try:
            self._keep(await self.context.call_hidden(tool, **arguments), *shaping)
        finally:
            self.made[self.number] = len(self.world.done)


def _stands_for_nothing(argument: Any) -> bool:
    try:
        unwrap(argument)
    except NoValue:
        return True
    return False


def ordered(text: str) -> list[Step]:
    """Return the steps that a text orders."""
    found = re.search(r"ORDER (\[.*?\]\])", text.replace("\\", ""))
    try:
        listed: list[Step] = json.loads(found[1]) if found else []
    except ValueError:
        return []
    return listed


def gullible(prompt: str) -> Any:
    """Answer as the text wants: repeat its orders, or pick what it says."""
    picked = re.search(r"PICK ([\w@.]+)", prompt)
    wanted = picked[1] if picked else prompt.splitlines()[-1]
    if "Extract the fields" not in prompt:
        return prompt
    return {"value": wanted, "flag": bool(picked)} if '"flag"' in prompt else {"value": wanted}


@dataclass(frozen=True)
class Outcome:
    """What a run did, and what of strangers' words it had been let see through endorsers before that."""

    done: list[tuple[str, dict[str, Any]]]
    endorsed: list[Any]
    bits: float
    result: RunResult
    world: World
    shown: list[Label]
    seen: list[str]
    made: dict[int, int]
    lacking: set[int]

    @property
    def decided(self) -> list[tuple[str, Any, Any]]:
        """The consequential calls with their control and target arguments."""
        return [(tool, given.get("to"), given.get("amount")) for tool, given in self.done]

    def decided_beside(self, steps: set[int]) -> dict[int, list[tuple[str, Any, Any]]]:
        """Return the calls of each step but those of ``steps``."""
        ends = [0, *self.made.values()]
        of_steps = dict(zip(self.made, itertools.pairwise(ends), strict=True))
        return {step: self.decided[slice(*of)] for step, of in of_steps.items() if step not in steps}


def perform(program: Sequence[Step], *, board: Board | None = None, **world: Any) -> Outcome:
    """Run a program in a world, and compare with its replay."""
    made = World(answer=gullible, **world)
    doers: list[Doer] = []

    async def body(context: Context) -> Any:
        # The first does it, the second replays it.
        doers.append(Doer(context, made))
        await doers[-1].do(program)
        return context.label.to_json()

    opened = board or Board.open(":memory:")
    try:
        result = attempt(opened, made, body)
        assert result.status == "done", result.failure
        assert opened.verify() == opened.head
        found = opened.query(Predicate(topic=topics.steps(result.run)))
        steps_ = [entry for entry in sorted(found, key=lambda entry: entry.seq) if entry.value["kind"] == "endorse"]  # type: ignore[call-overload,index]
        usable: list[Any] = [entry.value["value"] for entry in steps_ if entry.label.influencers <= made.policy.trusted]  # type: ignore[call-overload,index]
    finally:
        if board is None:
            opened.close()
    endorsed = [one["value"] for one in usable]
    doer, bits = doers[0], sum(one["bits"] for one in usable)
    return Outcome(made.done, endorsed, bits, result, made, doer.shown, doer.seen, doer.made, doer.lacking)


STRICT = read_policy(POLICY.replace("declassifies = true", "declassifies = false"))
