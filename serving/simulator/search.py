"""What the searches for better scheduling have in common: what they minimise, and which search a file belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from agentsys.errors import ServingError
from agentsys.serving.simulator.cluster import Cluster
from agentsys.serving.simulator.contenders import Contender
from agentsys.serving.simulator.results import quantile
from agentsys.serving.simulator.trace import Trace


class SearchStateError(ServingError):
    """A file of a search cannot be read, or is of a search over other traces, or with other options."""

    code = "AGS-0474"
    remedy = "Give the options it was begun with, or another file."


def needed(contender: Contender, traces: Sequence[Trace], cluster: Cluster, scale: float) -> float:
    """Return what is minimised: the mean over traces of the 95th percentile of the scales that workflows needed.

    A workflow's needed scale is its latency over its tightness times its isolated time; deadlines are told at
    ``scale``.
    """
    results = [contender.run(trace, cluster, scale) for trace in traces]
    return fmean(quantile([record.needed_scale for record in result.workflows], 0.95) for result in results)


def identity(traces: Sequence[Trace], cluster: Cluster, **options: float | str) -> str:
    """Return a digest of what a search's scores depend on."""
    described = {
        "traces": [[asdict(workflow) for workflow in trace.workflows] for trace in traces],
        "cluster": asdict(cluster),
        "options": options,
    }
    return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()
