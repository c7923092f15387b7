"""How far the simulator is from the real torch engine: a trace is served by both at a load the fit has not seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentsys.benchmarks.harness import Options, other_cpu_share
from agentsys.serving.scheduling.calls import Call
from agentsys.serving.scheduling.step_time import Iteration, StepTime, StepTimeFit
from agentsys.serving.simulator.cluster import Cluster, Machine
from agentsys.serving.simulator.live import serve_live
from agentsys.serving.simulator.results import quantile
from agentsys.serving.simulator.rivals import EarlyBinding, RoundRobin
from agentsys.serving.simulator.simulation import EPOCH, Simulation
from agentsys.serving.simulator.torch_replica import EngineShape
from agentsys.serving.simulator.trace import Trace, TraceWorkflow
from agentsys.serving.simulator.workload import WorkloadSpec, generate
from agentsys.serving.torch_engine.engine import TorchEngine
from agentsys.serving.torch_engine.limits import Tuning
from agentsys.serving.weights.pull import pull

SLOTS: Final = 4
STEP_TOKENS: Final = 256
KV_BYTES: Final = 256 * 2**20
BLOCK_SIZE: Final = 16
DEADLINE_SCALE: Final = 4.0
GUESS: Final = StepTime(base=0.02, per_prefill=1e-3, per_sequence=2e-3, per_context=1e-6)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Latencies of the held-out workflows, in seconds, of the engine and of the simulator."""

    real: Sequence[float]
    simulated: Sequence[float]
    notes: Sequence[str]

    def error(self, part: float) -> float:
        """Return by how many percent the simulated quantile is off."""
        return 100 * abs(quantile(self.simulated, part) / quantile(self.real, part) - 1)


def fidelity(options: Options) -> Fidelity:
    """Serve one trace to fit the step times, before and after another one at another load, which is compared."""
    workflows = 8 if options.quick else 24
    common = {"workflows": workflows, "length_scale": 0.08, "most_tokens": 512, "tool_scale": 0.5}
    fitted_on = generate(WorkloadSpec(rate=0.35, seed=21, **common))  # type: ignore[arg-type]
    held_out = generate(WorkloadSpec(rate=0.5, seed=22, **common))  # type: ignore[arg-type]
    folder = pull(options.arguments.get("model", "smollm2-135m"))
    tuning = Tuning()
    engine = TorchEngine.load(
        folder, kv_cache_bytes=KV_BYTES, max_batch=SLOTS, max_step_tokens=STEP_TOKENS, drafter=None, tuning=tuning
    )
    busy = other_cpu_share()
    _latencies, before = asyncio.run(_serve(engine, fitted_on))
    real, during = asyncio.run(_serve(engine, held_out))
    _latencies, after = asyncio.run(_serve(engine, fitted_on))
    iterations = [*before, *after]
    prices = StepTimeFit.of(iterations, GUESS).model
    blocks = engine.stats().kv_total_blocks
    asyncio.run(engine.close())
    simulated = _simulate(held_out, prices, blocks, tuning)
    notes = [
        f"Fitted on {len(iterations)} steps of the torch engine: {1000 * prices.base:.2f} ms, "
        f"{1e6 * prices.per_prefill:.0f} µs a prompt token, {1000 * prices.per_sequence:.2f} ms a sequence, "
        f"{1e9 * prices.per_context:.0f} ns a token of context.",
        f"Held out: P50 {quantile(real, 0.5):.2f} s real, {quantile(simulated, 0.5):.2f} s simulated; "
        f"P95 {quantile(real, 0.95):.2f} and {quantile(simulated, 0.95):.2f} s. Other processes kept {busy:.1f} cores "
        f"busy before and {other_cpu_share():.1f} after, and a held-out step took {_drift(during, prices):.2f} times "
        "what the fit says.",
    ]
    return Fidelity(real, simulated, notes)


def _drift(iterations: Sequence[Iteration], prices: StepTime) -> float:
    """Return how much slower steps were than a fit says: what a busy machine adds, if it is far from 1."""
    expected = [prices.seconds(one.prefill_tokens, one.decoding, one.context_tokens) for one in iterations]
    return sum(one.seconds for one in iterations) / sum(expected)


async def _serve(engine: TorchEngine, trace: Trace) -> tuple[list[float], list[Iteration]]:
    """Serve a trace in real time; returns the workflows' latencies in order, and the engine's steps."""
    last, _ = engine.iterations()
    iterations: list[Iteration] = []
    serving = asyncio.ensure_future(serve_live(engine, trace, _due, dispatched=False))
    while not serving.done():
        await asyncio.wait([serving], timeout=1.0)
        last, new = engine.iterations(last)
        iterations += new
    return await serving, iterations


def _due(workflow: TraceWorkflow) -> float:
    """Return the seconds from arrival to the deadline; both sides take it for κ."""
    return DEADLINE_SCALE * workflow.tightness * workflow.critical_path(lambda call: 0.05 * call.completion_tokens)


def _simulate(trace: Trace, prices: StepTime, blocks: int, tuning: Tuning) -> list[float]:
    shape = EngineShape(BLOCK_SIZE, STEP_TOKENS, 2048, tuning)
    cluster = Cluster((Machine("torch", prices, blocks * BLOCK_SIZE),), shape)
    specs = cluster.specs(SLOTS, preemptive=True)
    due = {one.workflow: EPOCH + one.arrived + _due(one) for one in trace.workflows}

    def key(call: Call, _place: int, _now: float) -> float:
        return due[call.place.workflow]

    core = EarlyBinding(specs, RoundRobin(specs), key)
    result = Simulation(trace, cluster.replicas(specs), core, call_seconds=cluster.call_seconds).run()
    latency = {record.workflow: record.latency for record in result.workflows}
    return [latency[one.workflow] for one in trace.workflows]
