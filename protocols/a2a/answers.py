"""Building a peer's answer from what it streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from a2a.types.a2a_pb2 import Artifact, Message, Part, StreamResponse, Task, TaskArtifactUpdateEvent, TaskState
from a2a.utils.errors import ContentTypeNotSupportedError

from agentsys.blackboard.entries import Json
from agentsys.protocols.a2a.errors import A2AError
from agentsys.protocols.a2a.parts import plain, value_of

MAX_ANSWER_BYTES: Final = 8 << 20
"""Bytes that a peer may send in answer to one message."""

ENDED: Final = frozenset(
    {
        TaskState.TASK_STATE_COMPLETED,
        TaskState.TASK_STATE_CANCELED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_REJECTED,
        # Interrupted states end a conversation in which nobody answers the peer's questions.
        TaskState.TASK_STATE_INPUT_REQUIRED,
        TaskState.TASK_STATE_AUTH_REQUIRED,
    }
)


class AnswerTooLarge(A2AError):
    """A peer sent more than an answer may hold."""

    code = "AGS-0764"
    remedy = "Ask for less, or have the peer answer with a summary."


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer answered, and the metadata that came with it."""

    value: Json
    metadata: list[dict[str, Any]]


class AnswerBuilder:
    """Collects one answer; ``state`` stays ``None`` while the peer answers with a plain message."""

    def __init__(self) -> None:
        self.state: TaskState | None = None
        self.task_id = ""
        self._artifacts: dict[str, Artifact] = {}
        self._message: Message | None = None
        self._bytes = 0

    def add(self, event: StreamResponse) -> None:
        """Take in one event. Raises :class:`AnswerTooLarge`."""
        self._bytes += event.ByteSize()
        if self._bytes > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(f"The peer sent more than {MAX_ANSWER_BYTES} bytes.")
        kind = event.WhichOneof("payload")
        if kind == "task":
            self.add_task(event.task)
        elif kind == "message":
            self._message = event.message
        elif kind == "artifact_update":
            self._add_artifact(event.artifact_update)
        elif kind == "status_update":
            self.task_id = event.status_update.task_id
            self.state = event.status_update.status.state
            if event.status_update.status.HasField("message"):
                self._message = event.status_update.status.message

    def add_task(self, task: Task) -> None:
        """Take in the task as it stands."""
        self.task_id, self.state = task.id, task.status.state
        self._artifacts |= {artifact.artifact_id: artifact for artifact in task.artifacts}
        if task.status.HasField("message"):
            self._message = task.status.message

    def answer(self) -> Answer:
        """Return the artifacts' content; without artifacts, that of the last message. Raises ``A2AError``."""
        holders: list[Artifact | Message] = list(self._artifacts.values())
        if not holders and self._message is not None:
            holders = [self._message]
        parts = [part for holder in holders for part in holder.parts]
        try:
            value = value_of(parts)
        except ContentTypeNotSupportedError as error:
            raise A2AError(f"The answer cannot be read: {error}", remedy="Ask for text or JSON.") from error
        return Answer(value, [plain(holder.metadata) for holder in holders] + [plain(part.metadata) for part in parts])

    def words(self) -> str:
        """Return the text of the peer's last message, shortened."""
        parts: list[Part] = list(self._message.parts) if self._message else []
        return " ".join(part.text for part in parts if part.text)[:500] or "no reason given"

    def _add_artifact(self, update: TaskArtifactUpdateEvent) -> None:
        self.task_id = update.task_id
        known = self._artifacts.get(update.artifact.artifact_id)
        if known is None or not update.append:
            self._artifacts[update.artifact.artifact_id] = update.artifact
            return
        for part in update.artifact.parts:
            # Text arrives in pieces of a few words.
            if part.text and known.parts and known.parts[-1].WhichOneof("content") == "text":
                known.parts[-1].text += part.text
            else:
                known.parts.append(part)
        known.metadata.MergeFrom(update.artifact.metadata)
