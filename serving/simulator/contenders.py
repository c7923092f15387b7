"""The policies that are compared, by name: how each builds its core for a cluster."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agentsys.serving.requests import Usage
from agentsys.serving.scheduling.calls import ReplicaSpec
from agentsys.serving.scheduling.dispatch import DispatchCore
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.lengths import OutputLengths
from agentsys.serving.scheduling.policy import Policy, UrgencyPolicy
from agentsys.serving.scheduling.replicas import Replica
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.simulator import rivals
from agentsys.serving.simulator.cluster import Cluster
from agentsys.serving.simulator.profile import StageProfile
from agentsys.serving.simulator.results import SimulationResult
from agentsys.serving.simulator.simulation import Core, Simulation
from agentsys.serving.simulator.trace import Trace
from agentsys.serving.torch_engine.limits import Tuning

Build = Callable[[rivals.Knowledge], Core]


@dataclass(slots=True)
class Contender:
    """A policy at one number of slots. ``preemptive`` says whether engines let an urgent call take a slot.

    ``tuning`` is that of the engines' schedulers, the cluster's if None; ``uses_deadlines`` whether they change
    anything; ``setting`` are the parameters chosen, for people to read.
    """

    name: str
    build: Callable[[Cluster, Sequence[ReplicaSpec]], Core]
    slots: int
    preemptive: bool = False
    tuning: Tuning | None = None
    uses_deadlines: bool = True
    setting: str = ""

    def run(self, trace: Trace, cluster: Cluster, scale: float) -> SimulationResult:
        """Simulate a trace with deadlines at ``scale``."""
        if self.tuning is not None:
            cluster = replace(cluster, shape=replace(cluster.shape, tuning=self.tuning))
        specs = cluster.specs(self.slots, preemptive=self.preemptive)
        core = self.build(cluster, specs)
        seconds = cluster.call_seconds
        return Simulation(trace, cluster.replicas(specs), core, call_seconds=seconds, scale=scale).run()


def _least_work(knowledge: rivals.Knowledge, key: rivals.Key) -> Core:
    return rivals.EarlyBinding(knowledge.specs, rivals.LeastWork(knowledge.specs, knowledge.profile), key)


def _attained(knowledge: rivals.Knowledge) -> Core:
    fastest = min((Replica(spec, 0) for spec in knowledge.specs), key=lambda one: one.alone(512, 128))

    def price(usage: Usage) -> float:
        return fastest.alone(usage.prompt_tokens, usage.completion_tokens)

    served = rivals.AttainedService(price)
    placement = rivals.LeastWork(knowledge.specs, knowledge.profile)
    return rivals.EarlyBinding(knowledge.specs, placement, served.key, served)


def hexgen(alpha: float) -> Build:
    """Return HexGen-Flow with this α."""

    def build(knowledge: rivals.Knowledge) -> Core:
        balance = rivals.WorkloadBalance(knowledge.seconds, len(knowledge.specs), alpha)
        return rivals.EarlyBinding(knowledge.specs, balance, rivals.by_stage_slack(knowledge))

    return build


RIVALS: Final[Mapping[str, tuple[Build, bool]]] = {
    "round-robin, FCFS": (
        lambda known: rivals.EarlyBinding(known.specs, rivals.RoundRobin(known.specs), rivals.by_arrival),
        False,
    ),
    "least work, FCFS": (lambda known: _least_work(known, rivals.by_arrival), False),
    "least work, priority by workflow's arrival": (lambda known: _least_work(known, rivals.by_workflow_arrival), False),
    "least work, priority by deadline": (lambda known: _least_work(known, rivals.by_deadline), False),
    "least work, priority by κ": (lambda known: _least_work(known, rivals.by_latest_start(known.profile)), False),
    "attained service": (_attained, True),
}
"""What builds each rival without parameters, and whether its engines preempt."""

WITHOUT_DEADLINES: Final = frozenset(
    ("round-robin, FCFS", "least work, FCFS", "least work, priority by workflow's arrival", "attained service")
)

ALPHAS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def rival(name: str, build: Build, profile: StageProfile, slots: int, *, preemptive: bool) -> Contender:
    """Return a rival that knows the training trace's means."""
    return Contender(
        name,
        lambda cluster, specs: build(rivals.Knowledge(specs, cluster.shape, profile)),
        slots,
        preemptive,
        uses_deadlines=name not in WITHOUT_DEADLINES,
        setting=f"{slots} slots",
    )


@dataclass(slots=True)
class Learned:
    """What our dispatcher learned on a training trace: copies of it begin every run."""

    workflows: WorkflowTable = field(default_factory=WorkflowTable)
    lengths: OutputLengths = field(default_factory=OutputLengths)


def ours(
    slots: int,
    learned: Learned | None = None,
    *,
    policy: Policy | None = None,
    limits: DispatchLimits | None = None,
    tuning: Tuning | None = None,
    name: str = "ours",
    preemptive: bool = True,
) -> Contender:
    """Return our dispatcher, which knows what it has learned before and learns on."""
    before = learned or Learned()

    def build(_cluster: Cluster, specs: Sequence[ReplicaSpec]) -> Core:
        known = copy.deepcopy(before)
        return DispatchCore(
            specs, policy=policy or UrgencyPolicy(), limits=limits, workflows=known.workflows, lengths=known.lengths
        )

    return Contender(name, build, slots, preemptive, tuning, setting=f"{slots} slots")


def learn(trace: Trace, cluster: Cluster, slots: int = 16) -> Learned:
    """Let our dispatcher serve a training trace, and return what it learned."""
    learned = Learned()
    specs = cluster.specs(slots, preemptive=True)
    core = DispatchCore(specs, workflows=learned.workflows, lengths=learned.lengths)
    Simulation(trace, cluster.replicas(specs), core, call_seconds=cluster.call_seconds).run()
    return learned
