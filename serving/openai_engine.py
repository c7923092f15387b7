"""Any server that speaks the OpenAI HTTP API, as an engine."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from opentelemetry import propagate

from agentsys.blackboard.labels import NOBODY, Readers
from agentsys.errors import ServingError
from agentsys.serving.engine import Capabilities, EngineStats, QueuedRequest
from agentsys.serving.engine_errors import RequestAbortedError, UnsupportedFeatureError
from agentsys.serving.openai_format import (
    EndOfStream,
    RemoteProtocolError,
    RemoteRefusedError,
    capabilities_told,
    embedding_bodies,
    endpoint_and_body,
    event_lines,
    parse_embeddings,
    parse_event,
    seconds_to_wait,
)
from agentsys.serving.openai_logprobs import LogprobsWithheldError, wanted_alternatives
from agentsys.serving.requests import Chunk, Embedding, EmbedRequest, FinishReason, GenerateRequest, Timings, Usage
from agentsys.serving.scheduling.step_time import Iteration
from agentsys.serving.tokenizer import PromptError

_OVERLOADED = frozenset({429, 503})
_FAILED = 500
_MOST_UNREAD = 256  # pieces of an answer; beyond them the connection is not read, and the server waits
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class RemoteUnavailableError(ServingError):
    """A model server cannot be reached, or broke off; ``status`` is the HTTP status if it answered that it failed."""

    code = "AGS-0420"
    remedy = "Check that the server runs and that the URL (usually ending in /v1) is right, then try again."

    def __init__(self, message: str, *, remedy: str | None = None, status: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class RemoteOverloadedError(RemoteUnavailableError):
    """A model server takes no more calls now; it asked to be tried again after ``retry_after`` seconds, 20 at most."""

    code = "AGS-0465"
    remedy = "Send the call again after the time named, or add replicas."

    def __init__(self, message: str, *, status: int, retry_after: float, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy, status=status)
        self.retry_after = retry_after


def audience_of_url(url: str) -> Readers:
    """Return who learns what is sent to ``url``: ``model-server:HOST``, or nobody beside this machine."""
    return NOBODY if _is_here(url) else Readers.of(f"model-server:{urlsplit(url).hostname}")


def _is_here(url: str) -> bool:
    """Whether a server is on this machine: a proxy that the environment names must not learn what is sent to it."""
    return urlsplit(url).hostname in _LOOPBACK


@dataclass(frozen=True, slots=True)
class _Answered:
    """What a stream has said so far."""

    chunks: int = 0
    usage: Usage | None = None
    reason: FinishReason | None = None
    first_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Post:
    """What is sent, each time alike."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


