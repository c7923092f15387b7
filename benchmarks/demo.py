"""The demo lake with the configured model: right files, right answers, plans that parse, and memory.

The lake is the 17 data files of the package ``vega_datasets``; questions, files and answers are in
``benchmarks/data/demo_questions.json``, with the query that computed each answer from the raw file.
"""

from __future__ import annotations

import asyncio
import csv
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsys.benchmarks.harness import Bar, BenchResult, Options, median
from agentsys.benchmarks.memory import peak_mib
from agentsys.errors import AgentsysError
from agentsys.lake.ask import ASK
from agentsys.lake.lake import Lake
from agentsys.lake.local import lake_folder, lake_runtime
from agentsys.lake.queries.plan import Plan
from agentsys.settings import load_settings

LAKE = "package:vega_datasets/_data"
QUESTIONS = Path(__file__).parent / "data" / "demo_questions.json"
CSV_BYTES = 10**9
QUICK_CSV_BYTES = 10**8
PROFILE = (
    "import pathlib, sys; from agentsys.lake.lake import Lake; Lake.open(sys.argv[1], cache=pathlib.Path(sys.argv[2]))"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one question; ``seconds`` is the time to its answer."""

    id: str
    right_file: bool
    right_answer: bool
    parses: bool
    answer: Any
    plan: str
    seconds: float

    def row(self) -> list[str | float]:
        marks = ["right" if right else "wrong" for right in (self.right_file, self.right_answer, self.parses)]
        return [self.id, *marks, str(self.answer), self.plan, round(self.seconds, 2)]


def same(answer: Any, expected: Any) -> bool:
    """Whether an answer is the expected one: numbers to a millionth, texts exactly."""
    if isinstance(expected, int | float):
        return isinstance(answer, int | float) and math.isclose(answer, expected, rel_tol=1e-6)
    return bool(answer == expected)


def main(options: Options) -> BenchResult:
    """Ask every question in one runtime, then measure the memory of the same command line and of a large CSV."""
    asked = asyncio.run(_ask_all())
    ask_peak = peak_mib(_ask_command())
    size = QUICK_CSV_BYTES if options.quick else CSV_BYTES
    profile_peak = _profile_peak(size)
    files, answers = sum(item.right_file for item in asked), sum(item.right_answer for item in asked)
    return BenchResult(
        name="demo",
        figure=f"right file {files}/{len(asked)}, right answer {answers}/{len(asked)}, ask peaks at {ask_peak:.0f} MiB",
        columns=["question", "file", "answer", "parses", "gave", "plan", "s"],
        rows=[item.row() for item in asked],
        bars=[
            Bar("questions with the right file", files, 8),
            Bar("plans that do not parse", sum(not item.parses for item in asked), 0, at_least=False),
            Bar("peak of `agentsys ask`, MiB", ask_peak, 2048, at_least=False),
            Bar(f"peak of profiling a CSV of {size / 1e9:g} GB, MiB", profile_peak, 1024, at_least=False),
        ],
        repetitions={"seconds to answer": [item.seconds for item in asked]},
        notes=[f"right answers: {answers} of {len(asked)}; median {median([i.seconds for i in asked]):.2f} s each"],
    )


async def _ask_all() -> list[Asked]:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings({"board.path": Path(folder) / "board.db"}).settings
        lake = Lake.open(lake_folder(LAKE), cache=settings.lake.cache)
        runtime = lake_runtime(lake, settings)
        asked = []
        try:
            for question in json.loads(QUESTIONS.read_text(encoding="utf-8")):
                began = time.monotonic()
                result = await runtime.run(ASK, {"question": question["question"]})
                value = result.value if result.status == "done" else {"sources": [], "answer": None, "plan": ""}
                files = {Path(file).name for source in value["sources"] for file in source["files"]}
                asked.append(
                    Asked(
                        id=question["id"],
                        right_file=files == {question["file"]},
                        right_answer=same(value["answer"], question["answer"]),
                        parses=_parses(value["plan"], lake.families),
                        answer=value["answer"] if result.failure is None else result.failure.message,
                        plan=value["plan"],
                        seconds=time.monotonic() - began,
                    )
                )
        finally:
            await runtime.close()
        return asked


def _parses(plan: str, families: Any) -> bool:
    try:
        Plan.parse(plan).validate(families)
    except AgentsysError:
        return False
    return True


def _ask_command() -> list[str]:
    script = "from agentsys.cli.app import main; main()"
    board = Path(tempfile.mkdtemp()) / "board.db"
    return [sys.executable, "-c", script, "ask", "--lake", LAKE, "--questions", str(QUESTIONS), "--board", str(board)]


def _profile_peak(size: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        lake.mkdir()
        _write_csv(lake / "large.csv", size)
        return peak_mib([sys.executable, "-c", PROFILE, str(lake), str(Path(folder) / "cache")])


def _write_csv(path: Path, size: int) -> None:
    """Write rows of mixed columns until the file has ``size`` bytes; the same rows on every machine."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "day", "town", "amount", "remark"])
        rows = _rows(random.Random(0))
        while file.tell() < size:
            writer.writerows(next(rows) for _ in range(1000))


def _rows(source: random.Random) -> Iterator[list[Any]]:
    number = 0
    while True:
        number += 1
        day = f"{2000 + number % 25}-{number % 12 + 1:02}-{number % 28 + 1:02}"
        amount, remark = f"{source.uniform(0, 1e5):,.2f}", f"{source.random():.12f}"
        yield [number, day, f"town {source.randrange(5000)}", amount, remark]
