"""AgentDojo's suites, and an attack that writes a marker into every vector which the user's task reads.

Source: Debenedetti et al., "AgentDojo", NeurIPS 2024; package ``agentdojo`` 0.1.35, benchmark version v1.2.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import yaml
from agentdojo.agent_pipeline.ground_truth_pipeline import GroundTruthPipeline
from agentdojo.functions_runtime import FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suite
from agentdojo.task_suite.task_suite import read_suite_file
from agentdojo.types import get_text_content_as_str

VERSION: Final = "v1.2.2"
SUITES: Final = ("workspace", "travel", "banking", "slack")

MARKER: Final = re.compile(r"\[\[(injection_task_\d+)\]\]")
_PLACE: Final = "VECTOR-{}-HERE"


@dataclass(frozen=True, slots=True)
class Pair:
    """One user task, under the attack of one injection task or of none."""

    suite: str
    user_task: str
    injection_task: str | None = None

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.user_task}/{self.injection_task or 'benign'}"


def benign(suites: tuple[str, ...] = SUITES) -> list[Pair]:
    """Return all user tasks, unattacked: 97 in all suites."""
    return [Pair(suite, task) for suite in suites for task in dojo(suite).suite.user_tasks]


def attacked(suites: tuple[str, ...] = SUITES) -> list[Pair]:
    """Return every user task under every injection task of its suite: 949 in all suites."""
    return [
        Pair(name, task, injection)
        for name in suites
        for task in dojo(name).suite.user_tasks
        for injection in dojo(name).suite.injection_tasks
    ]


def payload(injection_task: Any) -> str:
    """Return what the attacker writes: a marker that the scripted model obeys, and the order in words."""
    return f"[[{injection_task.ID}]] {injection_task.GOAL}"


def markers(text: str) -> list[str]:
    """Return the injection tasks that ``text`` orders, in order and once each."""
    return list(dict.fromkeys(MARKER.findall(text)))


@cache
def dojo(name: str) -> Dojo:
    """Return one suite, loaded once in a process."""
    return Dojo(get_suite(VERSION, name))


@dataclass(slots=True)
class Dojo:
    """One suite and its environments."""

    suite: Any
    _documents: dict[frozenset[str], Any] = field(default_factory=dict)
    _candidates: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def user_task(self, task: str) -> Any:
        return self.suite.user_tasks[task]

    def injection_task(self, task: str) -> Any:
        return self.suite.injection_tasks[task]

    def environment(self, pair: Pair) -> Any:
        """Return a fresh environment, with the injection in all vectors that the user's task reads."""
        if pair.injection_task is None:
            return self.injected({})
        text = payload(self.injection_task(pair.injection_task))
        return self.injected(dict.fromkeys(self.candidates(pair.user_task), text))

    def injected(self, injections: dict[str, str]) -> Any:
        """Return a fresh environment with these texts in its vectors, and the defaults in the others.

        The texts are put in after YAML is read: AgentDojo's own way breaks on braces, quotes and line ends in them.
        """
        vectors = frozenset(injections)
        if vectors not in self._documents:
            defaults: dict[str, str] = self.suite.get_injection_vector_defaults()
            values = defaults | {vector: _PLACE.format(vector) for vector in vectors}
            text: str = read_suite_file(self.suite.name, "environment.yaml", self.suite.data_path)
            self._documents[vectors] = yaml.load(text.format(**values), yaml.CSafeLoader)
        texts = {_PLACE.format(vector): text for vector, text in injections.items()}
        return self.suite.environment_type.model_validate(_replace(self._documents[vectors], texts))

    def candidates(self, task: str) -> tuple[str, ...]:
        """Return the vectors that the ground truth of a user task reads, found by canaries."""
        if task not in self._candidates:
            canaries = {vector: f"CANARY-{vector}-END" for vector in self.suite.get_injection_vector_defaults()}
            user_task = self.user_task(task)
            environment = user_task.init_environment(self.injected(canaries))
            pipeline, runtime = GroundTruthPipeline(user_task), FunctionsRuntime(self.suite.tools)
            messages = pipeline.query(user_task.PROMPT, runtime, environment)[3]
            read = "\n".join(get_text_content_as_str(message["content"] or []) for message in messages)
            self._candidates[task] = tuple(vector for vector, canary in canaries.items() if canary in read)
        return self._candidates[task]


def strings(value: Any) -> Iterator[str]:
    """Give every leaf of a JSON value, and every key, as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)
    elif value is not None:
        yield str(value)


def _replace(document: Any, texts: dict[str, str]) -> Any:
    """Return a copy of ``document`` with the placeholders replaced, in keys too: a channel's name is a vector."""
    if isinstance(document, dict):
        return {_replace(key, texts): _replace(item, texts) for key, item in document.items()}
    if isinstance(document, list):
        return [_replace(item, texts) for item in document]
    if isinstance(document, str):
        for place, text in texts.items():
            document = document.replace(place, text)
    return document
