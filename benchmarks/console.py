"""The console in Chromium over a large board: first content, how soon a commit shows, and no rerun under a stream."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentsys.benchmarks.browser import Reruns, ScriptWatch, browser, served_console
from agentsys.benchmarks.harness import Bar, BenchResult, Options, interleave, median
from agentsys.benchmarks.large_board import build_board
from agentsys.blackboard.board import Board
from agentsys.runs import list_runs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

RUNS, ENTRIES = 1000, 20_000
QUICK_RUNS, QUICK_ENTRIES = 100, 2000
FIRST_CONTENT_SECONDS = 2.5
COMMIT_SECONDS = 1.0
MILLISECONDS: Final = 1000.0
PATIENCE_MILLISECONDS: Final = 240 * MILLISECONDS

STORY: Final = "Tell a long story about a harbour, a lantern and a copper ledger."
WORKFLOWS: Final = """
from agentsys import Workflow
from agentsys.serving.requests import SamplingParams

async def tell(context, text):
    return (await context.generate(text, sampling=SamplingParams(max_tokens=200, ignore_eos=True))).value

workflow = Workflow("tell", tell)
"""


def main(options: Options) -> BenchResult:
    """Build the board, serve it, and measure everything in one browser."""
    runs, entries = (QUICK_RUNS, QUICK_ENTRIES) if options.quick else (RUNS, ENTRIES)
    with tempfile.TemporaryDirectory() as folder:
        board, workflows = Path(folder) / "board.db", Path(folder) / "tell.py"
        workflows.write_text(WORKFLOWS, encoding="utf-8")
        build_board(board, runs=runs, entries=entries)
        run = _newest_run(board)
        with served_console(str(workflows), board=board) as url, browser() as chromium:
            pages = _pages(url, run)
            for content in pages.values():  # once, so that both processes have loaded what they load at first use
                _first_content(chromium, *content)
            arms = {name: partial(_first_content, chromium, *content) for name, content in pages.items()}
            shown = interleave(arms, options.repeats)
            latencies = _commit_latencies(chromium, url, board, options.repeats)
            streamed = [_stream(chromium, url) for _ in range(1 if options.quick else 3)]
    return _result(f"{runs:,} runs, {entries:,} entries", shown, latencies, streamed)


def _newest_run(board: Path) -> str:
    with Board.open_read_only(board) as opened:
        return list_runs(opened)[-1].run


Content = tuple[str, Callable[["Page"], "Locator"]]
"""An address, and what is seen of its page once it has content."""


def _pages(url: str, run: str) -> dict[str, Content]:
    return {
        "Runs": (url, lambda page: page.locator('a[href*="run="]').first),
        "Run": (f"{url}/run?run={run}", lambda page: page.get_by_text("Answer", exact=True).first),
        "Blackboard": (f"{url}/blackboard", lambda page: page.get_by_text("up to date at commit").first),
    }


@contextmanager
def _new_page(chromium: Browser) -> Iterator[Page]:
    """Open a page as a browser that has never seen the console, its cache empty."""
    with closing(chromium.new_context(viewport={"width": 1280, "height": 900})) as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        yield page


def _first_content(chromium: Browser, address: str, content: Callable[[Page], Locator]) -> float:
    with _new_page(chromium) as page:
        began = time.monotonic()
        page.goto(address, wait_until="commit")
        content(page).wait_for()
        return time.monotonic() - began


def _commit_latencies(chromium: Browser, url: str, board: Path, repeats: int) -> list[float]:
    """Return seconds from a commit of another process to its appearance in the open Runs page."""
    command = [sys.executable, "-m", "agentsys.benchmarks.run_writer", str(board)]
    with (
        _new_page(chromium) as page,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer,
    ):
        assert writer.stdin is not None and writer.stdout is not None
        page.goto(url)
        page.locator('a[href*="run="]').first.wait_for()
        latencies = []
        for number in range(repeats):
            # Between refreshes, wherever in their rhythm.
            time.sleep(0.5 + number / repeats)
            question = f"Did commit number {number} arrive?"
            writer.stdin.write(f"{question}\n")
            writer.stdin.flush()
            committed = float(writer.stdout.readline())
            page.get_by_text(question).first.wait_for()
            latencies.append(time.monotonic() - committed)
        writer.stdin.close()
        return latencies


def _stream(chromium: Browser, url: str) -> Reruns:
    """Ask for a long answer; return the runs of the page's script from its first tokens to its end."""
    with _new_page(chromium) as page:
        watch = ScriptWatch.of(page)
        page.goto(f"{url}/ask")
        page.get_by_label("Input", exact=True).fill(STORY)
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_text("done", exact=True).first.wait_for()
        return watch.between("wrote", "-badge[running]")


def _result(what: str, shown: dict[str, list[float]], latencies: list[float], streamed: list[Reruns]) -> BenchResult:
    content = {f"first content of the {name} page": seconds for name, seconds in shown.items()}
    latency, whole = median(latencies), sum(one.whole for one in streamed)
    fragments = sum(one.fragments for one in streamed)
    slowest = max(median(figures) for figures in content.values())
    measured = content | {"from a commit of another process to the page": latencies}
    return BenchResult(
        name="console",
        figure=f"first content ≤ {slowest:.2f} s, a commit shows after {latency:.2f} s, {whole} reruns under a stream",
        columns=["measured", "median s", "fastest s", "slowest s"],
        rows=[
            [name, *(round(value, 3) for value in (median(figures), min(figures), max(figures)))]
            for name, figures in measured.items()
        ],
        bars=[
            *(
                Bar(f"{name}, s", median(figures), FIRST_CONTENT_SECONDS, at_least=False)
                for name, figures in content.items()
            ),
            Bar("from a commit of another process to the page, s", latency, COMMIT_SECONDS, at_least=False),
            Bar("full reruns of the page while an answer streams", whole, 0, at_least=False),
            Bar("updates of the page while an answer streams", fragments, 1),
        ],
        repetitions=measured,
        notes=[
            f"{what}; each first content in a new browser context, its cache empty",
            f"while {len(streamed)} answers streamed: {fragments} fragment runs, {whole} full runs",
        ],
    )
