"""What the gateway was asked: recorded with its decision, so that anybody can let it decide again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label, Readers
from agentsys.gateway import Allow, AskCall, Decision, Deny, Gateway
from agentsys.tools import to_json

_MERGE: Final = "merge "
UNKNOWN_ENDORSER: Final = "the policy declares none of that name"


def about_call(
    tool: str, arguments: Mapping[str, Any], control: Label, labels: Mapping[str, Label], fault: str | None = None
) -> Json:
    """Return the question whether ``tool`` may be called; ``labels`` are of the arguments that carry their own.

    ``fault`` says why there is no value for one of them.
    """
    question: dict[str, Any] = {
        "kind": "call",
        "tool": tool,
        "arguments": to_json(dict(arguments)),
        "control": control.to_json(),
        "labels": {name: label.to_json() for name, label in labels.items()},
    }
    return question if fault is None else {**question, "fault": fault}


def about_write(topic: str, label: Label) -> Json:
    """Return the question whether an entry of ``topic`` may be written."""
    return {"kind": "write", "topic": topic, "label": label.to_json()}


def merging(topic: str, key: str) -> str:
    """Return the action of which an allowed merge is on record."""
    return f"{_MERGE}{topic}/{key}"


def is_merge(action: str) -> bool:
    """Whether a decision's action is a merge."""
    return action.startswith(_MERGE)


def about_disclosure(what: str, label: Label, audience: Readers) -> Json:
    """Return the question whether ``audience`` may learn something."""
    members = None if audience.members is None else sorted(audience.members)
    return {"kind": "disclosure", "what": what, "label": label.to_json(), "audience": to_json(members)}


def about_person(what: str, label: Label) -> Json:
    """Return the question whether a person may be asked about something."""
    return {"kind": "person", "what": what, "label": label.to_json()}


def about_endorser(name: str) -> Json:
    """Return the question whether the policy knows an endorser."""
    return {"kind": "endorser", "name": name}


async def decided_again(gateway: Gateway, question: Any) -> Decision | AskCall:
    """Return what a gateway decides about a recorded question."""
    match question["kind"]:
        case "call":
            labels = {name: Label.from_json(label) for name, label in question["labels"].items()}
            control = Label.from_json(question["control"])
            tool, arguments, fault = question["tool"], question["arguments"], question.get("fault")
            return await gateway.judge(tool, arguments, control=control, labels=labels, fault=fault)
        case "write":
            return gateway.decide_write(question["topic"], Label.from_json(question["label"]))
        case "disclosure":
            members = question["audience"]
            audience = Readers(None if members is None else frozenset(members))
            return gateway.decide_disclosure(question["what"], Label.from_json(question["label"]), audience)
        case "person":
            return gateway.decide_question(question["what"], Label.from_json(question["label"]))
        case "endorser":
            return (
                Allow("endorsed")
                if question["name"] in gateway.policy.endorsers
                else Deny("unknown-endorser", UNKNOWN_ENDORSER)
            )
        case kind:
            raise ValueError(f"no such question: {kind!r}")
