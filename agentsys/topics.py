"""Names of the board topics in which the runtime keeps the record of its runs. Agents can neither read nor write them.

====================================  =========================================  ===================
topic                                 key                                        entry type
====================================  =========================================  ===================
``runs``                              run                                        ``run``
``runs/{run}/requests``               round                                      ``request``
``runs/{run}/bids/{round}``           agent                                      ``bid``
``runs/{run}/responses/{round}``      agent                                      ``response``
``runs/{run}/rounds``                 round                                      ``round``
``runs/{run}/steps``                  actor path # attempt : index               ``step``
``runs/{run}/decisions``              actor path # attempt : index               ``decision``
``approvals``                         approval                                   ``approval``
``tool_pins``                         server of foreign tools                    ``tool_pins``
``memo``                              HMAC of a question                         ``memo``
``leases``                            run                                        ``lease``
``quotas``                            what is counted, of a run or an hour       ``quota``
``policies``                          version                                    ``policy``
``board/compactions``                 horizon                                    ``compaction``
``board/erasures``                    erasure                                    ``erasure``
====================================  =========================================  ===================
"""

from __future__ import annotations

from typing import Final

from agentsys.blackboard import memo
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.verification import COMPACTIONS, ERASURES

RUNS: Final = "runs"
APPROVALS: Final = "approvals"
TOOL_PINS: Final = "tool_pins"
MEMO: Final = memo.TOPIC
LEASES: Final = "leases"
QUOTAS: Final = "quotas"
POLICIES: Final = "policies"
RESERVED_PREFIX: Final = "runs/"
_RESERVED: Final = (RUNS, APPROVALS, TOOL_PINS, MEMO, LEASES, QUOTAS, POLICIES, COMPACTIONS, ERASURES)


def requests(run: str) -> str:
    return f"{RESERVED_PREFIX}{run}/requests"


def bids(run: str, round_id: str) -> str:
    return f"{RESERVED_PREFIX}{run}/bids/{round_id}"


def responses(run: str, round_id: str) -> str:
    return f"{RESERVED_PREFIX}{run}/responses/{round_id}"


def rounds(run: str) -> str:
    return f"{RESERVED_PREFIX}{run}/rounds"


def steps(run: str) -> str:
    return f"{RESERVED_PREFIX}{run}/steps"


def decisions(run: str) -> str:
    return f"{RESERVED_PREFIX}{run}/decisions"


def is_reserved(topic: str) -> bool:
    return topic in _RESERVED or is_of_run(topic)


def is_of_run(topic: str) -> bool:
    """Whether a topic is of one run's own record."""
    return topic.startswith(RESERVED_PREFIX)


def may_match_reserved(predicate: Predicate) -> bool:
    """Whether some reserved topic could satisfy ``predicate``."""
    if predicate.topic is not None:
        return is_reserved(predicate.topic)
    prefix = predicate.topic_prefix or ""
    return prefix.startswith(RESERVED_PREFIX) or any(name.startswith(prefix) for name in (RESERVED_PREFIX, *_RESERVED))
