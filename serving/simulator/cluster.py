"""Simulated clusters: which replicas there are, how fast they step, and what they can bear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentsys.serving.scheduling.calls import ReplicaSpec
from agentsys.serving.scheduling.step_time import StepTime
from agentsys.serving.simulator.torch_replica import EngineShape, TorchReplica
from agentsys.serving.simulator.trace import TraceCall

_WEIGHT_BYTES: Final = 16.1e9
_KV_BYTES_PER_TOKEN: Final = 131_072
_FLOPS_PER_TOKEN: Final = 16.1e9
_SEQUENCE_SECONDS: Final = 50e-6


def roofline(memory_bandwidth: float, flops: float) -> StepTime:
    """Return step times of an 8-billion-parameter model in 16 bits (Llama-3-8B-shaped: 32 layers, 8 KV heads of 128).

    A step reads every weight and every key and value once at 80 % of ``memory_bandwidth`` (bytes a second), and
    prefill runs at 50 % of the ``flops`` a second that the vendor states for dense 16-bit arithmetic. 50 µs for each
    sequence stand for sampling and bookkeeping.
    """
    return StepTime(
        base=_WEIGHT_BYTES / (0.8 * memory_bandwidth),
        per_prefill=_FLOPS_PER_TOKEN / (0.5 * flops),
        per_sequence=_SEQUENCE_SECONDS,
        per_context=_KV_BYTES_PER_TOKEN / (0.8 * memory_bandwidth),
    )


A100: Final = roofline(2.039e12, 312e12)
A6000: Final = roofline(0.768e12, 154.8e12)
L40S: Final = roofline(0.864e12, 362e12)


@dataclass(frozen=True, slots=True)
class Machine:
    """One replica's hardware: step times, and tokens of KV cache beside the weights."""

    name: str
    step_time: StepTime
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """Replicas of one model."""

    machines: tuple[Machine, ...]
    shape: EngineShape = field(default_factory=EngineShape)

    def specs(self, slots: int, *, preemptive: bool) -> list[ReplicaSpec]:
        """Return what a dispatcher is told of the replicas."""
        return [
            ReplicaSpec(one.name, slots, one.step_time, preemptive, preemptive, kv_tokens=one.kv_tokens)
            for one in self.machines
        ]

    def replicas(self, specs: Sequence[ReplicaSpec]) -> list[TorchReplica]:
        """Return idle replicas with the torch engine's scheduler."""
        return [TorchReplica(spec, self.shape) for spec in specs]

    @property
    def call_seconds(self) -> Callable[[TraceCall], float]:
        """How long a call takes alone on the fastest replica."""
        return lambda call: min(alone(one.step_time, self.shape, call) for one in self.machines)


def alone(prices: StepTime, shape: EngineShape, call: TraceCall) -> float:
    """Return the seconds of a call on an idle replica, nothing cached; the last prefill step gives the first token."""
    prefill, left, total = 0, call.prompt_tokens, 0.0
    while left:
        chunk = min(left, shape.max_step_tokens)
        prefill, left = prefill + chunk, left - chunk
        total += prices.seconds(chunk, 0, prefill)
    steps = call.completion_tokens - 1
    context = call.prompt_tokens + (steps + 1) / 2
    return total + steps * prices.seconds(0, 1, context)


HETEROGENEOUS: Final = Cluster(
    (
        Machine("a100-0", A100, 400_000),
        Machine("a100-1", A100, 400_000),
        Machine("a6000", A6000, 200_000),
        Machine("l40s", L40S, 200_000),
    )
)
"""Two fast replicas and two slow ones, as in HexGen-Flow's heterogeneous testbed (arXiv 2505.05286)."""
