"""Many streams at once over the scripted model and a real socket: all whole, and nothing is left of them."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from agentsys.benchmarks.http_load import read_streams
from agentsys.serving.client import ServingClient
from agentsys.serving.observation import ObservedRequest
from agentsys.serving.requests import Chunk, GenerateRequest
from agentsys.serving.server.app import serving_app
from agentsys.serving.server.limits import ServerLimits, Ticket
from agentsys.serving.server.operation import Exchange, Operation
from agentsys.serving.server.outbox import Outbox
from agentsys.serving.server.running import DrainingServer, server_config
from agentsys.serving.server.streaming import EventStream
from agentsys.serving.torch_engine.engine import TorchEngine


@asynccontextmanager
async def served(engine: TorchEngine, operation: Operation) -> AsyncIterator[str]:
    """Serve in the test's own event loop, whose tasks can then be counted; yields host and port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    app = serving_app(ServingClient({"scripted": engine}, "scripted"), operation)
    server = DrainingServer(server_config(app, read_seconds=60.0, lifespan="off", backlog=1024), operation.lifecycle)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        operation.lifecycle.drain()
        await serving
        listener.close()


def bodies(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"stream {number}", "max_tokens": 6, "ignore_eos": True} | fields for number in range(count)]


def kept(but: Sequence[object] = ()) -> list[object]:
    """The objects that requests over HTTP consist of and that are still there, but those that were there before."""
    gc.collect()
    kinds, before = {Exchange, EventStream, Outbox, Ticket, ObservedRequest}, {id(one) for one in but}
    return [one for one in gc.get_objects() if type(one) in kinds and id(one) not in before]


def held_back(engine: TorchEngine) -> asyncio.Event:
    """Let the engine answer only once the event that is returned is set."""
    gate, submit = asyncio.Event(), engine.submit

    async def wait_first(request: GenerateRequest) -> AsyncIterator[Chunk]:
        await gate.wait()
        async with aclosing(submit(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    engine.submit = wait_first  # type: ignore[method-assign]
    return gate


async def settled(tasks: int) -> None:
    """Wait until no more tasks run than ``tasks``: connections close a moment after their last byte."""
    async with asyncio.timeout(20):
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_all_streams_end_whole_and_leave_nothing(scripted_engine: TorchEngine, count: int) -> None:
    operation, before = Operation(), kept()
    async with served(scripted_engine, operation) as address:
        await read_streams(address, bodies(2))
        tasks = len(asyncio.all_tasks())
        gate = held_back(scripted_engine)
        reading = asyncio.create_task(read_streams(address, bodies(count)))
        while operation.lifecycle.under_way < count:
            await asyncio.sleep(0.001)
        assert len(kept()) >= count  # what is looked for afterwards is there while streams run
        gate.set()
        results = await reading
        assert sum(result.whole for result in results) == count
        await settled(tasks)
        assert operation.admission.held == operation.lifecycle.under_way == 0
        assert scripted_engine.stats().running + scripted_engine.stats().waiting == 0
        assert kept(before) == []


async def test_clients_that_leave_at_once_leave_nothing(
    scripted_engine: TorchEngine, until: Callable[[Callable[[], bool]], None]
) -> None:
    operation, before = Operation(), kept()
    async with served(scripted_engine, operation) as address:
        await read_streams(address, bodies(2))
        tasks, steps = len(asyncio.all_tasks()), scripted_engine.stats().steps
        gate = held_back(scripted_engine)
        reading = [asyncio.create_task(read_streams(address, bodies(1, max_tokens=500))) for _ in range(40)]
        while operation.lifecycle.under_way < 40:
            await asyncio.sleep(0.001)
        gate.set()
        while scripted_engine.stats().steps == steps:
            await asyncio.sleep(0.001)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        del reading
        await settled(tasks)
        assert operation.admission.held == 0 and kept(before) == []
    until(lambda: scripted_engine.stats().running + scripted_engine.stats().waiting == 0)


async def test_a_server_that_is_full_refuses_the_rest_and_answers_what_it_took(scripted_engine: TorchEngine) -> None:
    operation = Operation(ServerLimits(calls=10))
    async with served(scripted_engine, operation) as address:
        gate = held_back(scripted_engine)
        reading = asyncio.create_task(read_streams(address, bodies(10, max_tokens=50)))
        while operation.admission.held < 10:
            await asyncio.sleep(0.001)
        refused = await read_streams(address, bodies(90, max_tokens=50))
        assert not any(result.whole or result.events for result in refused)
        gate.set()
        assert sum(result.whole for result in await reading) == 10
        assert sum(result.whole for result in await read_streams(address, bodies(10))) == 10
