"""A process that executes a run which asks a person, until it is killed or the run ends: `BOARD begin|resume`."""

import asyncio
import json
import sys
from pathlib import Path

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, Label, Readers
from agentsys.events import ApprovalRequested
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import EffectClass, tool

BOSS = "user:boss"
SHARED = Label(frozenset({"user:owner"}), Readers.of("user:owner", BOSS))
POLICY = Policy.of(asks=["send"], approvers=["user:owner", BOSS])


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted())
def send(text: str) -> str:
    with Path(sys.argv[1]).with_suffix(".sent").open("a") as file:
        file.write(f"{text}\n")
    return f"sent {text}"


async def forward(context, text):
    return (await context.call("send", text=text)).value


def tell(event):
    if isinstance(event, ApprovalRequested):
        print("waiting", flush=True)


async def main() -> None:
    with Board.open(sys.argv[1]) as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[send], workflows=[forward], policy=POLICY)
        if sys.argv[2] == "begin":
            result = await runtime.run("forward", "hello", label=SHARED, run_id="r", listener=tell)
        else:
            result = await runtime.resume("r", listener=tell)
        failure = result.failure.code if result.failure else None
        print(json.dumps({"status": result.status, "value": result.record.value, "failure": failure}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
