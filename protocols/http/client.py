"""A client of the runtime's HTTP API, for the command line and the console. It follows no redirects and no proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from agentsys.blackboard.entries import canonical_json
from agentsys.deciding import Verdict
from agentsys.errors import AgentsysError, ConfigurationError
from agentsys.protocols.http.schemas import (
    AgentDocument,
    BoardDocument,
    CommitDocument,
    EntryDocument,
    EventDocument,
    EventList,
    Health,
    RunDocument,
    RunReference,
    WorkflowDocument,
)
from agentsys.protocols.http.serving_documents import EngineDocument
from agentsys.protocols.http.view_client import ViewClient, segment
from agentsys.views.approvals import ApprovalView

PREFIX = "/api/v1"
WAIT_SECONDS = 20.0
"""How long one poll for events waits; the server allows 30."""

D = TypeVar("D")


class ServerUnreachable(AgentsysError):
    """No runtime answers at the address."""

    code = "AGS-0708"
    remedy = "Start one with `agentsys serve`, or name its address with --url or AGENTSYS_URL."


class ServerRefused(AgentsysError):
    """The server answered with an error; the message begins with its code."""

    code = "AGS-0709"


class RuntimeClient:
    """Use it as a context manager or close it. Every call raises :class:`ServerUnreachable` and :class:`ServerRefused`,
    and :class:`~agentsys.blackboard.entries.InvalidValue` for what is no JSON.

    ``url`` is what `agentsys serve` prints, without a path; ``timeout`` is in seconds.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        try:
            self._http = httpx.Client(
                base_url=url.rstrip("/") + PREFIX, headers=_headers(token), timeout=timeout, trust_env=False
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise _no_address(url) from error
        if self._http.base_url.scheme not in ("http", "https") or not self._http.base_url.host:
            raise _no_address(url)
        self.url = url.rstrip("/")
        self.views = ViewClient(self._get)
        """What people read of the server's board."""
        self.recorded = ViewClient(self._get, "/recorded")
        """The same of the recorded board that came with the server; many have none, and answer AGS-0706."""

    def health(self) -> Health:
        """Return that the server answers."""
        return self._get("/health", Health)

    def workflows(self) -> list[WorkflowDocument]:
        """Return the workflows that runs can be started of."""
        return self._get("/workflows", list[WorkflowDocument])

    def agents(self) -> list[AgentDocument]:
        """Return the server's agents."""
        return self._get("/agents", list[AgentDocument])

    def models(self) -> list[str]:
        """Return the models by name, the default first."""
        return self._get("/models", list[str])

    def serving(self) -> list[EngineDocument]:
        """Return how each model's engine does."""
        return self._get("/serving", list[EngineDocument])

    def runs(self, *, status: str | None = None, workflow: str | None = None, limit: int = 50) -> list[RunDocument]:
        """Return runs, the newest first."""
        return self._get("/runs", list[RunDocument], status=status, workflow=workflow, limit=limit)

    def run(self, run: str) -> RunDocument:
        """Return one run."""
        return self._get(f"/runs/{segment(run)}", RunDocument)

    def start(
        self, workflow: str, input: Any = None, *, deadline_seconds: float | None = None, run_id: str | None = None
    ) -> str:
        """Start a run and return its identifier."""
        body = {"workflow": workflow, "input": input, "deadline_seconds": deadline_seconds, "run_id": run_id}
        return self._call("POST", "/runs", RunReference, json=body).run

    def cancel(self, run: str) -> None:
        """End a run for good."""
        self._call("POST", f"/runs/{segment(run)}/cancel", RunReference)

    def resume(self, run: str) -> None:
        """Go on with an interrupted run."""
        self._call("POST", f"/runs/{segment(run)}/resume", RunReference)

    def fork(self, run: str, *, at: int | None = None) -> str:
        """Start a new run that takes over what this one had recorded at commit ``at``; return its identifier."""
        return self._call("POST", f"/runs/{segment(run)}/fork", RunReference, json={"at": at}).run

    def events(self, run: str, after: int = 0, wait: float = 0) -> EventList:
        """Return the events after a number, waiting so many seconds for the first of them."""
        return self._get(f"/runs/{segment(run)}/events", EventList, after=after, wait=wait)

    def watch(self, run: str, after: int = 0, *, waiting: Callable[[], None] = lambda: None) -> Iterator[EventDocument]:
        """Yield a run's events as they come, until no process executes it any more.

        Those of another process than the server's stay with that one. ``waiting`` is called first where the run waits
        for a worker, and so is watched from when one takes it.
        """
        found = self.events(run, after)
        if found.waiting:
            waiting()
        while found.executing or found.elsewhere or found.waiting or found.events:
            for event in found.events:
                after = event.number
                yield event
            found = self.events(run, after, WAIT_SECONDS)

    def approvals(self, *, status: str | None = None, run: str | None = None) -> list[ApprovalView]:
        """Return what a person was asked, in the order in which it was."""
        return self._get("/approvals", list[ApprovalView], status=status, run=run)

    def approval(self, approval: str) -> ApprovalView:
        """Return one approval."""
        return self._get(f"/approvals/{segment(approval)}", ApprovalView)

    def decide(self, approval: str, verdict: Verdict, **said: Any) -> ApprovalView:
        """Say a word; ``said`` are further fields of :class:`~agentsys.deciding.Word`, such as ``note``."""
        return self._call("POST", f"/approvals/{segment(approval)}/{verdict}", ApprovalView, json=said)

    def board(self) -> BoardDocument:
        """Return how the board stands."""
        return self._get("/board", BoardDocument)

    def entries(
        self, *, topic: str | None = None, topic_prefix: str | None = None, at: int | None = None, limit: int = 200
    ) -> list[EntryDocument]:
        """Return entries by topic and key."""
        return self._get(
            "/board/entries", list[EntryDocument], topic=topic, topic_prefix=topic_prefix, at=at, limit=limit
        )

    def commits(self, *, after: int | None = None, limit: int = 100, run: str | None = None) -> list[CommitDocument]:
        """Return commits after a sequence number."""
        return self._get("/board/commits", list[CommitDocument], after=after, limit=limit, run=run)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str, shape: type[D], **parameters: Any) -> D:
        return self._call("GET", path, shape, params={key: it for key, it in parameters.items() if it is not None})

    def _call(self, method: str, path: str, shape: type[D], **arguments: Any) -> D:
        canonical_json(arguments.get("json"))
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise ServerUnreachable(f"{self._http.base_url.host} does not answer: {str(error).rstrip('.')}.") from error
        if not answer.is_success:
            raise _refusal(answer)
        try:
            return TypeAdapter(shape).validate_json(answer.content)
        except ValidationError as error:
            raise ServerUnreachable(f"{self._http.base_url.host} is no agentsys of this version.") from error


def _no_address(url: str) -> ServerUnreachable:
    return ServerUnreachable(
        f"{url!r} is no address of a server.", remedy="Give it as `agentsys serve` prints it, such as http://HOST:8700."
    )


def _headers(token: str | None) -> dict[bytes, bytes]:
    """Return what names the caller. Raises :class:`ConfigurationError`."""
    if token is None:
        return {}
    if not token.isprintable():
        raise ConfigurationError(
            "The server's token holds a character that is not to be seen, such as the end of a line.",
            remedy="Set AGENTSYS_TOKEN, or --token, to the token alone.",
        )
    return {b"Authorization": f"Bearer {token}".encode()}


class _Refusal(BaseModel):
    code: str
    message: str
    remedy: str = ""


def _refusal(answer: httpx.Response) -> AgentsysError:
    try:
        body = _Refusal.model_validate(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return ServerRefused(f"The server answered {answer.status_code}.", remedy="Is this the address of an agentsys?")
    return ServerRefused(f"{body.code}: {body.message}", remedy=body.remedy)
