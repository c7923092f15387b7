"""Addresses among arguments: the hosts that the policy lets them lead to."""

from __future__ import annotations

from collections.abc import Mapping

from agentsys.policy.rules import ToolRule


def egress_fault(rule: ToolRule, arguments: Mapping[str, object]) -> str | None:
    """Say which argument leads to a host that the policy does not name for it; ``None``: none does."""
    for name, argument in rule.arguments.items():
        value = arguments.get(name)
        if argument.hosts is not None and value is not None:
            for address in value if isinstance(value, list) else [value]:
                if not _leads_to(address, argument.hosts):
                    allowed = ", ".join(argument.hosts) or "no host"
                    return f"{name} leads to {str(address)[:200]!r}, and only {allowed} is allowed"
    return None


def _leads_to(address: object, hosts: tuple[str, ...]) -> bool:
    from agentsys.egress import host_of, matches  # brings an HTTP library, which few policies need

    return isinstance(address, str) and matches(host_of(address), hosts)
