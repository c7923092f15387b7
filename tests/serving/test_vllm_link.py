"""The line to the scheduler in vLLM's process, over a scripted core."""

from __future__ import annotations

import asyncio
from typing import Any

from agentsys.serving.vllm_engine.link import SchedulerLink


class ScriptedCore:
    """Takes a step with every report, and reports while ``go_on`` is set."""

    def __init__(self) -> None:
        self.reports = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def call_utility_async(self, method: str, *arguments: Any) -> Any:
        assert method == "agentsys_report"
        self.reports += 1
        await self.go_on.wait()
        return [arguments[0] + 1, [(1, 1, 2, 0.1)], {}, 7]


async def test_a_request_that_never_comes_takes_no_other_s_key_along() -> None:
    sent: list[set[str]] = []

    class WithoutOne(ScriptedCore):
        async def call_utility_async(self, method: str, *arguments: Any) -> Any:
            sent.append({name for name, _ in arguments[0]})
            if len(sent) == 50:
                link.rekey("other", 5)
            return [name for name, _ in arguments[0] if name == "never"]

    link = SchedulerLink(WithoutOne(), {"never": None, "other": None})
    link.rekey("never", 1)
    async with asyncio.timeout(20):
        await link._sender
    assert sent[49:] == [{"never"}, {"other"}]


async def test_a_call_that_comes_with_the_last_report_is_watched_too() -> None:
    core, awaited = ScriptedCore(), {"first": None}
    link = SchedulerLink(core, awaited)
    async with asyncio.timeout(20):
        link.watch()
        while not link.steps:
            await asyncio.sleep(0)
        del awaited["first"]
        core.go_on.clear()
        while core.reports < 2:
            await asyncio.sleep(0)
        awaited["second"] = None
        link.watch()
        core.go_on.set()
        while link.steps < 4:
            await asyncio.sleep(0)
        del awaited["second"]
        while not link._watcher.done():
            await asyncio.sleep(0)
    assert link.used_blocks == 7 and link.iterations.since(0)[0] == link.steps
