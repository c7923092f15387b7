"""Where LangGraph's checkpoints lie on the board.

::

    langgraph/{thread}    head:{namespace}                         the newest checkpoint, and who last wrote
                          checkpoint:{namespace}:{id}              one checkpoint
                          writes:{namespace}:{id}:{task}           what a task wrote before its superstep ended

Threads, namespaces and tasks are percent-encoded, so that none can reach into another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final
from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig

from agentsys.blackboard.predicates import Predicate

ROOT: Final = "langgraph/"
CHECKPOINT: Final = "checkpoint"
WRITES: Final = "checkpoint_write"
HEAD: Final = "checkpoint_head"


@dataclass(frozen=True)
class Place:
    """One lineage of checkpoints: a thread and a namespace within it, as LangGraph spells them."""

    thread: str
    namespace: str = ""

    @staticmethod
    def of(config: RunnableConfig) -> Place:
        """Return the lineage that ``config`` names; without a namespace, the root graph's."""
        configurable = config["configurable"]
        return _place(str(configurable["thread_id"]), configurable.get("checkpoint_ns") or "")

    @staticmethod
    def at(topic: str, key: str) -> tuple[Place, str]:
        """Return the lineage and the identifier of the checkpoint that lies at an address."""
        _, namespace, checkpoint = key.split(":", 2)
        return _place(unquote(topic.removeprefix(ROOT)), unquote(namespace)), checkpoint

    @cached_property
    def topic(self) -> str:
        return thread_topic(self.thread)

    @cached_property
    def head(self) -> str:
        return f"head:{self._namespace}"

    @cached_property
    def name(self) -> str:
        """What distinguishes this lineage, as one text."""
        return f"{quoted(self.thread)}/{self._namespace}"

    def checkpoint(self, checkpoint: str) -> str:
        return f"checkpoint:{self._namespace}:{checkpoint}"

    def writes(self, checkpoint: str, task: str) -> str:
        return f"writes:{self._namespace}:{checkpoint}:{quoted(task)}"

    def checkpoints(self) -> Predicate:
        """Return what every checkpoint of this lineage matches."""
        return _keys_below(self.topic, f"checkpoint:{self._namespace}:")

    def all_writes(self, checkpoint: str) -> Predicate:
        """Return what every task's writes to one checkpoint match."""
        return _keys_below(self.topic, f"writes:{self._namespace}:{checkpoint}:")

    @cached_property
    def _namespace(self) -> str:
        return quoted(self.namespace)


@lru_cache(maxsize=1024)
def _place(thread: str, namespace: str) -> Place:
    # The same object for every step: its addresses are spelled once.
    return Place(thread, namespace)


def thread_topic(thread: str) -> str:
    """Return the topic that holds all of a thread."""
    return ROOT + quoted(thread)


def quoted(name: str) -> str:
    """Return ``name`` without a character that an address gives a meaning to."""
    return quote(name, safe="")


def _keys_below(topic: str, stem: str) -> Predicate:
    # The semicolon follows the colon.
    return Predicate(topic=topic, key_from=stem, key_to=f"{stem[:-1]};")
