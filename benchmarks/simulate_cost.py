"""What a decision costs: a step of the torch engine's scheduler, and a placement by the dispatcher."""

from __future__ import annotations

import random
import time
from typing import Final

from agentsys.serving.requests import Usage, WorkflowCall
from agentsys.serving.scheduling.calls import Call, ReplicaSpec, Start
from agentsys.serving.scheduling.dispatch import DispatchCore
from agentsys.serving.simulator.cluster import HETEROGENEOUS, Machine
from agentsys.serving.simulator.replica import SimulatedCall
from agentsys.serving.simulator.torch_replica import TorchReplica

WAITING: Final = 256
SLOTS: Final = 16


def scheduler_milliseconds(steps: int = 400) -> float:
    """Return the CPU milliseconds of a step, scheduling and recording, with 256 sequences behind 16 that run."""
    machine = HETEROGENEOUS.machines[0]
    replica = TorchReplica(_spec(machine, SLOTS), HETEROGENEOUS.shape, skip=False)
    chance = random.Random(0)
    for number in range(WAITING + SLOTS):
        segments = [(number << 32, chance.randint(100, 900))]
        replica.submit(SimulatedCall(f"c{number}", segments, 10_000, chance.uniform(0, 500), number), 0.0)
    replica.begin(0.0)
    replica.finish()
    start = time.process_time()
    now = 0.0
    for _ in range(steps):
        replica.begin(now)
        now = replica.finish().at
    return 1000 * (time.process_time() - start) / steps


def placements_per_second(placements: int = 4000) -> float:
    """Return the placements a CPU second of a dispatcher over four replicas with 256 calls waiting.

    Each placement is a call that ends, one that comes and one that is started.
    """
    specs = [_spec(machine, SLOTS) for machine in HETEROGENEOUS.machines]
    core, chance, now, number = DispatchCore(specs), random.Random(0), 1e6, 0
    for number in range(WAITING + len(specs) * SLOTS):
        core.submit(_call(number, now, chance), now)
    running = [(one.call_id, one.replica) for one in core.decide(now) if isinstance(one, Start)]
    placed, start = 0, time.process_time()
    while placed < placements:
        now += 0.005
        number += 1
        core.ended(*running.pop(chance.randrange(len(running))), Usage(100, 0, chance.randint(20, 150)), now)
        core.submit(_call(number, now, chance), now)
        started = [(one.call_id, one.replica) for one in core.decide(now) if isinstance(one, Start)]
        placed += len(started)
        running += started
    return placed / (time.process_time() - start)


def _spec(machine: Machine, slots: int) -> ReplicaSpec:
    return ReplicaSpec(machine.name, slots, machine.step_time, True, True, kv_tokens=machine.kv_tokens)


def _call(number: int, now: float, chance: random.Random) -> Call:
    deadline = now + chance.uniform(5, 500)
    place = WorkflowCall(f"w{number // 4}", "k", f"s{number % 4}", f"t{number % 3}", deadline, now)
    return Call(f"c{number}", place, now, chance.randint(50, 900), 200)
