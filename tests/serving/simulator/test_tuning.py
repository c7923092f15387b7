"""Tuning: repeatable, never worse than the defaults on its training traces, resumable; its table is one of settings."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from agentsys.sections import ScheduleSettings
from agentsys.serving.models import EngineOptions
from agentsys.serving.scheduling.dispatch import DispatchCore
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.policy import UrgencyPolicy
from agentsys.serving.simulator.cluster import HETEROGENEOUS
from agentsys.serving.simulator.contenders import Learned
from agentsys.serving.simulator.search import SearchStateError, needed
from agentsys.serving.simulator.tuning import Parameters, TuneMissingError, tune
from agentsys.serving.simulator.workload import WorkloadSpec, generate
from agentsys.settings import Settings

TRACES = [generate(WorkloadSpec(workflows=8, rate=4.0, length_scale=0.5, seed=3))]


def search(trials: int, *, scale: float = 4.0, file: Path | None = None) -> tuple[Parameters, float, list[float]]:
    values: list[float] = []
    found, best = tune(
        TRACES,
        HETEROGENEOUS,
        Learned(),
        scale=scale,
        trials=trials,
        seed=7,
        study_file=file,
        after=lambda _number, value, _best: values.append(value),
    )
    return found, best, values


def test_equal_seeds_give_equal_results_and_the_defaults_are_tried_first() -> None:
    one, two = search(4), search(4)
    assert one == two
    found, best, values = one
    assert values[0] == needed(Parameters().contender(Learned()), TRACES, HETEROGENEOUS, 4.0)
    assert best == min(values)
    assert best == needed(found.contender(Learned()), TRACES, HETEROGENEOUS, 4.0)


def test_a_search_goes_on_from_its_file_and_from_no_other(tmp_path: Path) -> None:
    file = tmp_path / "study"
    assert len(search(2, file=file)[2]) == 2
    found, best, values = search(3, file=file)
    assert len(values) == 1
    assert search(3, file=file) == (found, best, [])
    with pytest.raises(SearchStateError):
        search(4, scale=5.0, file=file)
    broken = tmp_path / "broken"
    broken.write_text("no study\n")
    with pytest.raises(SearchStateError):
        search(1, file=broken)


@pytest.mark.parametrize("name", sorted(asdict(Parameters())))
def test_every_parameter_reaches_what_is_simulated(name: str) -> None:
    value = 7 if name in ("slots", "prefill_chunk") else 1.75
    contender = replace(Parameters(), **{name: value}).contender(Learned())
    core = contender.build(HETEROGENEOUS, HETEROGENEOUS.specs(contender.slots, preemptive=True))
    assert isinstance(core, DispatchCore)
    assert isinstance(core.policy, UrgencyPolicy)
    assert contender.tuning is not None
    simulated = asdict(contender.tuning) | asdict(core.policy) | asdict(core.limits) | {"slots": contender.slots}
    assert simulated[name] == value


def test_the_table_is_one_of_the_settings() -> None:
    tables = tomllib.loads(Parameters(slots=8, harm=0.5).toml())
    settings = Settings.model_validate(tables)
    assert settings.model.slots == settings.model.max_batch == 8
    assert settings.schedule.harm == 0.5
    assert set(tables["schedule"]) == set(ScheduleSettings.model_fields)


def test_the_defaults_are_those_of_the_runtime() -> None:
    defaults, policy, limits = Parameters(), UrgencyPolicy(), DispatchLimits()
    assert defaults.prefill_chunk == EngineOptions().tuning.prefill_chunk
    assert (defaults.harm, defaults.overcommit) == (policy.harm, limits.overcommit)
    assert defaults.slots == Settings().model.max_batch


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TuneMissingError) as caught:
        search(1)
    assert "tune" in str(caught.value.remedy)
