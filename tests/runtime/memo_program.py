"""A process that makes one memoised call: ``python memo_program.py BOARD LEDGER SECONDS``, and prints the answer.

The tool appends a line to LEDGER as it begins, and takes SECONDS.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.context import Context
from agentsys.memoisation import Memoise
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool


async def main(location: str, ledger: str, seconds: float) -> None:
    @tool(effect=EffectClass.PURE, memo=Memoise())
    async def slow(number: int) -> int:
        with Path(ledger).open("a") as file:
            file.write(f"{os.getpid()}\n")
        await asyncio.sleep(seconds)
        return number * 2

    async def call(context: Context, number: int) -> Any:
        return (await context.call("slow", number=number)).value

    with Board.open(location) as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[slow])
        print("open", flush=True)
        result = await runtime.run(call, 21)
        print(json.dumps(result.value), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
