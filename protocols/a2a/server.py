"""The A2A server's routes: the agent card, and the JSON-RPC and HTTP+JSON bindings on one path."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from a2a.server.context import ServerCallContext
from a2a.server.events import Event
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.types.a2a_pb2 import AgentCard, CancelTaskRequest, Message, SendMessageRequest, SubscribeToTaskRequest, Task
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from starlette.routing import Route

from agentsys.protocols.a2a.card import PREFIX, agent_card
from agentsys.protocols.a2a.executor import ENDED, RunExecutor
from agentsys.protocols.offers import offered_workflows
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor

LEGACY_CARD_PATH = "/.well-known/agent.json"
"""Where A2A clients before 0.3 look for the card."""

INTERRUPTED_SECONDS = 60.0
"""Seconds after which what is held in memory of a task that waits for input is released; the board keeps it."""


def a2a_routes(
    runtime: Runtime, supervisor: RunSupervisor, *, url: str, name: str = "agentsys", token: bool = False
) -> list[Route]:
    """Return the routes of an A2A server over ``runtime``.

    ``url`` is the public address, as clients reach it; ``token`` says in the card that callers need a bearer token,
    which the application around these routes must check. What follows the tasks' runs ends with the supervisor.
    """
    card = agent_card(offered_workflows(runtime).values(), url=url, name=name, token=token)
    handler = RunRequestHandler(RunExecutor(runtime, supervisor), card)
    supervisor.close_with(handler.aclose)
    bindings = [
        # Clients differ in whether they end the address with a slash.
        *create_jsonrpc_routes(handler, PREFIX, enable_v0_3_compat=True),
        *create_jsonrpc_routes(handler, f"{PREFIX}/", enable_v0_3_compat=True),
        *create_rest_routes(handler, path_prefix=PREFIX, enable_v0_3_compat=True),
    ]
    cards = [create_agent_card_routes(card, card_url=path) for path in (AGENT_CARD_WELL_KNOWN_PATH, LEGACY_CARD_PATH)]
    # Without the library's tenants: their mount would catch every path of the application around.
    return [route for route in (*cards[0], *cards[1], *bindings) if isinstance(route, Route)]


class RunRequestHandler(DefaultRequestHandlerV2):
    """The library's handler, which also follows the runs that another process began."""

    def __init__(self, executor: RunExecutor, card: AgentCard) -> None:
        super().__init__(executor, executor.store, card, interrupted_task_timeout=INTERRUPTED_SECONDS)
        self._executor = executor

    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Message | Task:
        """Return the task that the message leads to."""
        self._executor.check(params)
        answer: Message | Task = await super().on_message_send(params, context)
        return answer

    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """Yield the task that the message leads to, and what becomes of it."""
        self._executor.check(params)
        async for event in super().on_message_send_stream(params, context):
            yield event

    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task | None:
        """Cancel the task and its run, of which the library would only say so where it does not follow it."""
        store = self._executor.store
        task = await store.kept(params.id, context)
        if task is not None and task.status.state not in ENDED and not self._executor.follows(task.id):
            await self._executor.end(task.id, context)
            ended = await store.get(task.id, context)
            if ended is not None and ended.status.state in ENDED:
                return ended
        cancelled: Task | None = await super().on_cancel_task(params, context)
        return cancelled

    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        """Yield the task and what becomes of it."""
        task = await self._executor.store.get(params.id, context)
        if task is None or task.status.state in ENDED or self._executor.follows(task.id):
            async for event in super().on_subscribe_to_task(params, context):
                yield event
            return
        yield task
        while task is not None and task.status.state not in ENDED and await self._executor.goes_on(params.id):
            await self._executor.wait(params.id)
            # Where it was interrupted, this lets it go on.
            task = await self._executor.store.get(params.id, context)
        if task is not None:
            yield task
