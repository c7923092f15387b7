"""A run as it goes on, for people: rounds, bids, tokens, decisions, one line each on stderr."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.status import Status

from agentsys.cli.output import SHOWN_TEXT, shortened, without_controls
from agentsys.cli.pulling import LONG, STAGES

if TYPE_CHECKING:
    from agentsys.events import RunEvent
    from agentsys.serving.weights.progress import PullProgress


class LiveRun:
    """Prints the events of one run, or of several after each other; on a terminal a spinner shows what is going on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("starting", console=console) if console.is_terminal else None
        self._call = ""
        self._agent = ""
        self._text = ""
        self._tokens = 0
        self._first = 0
        self._began = 0.0
        self._pulled = ""
        self._over = False

    def __enter__(self) -> LiveRun:
        self._over = False
        if self._status:
            self._status.update("starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_call()
        if self._status:
            self._status.stop()
        self._over = True
        if self._pulled == "ready" and isinstance(error, asyncio.CancelledError):
            self._console.print("ending once the model is loaded", style="dim")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else."""
        self._finish_call()
        if self._status:
            self._status.stop()
        yield
        if self._status:
            self._status.start()

    def listen(self, event: RunEvent) -> None:
        """Show one event."""
        from agentsys import events

        match event:
            case events.TokensStreamed():
                self._stream(event)
                return
            case events.RequestPosted():
                line = f"● {event.asked_by} posts a request for {event.kind}"
            case events.BidMade():
                verb = "volunteers" if event.chosen else "volunteers, not chosen"
                line = f"  {event.agent} {verb} with {event.score:.2f}: {event.reason}"
            case events.Responded():
                line = f"  {event.agent} responded: {event.status}" if event.status != "ok" else ""
            case events.RoundClosed():
                line = f"● round closed: {event.outcome}"
            case events.Decided():
                verdict = "allowed" if event.allowed else "DENIED"
                line = (
                    f"● {event.agent}: {event.action} {verdict} ({event.rule}{': ' * bool(event.reason)}{event.reason})"
                )
            case events.ApprovalRequested():
                line = f"● {event.agent} waits for a person: {event.subject}"
            case events.ApprovalDecided():
                line = f"● {event.subject} {event.status} by {event.decided_by}{': ' * bool(event.note)}{event.note}"
            case _:
                line = ""
        self._finish_call()
        if line:
            self._console.print(f"[dim]{escape(_on_one_line(line))}[/]", highlight=False)

    def pulling(self, progress: PullProgress) -> None:
        """Show how far a model is that a call waits for: a pull at first use takes a minute.

        Raises ``EngineClosedError`` once nobody waits any more: an interrupted command would go on pulling.
        """
        if self._over:
            from agentsys.serving.engine_errors import EngineClosedError

            raise EngineClosedError("Nobody waits for the model any more.")
        stage = progress.stage
        if self._status:
            amount = f" {decimal(progress.done)} of {decimal(progress.total)}" if progress.total else ""
            told = f"{STAGES[stage]}{amount if stage == 'download' else ''}"
            self._status.update("loading the model" if stage == "ready" else f"the model: {told}")
        elif stage in LONG and stage != self._pulled:
            self._console.print(f"the model: {STAGES[stage]}", highlight=False)
        self._pulled = stage

    def _stream(self, event: RunEvent) -> None:
        from agentsys import events

        assert isinstance(event, events.TokensStreamed)
        if event.call != self._call:
            self._finish_call()
            self._call, self._agent, self._pulled = event.call, event.agent, ""
            self._began, self._first = time.monotonic(), event.tokens
        self._text += event.text
        self._tokens += event.tokens
        if self._status:
            self._status.update(escape(_on_one_line(f"{event.agent}: {self._text[-SHOWN_TEXT:]}")))

    def _finish_call(self) -> None:
        if not self._call:
            return
        rate = (self._tokens - self._first) / max(time.monotonic() - self._began, 1e-9)
        shown = shortened(" ".join(self._text.split()))
        line = f"● {self._agent} wrote {self._tokens} tokens, {rate:.0f} tokens/s after the first piece: {shown}"
        self._console.print(f"[dim]{escape(_on_one_line(line))}[/]", highlight=False)
        self._call, self._text, self._tokens = "", "", 0


def _on_one_line(line: str) -> str:
    """Return a line that shows as one, whatever agents wrote into it."""
    return without_controls(line).replace("\n", "⏎")
