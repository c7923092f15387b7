"""What a client is told of a run: its state, and its answer where the label lets the client read it."""

from __future__ import annotations

from dataclasses import dataclass

from a2a.helpers.proto_helpers import new_text_part
from a2a.types.a2a_pb2 import Artifact, Message, Role, Task, TaskState, TaskStatus

from agentsys.blackboard.labels import Readers
from agentsys.gateway import PolicyDenied
from agentsys.policy.policy import Policy
from agentsys.protocols.a2a.labels import FLOW_EXTENSION, flow_metadata, principal_of_client
from agentsys.protocols.a2a.parts import parts_of
from agentsys.runs import RunResult


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a task: its state, its artifact if the run has an answer for this client, else why not."""

    state: TaskState
    artifact: Artifact | None = None
    reason: str = ""


def outcome_of(result: RunResult, client: str, policy: Policy) -> Outcome:
    """Return what ``client`` learns of a run that ended."""
    if str(result.status) == "cancelled":
        return Outcome(TaskState.TASK_STATE_CANCELED)
    if not policy.permits(result.label, Readers.of(principal_of_client(client))):
        return Outcome(
            TaskState.TASK_STATE_FAILED, reason=f"{PolicyDenied.code}: this client may not read the outcome."
        )
    if result.failure is not None:
        return Outcome(TaskState.TASK_STATE_FAILED, reason=f"{result.failure.code}: {result.failure.message}")
    artifact = Artifact(
        artifact_id=f"{result.run}-answer",
        name="answer",
        parts=parts_of(result.value),
        extensions=[FLOW_EXTENSION],
        metadata=flow_metadata(result.label, policy),
    )
    return Outcome(TaskState.TASK_STATE_COMPLETED, artifact)


def agent_message(task_id: str, context_id: str, text: str) -> Message:
    """Return a message of ours about a task."""
    return Message(
        message_id=f"{task_id}-status",
        role=Role.ROLE_AGENT,
        task_id=task_id,
        context_id=context_id,
        parts=[new_text_part(text)],
    )


def concluded(task: Task, outcome: Outcome) -> Task:
    """Return ``task`` as it is once its run ended with ``outcome``."""
    ended = Task()
    ended.CopyFrom(task)
    status = TaskStatus(state=outcome.state)
    if outcome.reason:
        status.message.CopyFrom(agent_message(task.id, task.context_id, outcome.reason))
    status.timestamp.GetCurrentTime()
    ended.status.CopyFrom(status)
    if outcome.artifact is not None and all(
        kept.artifact_id != outcome.artifact.artifact_id for kept in task.artifacts
    ):
        ended.artifacts.append(outcome.artifact)
    return ended
