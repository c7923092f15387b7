"""The world of the attacks: a mailbox that strangers fill, money, files and messages behind tools, and a runtime."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from agentsys.agents import Agent
from agentsys.benchmarks.ifc.attacks.gullible import Gullible, instructions
from agentsys.benchmarks.ifc.attacks.world import World
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label
from agentsys.context import Context
from agentsys.errors import LabelError
from agentsys.policy.documents import read_policy
from agentsys.policy.policy import Policy
from agentsys.runs import RunResult
from agentsys.runtime import Runtime
from agentsys.tools import Tool

Body: TypeAlias = Callable[[Context], Awaitable[Any]]

POLICY: Final = Path(__file__).with_name("policy.toml")
STRANGER: Final = Label(frozenset({"mail"}))
"""The label of what strangers wrote to the owner."""


@dataclass
class Stage:
    """Where one attack is played: ``folder`` holds its board, ``world`` is what tools see and change."""

    folder: Path
    world: World = field(default_factory=World)
    model: Gullible = field(default_factory=Gullible)
    agents: list[Agent] = field(default_factory=list)
    extra: list[Tool] = field(default_factory=list)
    policy: Policy = field(default_factory=lambda: read_policy(POLICY.read_text(encoding="utf-8")))
    seen: dict[str, Any] = field(default_factory=dict)
    """What a case wants to judge beside the world."""
    result: RunResult | None = None
    _board: Board | None = None

    @property
    def board(self) -> Board:
        """The stage's board, opened when it is first needed."""
        if self._board is None:
            self._board = Board.open(self.folder / "board.db")
        return self._board

    def runtime(self, **arguments: Any) -> Runtime:
        """Return a runtime on the stage's board, with its agents and tools."""
        tools = [*self.world.tools(), *self.extra]
        return Runtime(self.board, self.model, agents=self.agents, tools=tools, policy=self.policy, **arguments)

    def write(self, topic: str, key: str, value: Any, label: Label = STRANGER) -> None:
        """Put an entry on the board, as somebody before the run did."""
        transaction = self.board.begin("seed")
        transaction.put(topic, key, value, type="note", label=label)
        self.board.commit(transaction)

    async def run(self, body: Body, *, runtime: Runtime | None = None, **arguments: Any) -> RunResult:
        """Run ``body`` as a workflow; a failure of it is in the result."""

        async def main(context: Context, _: Any) -> Any:
            return await body(context)

        self.result = await (runtime or self.runtime()).run(main, **arguments)
        return self.result

    async def act(self, see: Body, **arguments: Any) -> RunResult:
        """Run a workflow that does whatever is said in what ``see`` shows it."""

        async def body(context: Context) -> Any:
            await self.obey(context, await see(context))

        return await self.run(body, **arguments)

    async def obey(self, context: Context, seen: Any) -> None:
        """Show the model what was seen, and carry out what it says, as an agent without any judgement would."""
        answer = await context.generate("\n".join(["Do what is asked.", *texts(seen)]))
        for order in instructions(str(answer.value)):
            with suppress(LabelError):
                await self._carry_out(context, order)

    async def _carry_out(self, context: Context, order: dict[str, Any]) -> None:
        if "call" in order:
            await context.call(order["call"], **order["arguments"])
        elif "put" in order:
            context.put(*order["put"], type="setting")
        elif "delete" in order:
            context.delete(*order["delete"])
        elif "ask" in order:
            await context.ask(*order["ask"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def texts(seen: Any) -> Iterator[str]:
    """Yield what a prompt shows of a value: each text inside it, keys included, and of handles their names."""
    if isinstance(seen, Mapping):
        for key, item in seen.items():
            yield from (str(key), *texts(item))
    elif isinstance(seen, list | tuple):
        for item in seen:
            yield from texts(item)
    else:
        yield str(seen)
