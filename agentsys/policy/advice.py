"""What in a policy is allowed to be written and yet is likely a mistake."""

from __future__ import annotations

from collections.abc import Iterable

from agentsys.policy.policy import Policy
from agentsys.policy.rules import EVERYONE, ToolRule, naming
from agentsys.tools import Tool


def advice(policy: Policy, tools: Iterable[Tool] | None = None) -> list[str]:
    """Return what looks like a mistake, by place; ``tools`` are those that the policy will stand over, where known."""
    found = [line for name, rule in policy.tools.items() for line in _of_rule(name, rule)]
    used = {by for rule in policy.tools.values() for each in rule.arguments.values() for by in each.endorsers}
    used |= {by for rule in policy.tools.values() for by in rule.control_endorsers} | set(policy.answer.endorsers)
    found += [f"endorsers.{name}: no argument accepts it" for name in policy.endorsers if name not in used]
    listed = {endorser.domain for endorser in policy.endorsers.values()}
    found += [f"domains.{name}: no endorser uses it" for name in policy.domains if name not in listed]
    return found if tools is None else found + _against(policy, list(tools))


def _of_rule(name: str, rule: ToolRule) -> list[str]:
    found = []
    targets = [argument for argument, each in rule.arguments.items() if each.role == "target"]
    if rule.declassifies and not targets:
        told = "everyone" if EVERYONE in (rule.audience or (EVERYONE,)) else "a fixed audience"
        found.append(f"tools.{name}: declassifies to {told}, and no argument is a target")
    for member in rule.audience or ():
        argument = naming(member)
        if argument is not None and rule.argument(argument).role == "payload":
            found.append(f"tools.{name}: {argument} names the audience, and strangers may shape it")
    found += [
        f"tools.{name}.arguments.{argument}: endorsers of a payload are never asked"
        for argument, each in rule.arguments.items()
        if each.role == "payload" and each.endorsers
    ]
    if rule.source == () and rule.consequential is False and not rule.fields and rule.readers is None:
        found.append(f"tools.{name}: everything it brings in counts as trusted; no stranger may be able to write it")
    return found


def _against(policy: Policy, tools: list[Tool]) -> list[str]:
    known = {tool.name: tool for tool in tools}
    found = [f"tools.{name}: there is no such tool" for name in policy.tools if name not in known]
    for name, rule in policy.tools.items():
        tool = known.get(name)
        if tool is None or tool.parameters.model_config.get("extra") == "allow":
            continue
        missing = [argument for argument in rule.arguments if argument not in tool.parameters.model_fields]
        found += [f"tools.{name}.arguments.{argument}: the tool has no such argument" for argument in missing]
    silent = [name for name, tool in known.items() if tool.consequential and name not in policy.tools]
    return found + [f"tools.{name}: consequential, and the policy says nothing of it" for name in silent]
