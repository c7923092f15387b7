"""Searches the parameters of dispatcher and engine on training traces, with Optuna's TPE sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from agentsys.errors import ServingError
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.policy import UrgencyPolicy
from agentsys.serving.simulator.cluster import Cluster
from agentsys.serving.simulator.contenders import Contender, Learned, ours
from agentsys.serving.simulator.search import SearchStateError, identity, needed
from agentsys.serving.simulator.trace import Trace
from agentsys.serving.torch_engine.limits import Tuning

STUDY: Final = "agentsys-tune"

AfterTrial = Callable[[int, float, float], None]
"""Told a trial's number, what it scored, and the best score so far."""


class TuneMissingError(ServingError):
    """Optuna is not installed."""

    code = "AGS-0473"
    remedy = "Install the extra: `pip install 'agentsys-runtime[tune]'`."


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is searched: the model's ``slots``, and what the table ``[schedule]`` of the settings has by these names.

    The defaults are what runs where nothing is set.
    """

    slots: int = 16
    fairness: float = UrgencyPolicy().fairness
    haste: float = UrgencyPolicy().haste
    harm: float = UrgencyPolicy().harm
    delay: float = UrgencyPolicy().delay
    overcommit: float = DispatchLimits().overcommit
    preemption_margin: float = DispatchLimits().preemption_margin
    prefill_chunk: int = Tuning().prefill_chunk

    def contender(self, learned: Learned) -> Contender:
        """Return our dispatcher with these parameters."""
        return ours(
            self.slots,
            learned,
            policy=UrgencyPolicy(fairness=self.fairness, haste=self.haste, harm=self.harm, delay=self.delay),
            limits=DispatchLimits(overcommit=self.overcommit, preemption_margin=self.preemption_margin),
            tuning=Tuning(prefill_chunk=self.prefill_chunk),
        )

    def toml(self) -> str:
        """Return the fragment of ``agentsys.toml`` that sets them."""
        schedule = {name: value for name, value in asdict(self).items() if name != "slots"}
        lines = [f"{name} = {value:.4g}" for name, value in schedule.items()]
        return "\n".join(
            ["[model]", f"slots = {self.slots}", f"max_batch = {self.slots}", "", "[schedule]", *lines, ""]
        )


def tune(
    training: Sequence[Trace],
    cluster: Cluster,
    learned: Learned,
    *,
    scale: float,
    trials: int,
    seed: int = 0,
    study_file: Path | None = None,
    after: AfterTrial = lambda _number, _value, _best: None,
) -> tuple[Parameters, float]:
    """Return the best parameters on the training traces, and what they score (see :func:`needed`).

    ``study_file`` keeps the trials, of which there will be ``trials`` in all, however often the search is interrupted.
    The defaults are tried first. Raises :class:`TuneMissingError` and ``SearchStateError``.
    """
    optuna = _optuna()
    study = _study(optuna, seed, study_file, identity(training, cluster, scale=scale))

    def objective(trial: Any) -> float:
        return needed(_suggest(trial).contender(learned), training, cluster, scale)

    def report(study: Any, trial: Any) -> None:
        after(trial.number, trial.value, study.best_value)

    if not study.trials:
        study.enqueue_trial(asdict(Parameters()))
    ended = sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(objective, n_trials=max(trials - ended, 0), callbacks=[report])
    return Parameters(**study.best_params), float(study.best_value)


def _study(optuna: Any, seed: int, file: Path | None, belongs_to: str) -> Any:
    storage = None
    try:
        if file is not None:
            journal = optuna.storages.journal
            storage = journal.JournalStorage(journal.JournalFileBackend(str(file)))
        study = optuna.create_study(study_name=STUDY, storage=storage, load_if_exists=True)
    except (OSError, ValueError, KeyError) as error:
        raise SearchStateError(f"{file} is no study of `agentsys tune`: {error}.") from error
    if study.user_attrs.setdefault("identity", belongs_to) != belongs_to:
        raise SearchStateError(f"{file} is the study of other traces or of another scale.")
    study.set_user_attr("identity", belongs_to)
    # A search that goes on must not draw what it drew at first.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def _suggest(trial: Any) -> Parameters:
    return Parameters(
        slots=trial.suggest_categorical("slots", [4, 8, 16, 32]),
        fairness=trial.suggest_float("fairness", 0.0, 2.0),
        haste=trial.suggest_float("haste", 0.0, 1.0),
        harm=trial.suggest_float("harm", 0.0, 4.0),
        delay=trial.suggest_float("delay", 0.0, 1.0),
        overcommit=trial.suggest_float("overcommit", 1.0, 3.0),
        preemption_margin=trial.suggest_float("preemption_margin", 0.01, 10.0, log=True),
        prefill_chunk=trial.suggest_categorical("prefill_chunk", [32, 64, 128, 256, 512, 1024, 2048]),
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise TuneMissingError("the search needs Optuna.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
