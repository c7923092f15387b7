"""The workflow of the cluster's runs: three answers of the model, each noted on the board and in a ledger outside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agentsys import NOBODY, EffectClass, Workflow, tool
from agentsys.blackboard.labels import BOTTOM
from agentsys.context import Context
from agentsys.serving.requests import SamplingParams

LEDGER = Path(os.environ["CLUSTER_LEDGER"])
CALLS = 3
SAMPLING = SamplingParams(max_tokens=24, ignore_eos=True)


def question(number: int, call: int) -> str:
    return f"Count from {10 * number + call} upwards, in words."


@tool(effect=EffectClass.IDEMPOTENT, audience=NOBODY, source=BOTTOM)
def note(number: int, call: int, idempotency_key: str) -> str:
    """Add a line to the ledger, unless it has one under this key."""
    with LEDGER.open("a+") as file:
        file.seek(0)
        if idempotency_key not in file.read():
            file.write(f"{number}.{call} {idempotency_key}\n")
    return "noted"


async def count(context: Context, number: int) -> Any:
    answers = []
    for call in range(CALLS):
        said = (await context.generate(question(number, call), sampling=SAMPLING)).value
        context.put("answers", f"{number}.{call}", said, type="answer")
        await context.call("note", number=number, call=call)
        answers.append(said)
    return answers


workflow = Workflow("count", count)