class OpenAIEngine:
    """One model of a remote server. Answers carry text and log-probabilities: a server does not tell token ids."""

    def __init__(
        self,
        base_url: str,
        capabilities: Capabilities,
        *,
        api_key: str | None = None,
        timeout: float = 120.0,
        retry_pause: float = 0.5,
        attempts: int = 3,
    ) -> None:
        """``base_url`` usually ends in ``/v1``; ``timeout`` and ``retry_pause`` are seconds.

        ``timeout`` bounds the wait for each piece of an answer. A call is sent up to ``attempts`` times, under one
        idempotency key, until its answer begins. A capability for ``lark`` or ``regex`` sends vLLM's
        ``structured_outputs``, ``priority`` sends vLLM's priority.
        """
        self.audience = audience_of_url(base_url)
        self._base_url = base_url.rstrip("/")
        self._capabilities = capabilities
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, 10.0))
        self._retry_pause = retry_pause
        self._attempts = attempts
        self._certificates: ssl.SSLContext = httpx.create_ssl_context()
        self._aborts: dict[str, Callable[[], None]] = {}
        self._totals = EngineStats()
        self._closed = False

    @staticmethod
    def connect(
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        context_length: int = 8192,
        timeout: float = 120.0,
        attempts: int = 3,
    ) -> OpenAIEngine:
        """Ask the server for its models and return an engine for one of them, by default the first.

        vLLM and our own server are recognised, and constraints, priority and context length used;
        ``context_length`` (tokens) is assumed of servers that do not tell. Blocks. Raises
        :class:`RemoteUnavailableError`, :class:`RemoteRefusedError` or ``RemoteProtocolError``.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        listed = _list_models(base_url.rstrip("/"), headers, timeout)
        if model is None and not listed:
            raise RemoteRefusedError(f"{base_url} lists no models.", remedy="Name one: URL#model.")
        entry = next((item for item in listed if item.get("id") == model), None if model else listed[0])
        if entry is None and listed:
            known = ", ".join(str(item.get("id")) for item in listed[:5])
            raise RemoteRefusedError(f"{base_url} has no model {model!r}; it lists {known}.")
        capabilities = capabilities_told(entry or {"id": model}, context_length)
        return OpenAIEngine(base_url, capabilities, api_key=api_key, timeout=timeout, attempts=attempts)

    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def submit(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer; closing the iterator drops the connection, on which servers stop generating.

        Raises ``UnsupportedConstraintError``, ``UnsupportedFeatureError``, ``PromptError``,
        :class:`RemoteUnavailableError`, :class:`RemoteRefusedError` or ``RemoteProtocolError``.
        """
        self._check_open()
        endpoint, body = endpoint_and_body(request, self._capabilities)
        events: asyncio.Queue[Chunk | Exception] = asyncio.Queue()
        room = asyncio.Semaphore(_MOST_UNREAD)
        headers = {**self._headers, "Idempotency-Key": _key(request.request_id)}
        pump = asyncio.create_task(self._pump(_Post(endpoint, body, headers), events, room))
        loop = asyncio.get_running_loop()
        aborted = Chunk("", finish_reason=FinishReason.ABORTED, usage=Usage(), timings=Timings())
        self._aborts[request.request_id] = lambda: _call_soon(loop, lambda: events.put_nowait(aborted))
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                room.release()
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            self._aborts.pop(request.request_id, None)
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)  # which keeps no cancellation from the reader

    def abort(self, request_id: str) -> None:
        abort = self._aborts.get(request_id)
        if abort is not None:
            abort()

    def rekey(self, request_id: str, urgency: float) -> None:
        """Do nothing: no OpenAI-compatible server lets a priority change after submission."""

    def stats(self) -> EngineStats:
        return replace(self._totals, running=len(self._aborts))

    def queue(self) -> tuple[QueuedRequest, ...] | None:
        """Return ``None``: a server does not tell its queue."""
        return None

    def iterations(self, after: int = 0) -> tuple[int, Sequence[Iteration]]:
        """Return ``(0, ())``: a server does not tell its steps."""
        return 0, ()

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the server's vectors, scaled to length 1.

        Raises ``UnsupportedFeatureError``, ``PromptError``, ``RequestAbortedError``, :class:`RemoteUnavailableError`,
        :class:`RemoteRefusedError` or ``RemoteProtocolError``.
        """
        self._check_open()
        if not self._capabilities.embeddings:
            raise UnsupportedFeatureError(f"{self._capabilities.model} of {self._base_url} gives no embeddings.")
        loop, work = asyncio.get_running_loop(), asyncio.ensure_future(self._embed(request))
        self._aborts[request.request_id] = lambda: _call_soon(loop, work.cancel)
        try:
            await asyncio.wait({work})
            if work.cancelled():
                raise RequestAbortedError(f"request {request.request_id!r} was aborted.")
            return work.result()
        finally:
            self._aborts.pop(request.request_id, None)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def close(self) -> None:
        """Refuse further requests and abort those in progress."""
        self._closed = True
        for abort in list(self._aborts.values()):
            abort()

    def _check_open(self) -> None:
        if self._closed:
            raise RemoteUnavailableError("the engine is closed.", remedy="Create the engine again.")

    async def _embed(self, request: EmbedRequest) -> Embedding:
        vectors: dict[int, tuple[float, ...]] = {}
        counted = 0
        with self._faults_told():
            async with self._client() as client:
                for number, (places, body) in enumerate(embedding_bodies(request, self._capabilities)):
                    headers = {**self._headers, "Idempotency-Key": f"{_key(request.request_id)}#{number}"}
                    response = await self._open(client, _Post("/embeddings", body, headers))
                    found, tokens = parse_embeddings(await response.aread(), len(places))
                    vectors |= dict(zip(places, found, strict=True))
                    counted += tokens
        self._count(Usage(prompt_tokens=counted))
        return Embedding(tuple(vectors[place] for place in range(len(vectors))), counted, self._capabilities.model)

    async def _pump(self, post: _Post, events: asyncio.Queue[Chunk | Exception], room: asyncio.Semaphore) -> None:
        started = time.perf_counter()
        try:
            with self._faults_told():
                async with self._client() as client:
                    response = await self._open(client, post)
                    try:
                        async for chunk in self._chunks(response, started, wanted_alternatives(post.body)):
                            await room.acquire()
                            events.put_nowait(chunk)
                    finally:
                        await response.aclose()
        except ServingError as error:
            events.put_nowait(error)

    def _client(self) -> httpx.AsyncClient:
        proxied = not _is_here(self._base_url)
        return httpx.AsyncClient(verify=self._certificates, timeout=self._timeout, trust_env=proxied)

    @contextlib.contextmanager
    def _faults_told(self) -> Iterator[None]:
        """Turn whatever is raised into an error that says what it means for the request."""
        try:
            yield
        except ServingError:
            raise
        except httpx.HTTPError as error:
            raise RemoteUnavailableError(f"{self._base_url} broke off: {error or type(error).__name__}.") from error
        except Exception as error:  # whatever it is, the reader must not wait for ever
            if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
                message = f"the request holds text that is no Unicode: {error}."
                raise PromptError(message, remedy="Replace lone surrogates.") from error
            message = f"the request to {self._base_url} cannot be sent or its answer not read: {error!r}."
            raise RemoteProtocolError(message) from error

    async def _open(self, client: httpx.AsyncClient, post: _Post) -> httpx.Response:
        for attempt in range(1, self._attempts + 1):
            headers = dict(post.headers)
            propagate.inject(headers)
            request = client.build_request("POST", self._base_url + post.path, json=post.body, headers=headers)
            pause = self._retry_pause * 2 ** (attempt - 1)
            try:
                response = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if attempt == self._attempts:
                    message = f"{self._base_url} cannot be reached: {error or type(error).__name__}."
                    raise RemoteUnavailableError(message) from error
            else:
                if response.status_code == httpx.codes.OK:
                    return response
                await response.aread()
                if not _may_be_retried(response.status_code) or attempt == self._attempts:
                    raise _refusal(self._base_url, response)
                pause = seconds_to_wait(response.headers, pause)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _chunks(
        self, response: httpx.Response, started: float, alternatives: int | None
    ) -> AsyncGenerator[Chunk]:
        answered, withheld = _Answered(), alternatives is not None
        try:
            async for line in event_lines(response.aiter_bytes()):
                event = parse_event(line, alternatives or 0)
                if isinstance(event, EndOfStream):
                    break
                if event is None:
                    continue
                answered = replace(
                    answered, usage=event.usage or answered.usage, reason=event.reason or answered.reason
                )
                logprobs = () if alternatives is None else event.logprobs
                withheld = withheld and not logprobs
                if withheld and event.text:
                    raise LogprobsWithheldError(f"{self._capabilities.model} of {self._base_url} tells no logprobs.")
                if event.text or logprobs:
                    first_at = answered.first_at or time.perf_counter()
                    answered = replace(answered, chunks=answered.chunks + 1, first_at=first_at)
                    yield Chunk(event.text, logprobs=logprobs)
        except httpx.HTTPError:
            if answered.reason is None:
                raise  # else the answer is whole, whatever becomes of the connection
        if answered.reason is None:
            raise RemoteProtocolError(f"{self._base_url} ended its answer without a finish reason.")
        now = time.perf_counter()
        # A server that reports no usage sends about one token a chunk.
        usage = answered.usage or Usage(completion_tokens=answered.chunks)
        timings = Timings(first_token=(answered.first_at or now) - started, total=now - started)
        self._count(usage)
        yield Chunk("", finish_reason=answered.reason, usage=usage, timings=timings)

    def _count(self, usage: Usage) -> None:
        totals = self._totals
        self._totals = replace(
            totals,
            prompt_tokens=totals.prompt_tokens + usage.prompt_tokens,
            cached_tokens=totals.cached_tokens + usage.cached_tokens,
            generated_tokens=totals.generated_tokens + usage.completion_tokens,
        )


def _list_models(base_url: str, headers: dict[str, str], timeout: float) -> list[dict[str, Any]]:
    try:
        seconds, proxied = min(timeout, 15.0), not _is_here(base_url)
        response = httpx.get(f"{base_url}/models", headers=headers, timeout=seconds, trust_env=proxied)
    except httpx.HTTPError as error:
        message = f"{base_url} cannot be reached: {error or type(error).__name__}."
        raise RemoteUnavailableError(message) from error
    if response.status_code == httpx.codes.NOT_FOUND:
        return []  # some servers answer completions only
    if response.is_error:
        raise _refusal(base_url, response)
    try:
        return [dict(item) for item in response.json()["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteProtocolError(f"{base_url}/models is not a list of models: {error!r}.") from error


def _refusal(base_url: str, response: httpx.Response) -> ServingError:
    status = response.status_code
    message = f"{base_url} answered HTTP {status}: {response.text.strip()[:300]}."
    if status in _OVERLOADED:
        return RemoteOverloadedError(message, status=status, retry_after=seconds_to_wait(response.headers, 1.0))
    kind = RemoteUnavailableError if _may_be_retried(status) else RemoteRefusedError
    return kind(message, status=status)


def _may_be_retried(status: int) -> bool:
    # Gateways have numbers of their own above 504 for servers that they cannot reach.
    return status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS) or status >= _FAILED


def _key(request_id: str) -> str:  # an id may be any text, and a header cannot
    return quote(request_id, safe="", errors="backslashreplace")


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    # The reader's loop may have been closed; then nobody waits for the chunk.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
