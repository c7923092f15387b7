"""Discovery: which files of a lake volunteer for a question, without a model, beside plain BM25 over files.

Data: KramaBench (mitdbg/KramaBench), lakes ``legal`` and ``environment``; a task's gold files are its data sources.
"""

from __future__ import annotations

import fnmatch
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import bm25s
import numpy as np

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.errors import ConfigurationError
from agentsys.lake.lake import Lake

DATA: Final = Path("../shared/data/kramabench")
LAKES: Final = {"legal": 0.85, "environment": 0.80}
EXTRA_FILES: Final = 15.0
BASELINE_BYTES: Final = 4096
BASELINE_K: Final = 10
_FOLDER_SOURCE: Final = re.compile(r"all (?:\w+ )?(?:files )?in (.+?)/?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Task:
    """One question with its gold files (lake-relative)."""

    id: str
    question: str
    gold: frozenset[str]
    verified: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one task: recall of gold files, files offered beyond the gold families, the same of BM25."""

    recall: float
    extra: float
    first_right: float
    baseline_recall: float
    baseline_extra: float


def gold_files(sources: Iterable[str], paths: Sequence[str]) -> frozenset[str]:
    """Resolve data sources to files: base names, paths, globs or "all csv in FOLDER/", whatever their case."""
    found: set[str] = set()
    for source in sources:
        folder = _FOLDER_SOURCE.match(source)
        pattern = f"{folder[1]}/*" if folder else source
        pattern = f"*/{pattern.strip('/')}".lower()
        found.update(path for path in paths if fnmatch.fnmatchcase(f"/{path}".lower(), pattern))
    return frozenset(found)


def load_tasks(data: Path, name: str, paths: Sequence[str]) -> list[Task]:
    """Return a lake's tasks in order of id."""
    workload = json.loads((data / "workload" / f"{name}.json").read_text(encoding="utf-8"))
    verified = {
        task["id"] for task in json.loads((data / "verified_tasks.json").read_text(encoding="utf-8"))["verified"]
    }
    tasks = [
        Task(task["id"], task["query"], gold_files(task["data_sources"], paths), task["id"] in verified)
        for task in workload
    ]
    return sorted((task for task in tasks if task.gold), key=lambda task: task.id)


class FileBaseline:
    """BM25 over each file's name and first 4 kB."""

    def __init__(self, lake: Lake) -> None:
        self._paths = [file.path for file in lake.files]
        texts = [f"{path} {_head(lake.path / path)}" for path in self._paths]
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def top(self, question: str, count: int) -> list[str]:
        tokens = bm25s.tokenize([question], stopwords="en", return_ids=False, show_progress=False)[0]
        scores = self._index.get_scores(tokens)
        return [self._paths[position] for position in np.argsort(-scores, kind="stable")[:count]]


def _head(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(BASELINE_BYTES).decode("utf-8", "replace")


def evaluate(lake: Lake, baseline: FileBaseline, task: Task) -> Outcome:
    """Score one task; byte-identical files count as equal."""
    digests = {file.path: file.sha256 for file in lake.files}
    own = {path for family in lake.families if task.gold & set(family.files) for path in family.files} | task.gold
    offer = lake.index.offer(task.question)
    offered = {path for claim in offer for path in claim.family.files}
    plain = set(baseline.top(task.question, max(BASELINE_K, len(task.gold))))
    return Outcome(
        _recall(task.gold, offered, digests),
        len(offered - own),
        float(bool(offer) and bool(task.gold & set(offer[0].family.files))),
        _recall(task.gold, plain, digests),
        len(plain - own),
    )


def _recall(gold: frozenset[str], offered: set[str], digests: Mapping[str, str]) -> float:
    known = {digests[path] for path in offered}
    return sum(digests[path] in known for path in gold) / len(gold)


def main(options: Options) -> BenchResult:
    """Run every task of both lakes; raises ConfigurationError where the data is absent."""
    data = Path(options.arguments.get("data", DATA))
    if not (data / "verified_tasks.json").exists():
        raise ConfigurationError(f"{data} holds no KramaBench data.", remedy="Pass its folder as data=FOLDER.")
    rows: list[Sequence[str | float | int]] = []
    bars: list[Bar] = []
    repetitions: dict[str, list[float]] = {}
    for name, bound in LAKES.items():
        lake = Lake.open(data / "data" / name / "input")
        baseline = FileBaseline(lake)
        tasks = load_tasks(data, name, [file.path for file in lake.files])
        outcomes = {task.id: evaluate(lake, baseline, task) for task in tasks}
        verified = [task.id for task in tasks if task.verified]
        parts = {"verified": verified, "tuned on": verified[::2], "held out": verified[1::2], "all": list(outcomes)}
        rows += [_row(name, part, [outcomes[task] for task in ids]) for part, ids in parts.items()]
        recalls = [outcomes[task].recall for task in verified]
        extra = statistics.fmean(outcomes[task].extra for task in verified)
        repetitions[f"{name} recall"] = recalls
        bars += [
            Bar(f"recall, {name}", statistics.fmean(recalls), bound),
            Bar(f"files beyond the family, {name}", extra, EXTRA_FILES, at_least=False),
        ]
    return BenchResult(
        name="discovery",
        figure=", ".join(f"{bar.name} {bar.value:.2f}" for bar in bars),
        columns=["lake", "tasks", "count", "recall", "extra files", "first right", "BM25 recall", "BM25 extra"],
        rows=rows,
        bars=bars,
        repetitions=repetitions,
    )


def _row(lake: str, part: str, outcomes: Sequence[Outcome]) -> list[Any]:
    means = [
        round(statistics.fmean(getattr(outcome, field) for outcome in outcomes), 3)
        for field in ("recall", "extra", "first_right", "baseline_recall", "baseline_extra")
    ]
    return [lake, part, len(outcomes), *means]
