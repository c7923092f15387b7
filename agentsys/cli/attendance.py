"""The person at the terminal while a run goes on: asked where the run asks, or told how to answer later.

Where nobody can be asked, because standard input is no terminal, the command ends with exit code 4. The run waits on
the board: it goes on with ``--resume`` once ``agentsys approvals`` decided.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.text import Text

from agentsys.cli.approval_text import print_approval
from agentsys.cli.output import ExitCode, err

if TYPE_CHECKING:
    from agentsys.cli.live import LiveRun
    from agentsys.deciding import Verdict
    from agentsys.events import ApprovalRequested, Listener, RunEvent
    from agentsys.runs import RunResult
    from agentsys.runtime import Runtime
    from agentsys.views.approvals import ApprovalView


async def attended(runtime: Runtime, live: LiveRun, execute: Callable[[Listener], Awaitable[RunResult]]) -> RunResult:
    """Execute a run, showing it live and asking the person at the terminal what it asks.

    Raises ``typer.Exit`` with code 4 where it asks and nobody is there.
    """
    from agentsys.events import ApprovalRequested

    asked: asyncio.Queue[ApprovalRequested] = asyncio.Queue()
    with live:

        def listen(event: RunEvent) -> None:
            live.listen(event)
            if isinstance(event, ApprovalRequested):
                asked.put_nowait(event)

        running = asyncio.ensure_future(execute(listen))
        asking = asyncio.create_task(_ask_each(runtime, live, asked))
        try:
            await asyncio.wait([running, asking], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                # Only nobody's being there ends the asking.
                asking.result()
            return await running
        finally:
            asking.cancel()
            running.cancel()
            await asyncio.wait([running, asking])


async def _ask_each(runtime: Runtime, live: LiveRun, events: asyncio.Queue[ApprovalRequested]) -> None:
    from agentsys.approvals import Approval
    from agentsys.deciding import UnfitWord
    from agentsys.errors import LabelError
    from agentsys.views.approvals import approval_view

    while True:
        event = await events.get()
        if not (sys.stdin.isatty() and err.is_terminal):
            _say_how(event)
            raise typer.Exit(ExitCode.WAITING)
        asked = Approval.load(runtime.board, event.approval)
        with live.paused():
            verdict, said = await _prompt(approval_view(asked))
        try:
            await runtime.decide(event.approval, verdict, binding=asked.binding, **said)
        except LabelError as refused:
            err.print(refused.message, highlight=False, markup=False)
            if isinstance(refused, UnfitWord):
                events.put_nowait(event)


async def _prompt(asked: ApprovalView) -> tuple[Verdict, dict[str, Any]]:
    """Show what is asked, and return what the person says."""
    from agentsys.views.texts import value_of

    err.print(Text("?", style="bold yellow"), end=" ")
    print_approval(err, asked)
    if asked.kind == "question":
        return "approve", {"answer": value_of(await _typed("  Answer"))}
    letter = ""
    while letter not in _LETTERS:
        word = await _typed("  Allow it? [y]es, [n]o, [m]odify, [t]erminate the run", "n")
        letter = word.strip()[:1].lower()
    if letter != "m":
        return _LETTERS[letter], {}
    return "modify", {"edited": value_of(await _typed("  Arguments, as JSON"))}


async def _typed(question: str, default: str = "") -> str:
    """Return the line that the person types, or ``default`` for an empty one. Raises ``typer.Abort`` where none comes.

    No thread waits for it: a prompt that nobody needs any more would keep the command from ending.
    """
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    shown = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        err.print(shown, end="", highlight=False, markup=False)
        readable.clear()
        loop.add_reader(sys.stdin, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(sys.stdin)
        # A terminal gives whole lines.
        line = sys.stdin.readline()
        if not line:
            raise typer.Abort
        if answer := line.rstrip("\r\n") or default:
            return answer


_LETTERS: Final[dict[str, Verdict]] = {"y": "approve", "n": "reject", "m": "modify", "t": "terminate"}


def described(event: ApprovalRequested) -> str:
    """Return what is asked, as it will be done: every argument in full, as JSON, with all that hides written out."""
    from agentsys.views.visible import visible

    if event.kind == "question":
        return f"{event.agent} asks: {_question(event)}"
    arguments = event.arguments if isinstance(event.arguments, dict) else {}
    texts = {name: visible(json.dumps(value, ensure_ascii=False)).text for name, value in arguments.items()}
    shown = ", ".join(f"{name}={text}" for name, text in texts.items())
    return f"{event.agent} wants to call {event.subject}({shown}): {event.reason}"


def _question(event: ApprovalRequested) -> str:
    from agentsys.views.visible import visible

    return visible(event.arguments).text


def _say_how(event: ApprovalRequested) -> None:
    err.print(f"run {event.run} waits for a person: {described(event)}", highlight=False, markup=False)
    answering = " --answer 'JSON'" if event.kind == "question" else ""
    err.print(
        f"→ agentsys approvals approve {event.approval}{answering}, or reject; then the same command with "
        f"--resume {event.run}",
        style="dim",
        highlight=False,
        markup=False,
    )
