"""Who learns what is sent to several engines."""

from __future__ import annotations

from collections.abc import Iterable

from agentsys.blackboard.labels import PUBLIC, Readers


def joint_audience(audiences: Iterable[Readers]) -> Readers:
    """Return all of ``audiences`` together; everyone, if one of them is everyone."""
    members = [one.members for one in audiences]
    named = [one for one in members if one is not None]
    return Readers(frozenset().union(*named)) if len(named) == len(members) else PUBLIC
