"""Asking a foreign A2A agent: its card, one message, its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import parse_agent_card
from a2a.client.errors import A2AClientError
from a2a.types.a2a_pb2 import (
    AgentCard,
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Role,
    SendMessageRequest,
    TaskState,
)
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from a2a.utils.errors import A2AError as ProtocolError
from google.protobuf.json_format import ParseError

from agentsys.blackboard.entries import Json
from agentsys.egress import EgressDenied, EgressError, EgressGuard, ResponseTooLarge, host_of
from agentsys.protocols.a2a.answers import ENDED, Answer, AnswerBuilder, AnswerTooLarge
from agentsys.protocols.a2a.errors import A2AError
from agentsys.protocols.a2a.parts import parts_of
from agentsys.tools import ToolError

CARD_PATHS: Final = (AGENT_CARD_WELL_KNOWN_PATH, "/.well-known/agent.json")
MAX_CARD_BYTES: Final = 1 << 20
POLL_SECONDS: Final = 0.5
CARD_SECONDS: Final = 10.0
CANCEL_SECONDS: Final = 2.0
BINDINGS: Final = ("JSONRPC", "HTTP+JSON")
TOO_LARGE: Final = (AnswerTooLarge, ResponseTooLarge)


class PeerUnreachable(A2AError):
    """A foreign agent gave no card, or no well-formed answer."""

    code = "AGS-0761"
    remedy = "Check the address and the token, and that the agent speaks A2A 1.0 or 0.3 over JSON-RPC or HTTP+JSON."


class AnswerLost(ToolError):
    """A foreign agent was sent a message and then gone, or its answer cannot be taken: nobody knows what it did."""

    code = "AGS-0767"
    remedy = "Find out what the agent did; `repeatable` in its settings says that asking twice does no harm."
    unknown: ClassVar[bool] = True


class PeerFailed(A2AError):
    """A foreign agent failed, refused, or wants what we cannot give."""

    code = "AGS-0762"
    remedy = "Its own words are in the message; another agent may answer instead."


@dataclass(frozen=True, slots=True)
class Peer:
    """A foreign agent: its card, and where we may connect for it.

    ``token`` is sent as bearer token to every one of ``hosts``.
    """

    card: AgentCard
    hosts: frozenset[str]
    token: str | None = None
    insecure: bool = False

    async def ask(self, value: Json, *, message_id: str, skill: str | None = None) -> Answer:
        """Send ``value`` as one message and return the answer; the caller bounds the time.

        Raises :class:`PeerUnreachable`, :class:`AnswerLost`, :class:`PeerFailed`, :class:`EgressDenied`.
        """
        message = Message(message_id=message_id, role=Role.ROLE_USER, parts=parts_of(value))
        if skill is not None:
            message.metadata["skill"] = skill
        async with self._client() as client:
            builder = AnswerBuilder()
            try:
                await _converse(client, SendMessageRequest(message=message), builder)
            except asyncio.CancelledError:
                await _withdraw(client, builder.task_id)
                raise
            except (ProtocolError, httpx.HTTPError, ParseError, ValueError, *TOO_LARGE) as error:
                said = f"{self.card.name}: {type(error).__name__}: {error}"
                raise (PeerUnreachable(said) if _is_unheard(error, builder) else AnswerLost(said)) from error
        if builder.state not in (None, TaskState.TASK_STATE_COMPLETED):
            state = TaskState.Name(builder.state or 0).removeprefix("TASK_STATE_").lower()
            raise PeerFailed(f"{self.card.name} ended with {state}: {builder.words()}")
        try:
            return builder.answer()
        except A2AError as error:
            raise AnswerLost(f"{self.card.name}: {error}") from error

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Client]:
        # One connection for each call: a pool would belong to the event loop and task that opened it.
        async with _http(self.hosts, self.token, self.insecure) as http:
            config = ClientConfig(httpx_client=http, supported_protocol_bindings=list(BINDINGS))
            try:
                client = ClientFactory(config).create(self.card)
            except ValueError as error:
                raise PeerUnreachable(f"{self.card.name} offers no binding that is understood: {error}") from error
            yield client


async def find_peer(
    url: str, *, hosts: frozenset[str] = frozenset(), token: str | None = None, insecure: bool = False
) -> Peer:
    """Return the agent whose card is at ``url``: the card's own address, or the agent's base address.

    Every address in the card must be on the card's host or in ``hosts``. Raises :class:`PeerUnreachable`,
    :class:`EgressDenied`.
    """
    allowed = hosts | {host_of(url)}
    try:
        async with asyncio.timeout(CARD_SECONDS), _http(allowed, token, insecure) as http:
            card = await _fetch_card(http, url)
    except TimeoutError as error:
        raise PeerUnreachable(f"{url} gave no agent card within {CARD_SECONDS} s.") from error
    peer = Peer(card, allowed, token, insecure)
    guard = EgressGuard(allowed, insecure=insecure)
    for interface in card.supported_interfaces:
        if interface.protocol_binding in BINDINGS:
            await guard.check(interface.url)
    return peer


def _is_unheard(error: Exception, builder: AnswerBuilder) -> bool:
    """Whether a message surely did not reach the peer, or was refused by it."""
    if builder.task_id:
        return False
    cause = error.__cause__ or error
    if isinstance(cause, httpx.HTTPStatusError):
        return cause.response.is_client_error
    unsent = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | EgressDenied)
    return unsent or (isinstance(error, ProtocolError) and not isinstance(error, A2AClientError))


async def _converse(client: Client, request: SendMessageRequest, builder: AnswerBuilder) -> None:
    async for event in client.send_message(request):
        builder.add(event)
    while builder.state is not None and builder.state not in ENDED:
        # A stream that broke off, or a server that answers before it is done.
        await asyncio.sleep(POLL_SECONDS)
        builder.add_task(await client.get_task(GetTaskRequest(id=builder.task_id)))


async def _withdraw(client: Client, task_id: str) -> None:
    """Tell the peer that nobody waits any more, as far as it listens."""
    if not task_id:
        return
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            await client.cancel_task(CancelTaskRequest(id=task_id))
    except (ProtocolError, httpx.HTTPError, TimeoutError, A2AError, EgressError):
        return


async def _fetch_card(http: httpx.AsyncClient, url: str) -> AgentCard:
    exact = urlsplit(url).path.endswith(".json")
    tried = [url] if exact else [url.rstrip("/") + path for path in CARD_PATHS]
    for address in tried:
        try:
            response = await http.get(address)
            if response.status_code == httpx.codes.NOT_FOUND and address != tried[-1]:
                continue
            response.raise_for_status()
            if len(response.content) > MAX_CARD_BYTES:
                raise ValueError(f"the card is larger than {MAX_CARD_BYTES} bytes")
            document: dict[str, Any] = json.loads(response.content)
            return parse_agent_card(document)
        except (httpx.HTTPError, ParseError, ValueError, TypeError, AttributeError) as error:
            raise PeerUnreachable(f"{address} gives no agent card: {type(error).__name__}: {error}") from error
    raise AssertionError("the last address returns or raises")


def _http(hosts: frozenset[str], token: str | None, insecure: bool) -> httpx.AsyncClient:
    headers = {"A2A-Version": "1.0"} | ({"Authorization": f"Bearer {token}"} if token else {})
    # The tool's own timeout bounds a call; a stream may be silent for long.
    timeout = httpx.Timeout(None, connect=10.0)
    return httpx.AsyncClient(transport=EgressGuard(hosts, insecure=insecure), headers=headers, timeout=timeout)
