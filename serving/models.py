"""From what a user writes as a model's name to the engine that serves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urldefrag

from agentsys.blackboard.labels import NOBODY, Readers
from agentsys.serving.audiences import joint_audience
from agentsys.serving.device_memory import GPU, HOST
from agentsys.serving.dispatcher.dispatcher import Dispatcher
from agentsys.serving.dispatcher.replica import ReplicaSource
from agentsys.serving.engine import Engine
from agentsys.serving.openai_engine import OpenAIEngine, audience_of_url
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.policy import Policy
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.torch_engine.limits import ADAPTIVE, Tuning
from agentsys.serving.vllm_engine import versions
from agentsys.serving.weights.catalogue import is_remote, runs_in_vllm
from agentsys.serving.weights.progress import ProgressListener, ignore_progress
from agentsys.serving.weights.pull import pull

if TYPE_CHECKING:
    from agentsys.serving.vllm_engine.loading import VllmOptions

_GPU_NUMBER_BYTES = 2  # the torch engine holds bfloat16 there


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How engines run. All but ``api_key``, ``attempts`` and ``context_length`` concern the in-process engine.

    ``weight_format`` "auto" is the engine's fastest batch-invariant format. ``threads`` None is all cores, at most 16.
    ``context_length`` is what to assume of a remote server that does not tell. ``adapters`` are folders of LoRA
    adapters, by the names that calls use, of which ``adapters_at_once`` share a step on a GPU; only vLLM in this
    process loads them.
    """

    weight_format: str = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int | None = None
    kv_cache_bytes: int = 256 * 2**20
    max_batch: int = 16
    max_waiting: int = 2048
    drafter: Literal["auto"] | None = "auto"
    models_dir: Path | None = None
    api_key: str | None = None
    attempts: int = 3
    context_length: int = 8192
    tuning: Tuning = ADAPTIVE
    adapters: Mapping[str, Path] = field(default_factory=dict)
    adapters_at_once: int = 8


@dataclass(frozen=True, slots=True)
class SpecifiedEngine:
    """Loads the engine of ``spec`` when called, where blocking is allowed."""

    spec: str
    options: EngineOptions
    progress: ProgressListener

    @property
    def audience(self) -> Readers:
        """Who learns the prompts: ``model-server:HOST`` of a URL, nobody if the model runs on this machine."""
        return audience_of_url(self.spec) if is_remote(self.spec) else NOBODY

    @property
    def adapters(self) -> frozenset[str]:
        """The LoRA adapters that it will have loaded."""
        return frozenset(self.options.adapters) if runs_adapters(self.spec) else frozenset()

    @property
    def identity(self) -> str:
        """What decides about answers beside the name: the model, and the format that its weights are held in."""
        return f"{self.spec} {self.options.weight_format}"

    def memory_claims(self) -> Mapping[str, int]:
        """Return the bytes that it will take beside what this process grows by, by device; pulls the weights first.

        Blocks, and raises what loading the weights would. That pulling takes long says nothing of loading again.
        """
        options = self.options
        if is_remote(self.spec):
            return {}
        if runs_in_vllm(self.spec):
            versions.checked_version()  # before anything is downloaded
        folder = pull(self.spec, progress=self.progress, directory=options.models_dir)
        if runs_in_vllm(self.spec):
            from agentsys.serving.vllm_engine import loading

            return loading.memory_claims(folder, _vllm_options(options))
        if options.device == HOST:
            return {}
        from agentsys.serving.torch_engine.checkpoint import held_bytes

        return {GPU: held_bytes(folder, _GPU_NUMBER_BYTES) + options.kv_cache_bytes}

    def __call__(self) -> Engine:
        if is_remote(self.spec):
            return _remote(self.spec, self.options)
        if runs_in_vllm(self.spec):
            return _vllm(self.spec, self.options, self.progress)
        return _in_process(self.spec, self.options, self.progress)


def runs_adapters(spec: str) -> bool:
    """Whether the engine of a model's name loads LoRA adapters. A server elsewhere has them as models of its own."""
    return runs_in_vllm(spec)


def engine_factory(
    spec: str, options: EngineOptions | None = None, *, progress: ProgressListener = ignore_progress
) -> SpecifiedEngine:
    """Return what loads the engine of ``spec``.

    ``spec`` is ``http(s)://host/v1#model`` for any OpenAI-compatible server (without ``#model``, the server's first),
    ``vllm:NAME`` for vLLM in this process, or NAME for the torch engine. NAME is anything that
    :func:`~agentsys.serving.weights.pull.pull` takes: a catalogue name, a folder, a ``.gguf`` file, a Hugging Face id.
    """
    return SpecifiedEngine(spec, options or EngineOptions(), progress)


@dataclass(frozen=True, slots=True)
class ReplicatedModel:
    """Loads the dispatcher over all replicas of a model when called, where blocking is allowed.

    ``workflows`` is shared with the client's other models.
    """

    replicas: tuple[SpecifiedEngine, ...]
    slots: int
    workflows: WorkflowTable
    limits: DispatchLimits | None = None
    policy: Policy | None = None

    @property
    def audience(self) -> Readers:
        """Who learns the prompts, of one replica or another."""
        return joint_audience(one.audience for one in self.replicas)

    def audience_for(self, allowed: Readers) -> Readers:
        """Return who learns a prompt that only ``allowed`` may: it goes to none of the other replicas.

        Where it may go to none, who would learn it.
        """
        every = [one.audience for one in self.replicas]
        return joint_audience([one for one in every if allowed.permits(one)] or every)

    @property
    def identity(self) -> str:
        """What decides about answers beside the name; replicas of one model give the same."""
        return self.replicas[0].identity

    def memory_claims(self) -> Mapping[str, int]:
        """Return the bytes that all replicas here will take beside what this process grows by, by device."""
        claims: Counter[str] = Counter()
        for one in self.replicas:
            claims.update(one.memory_claims())
        return claims

    @property
    def in_process(self) -> bool:
        """Whether it takes memory of this machine."""
        return not all(is_remote(one.spec) for one in self.replicas)

    def __call__(self) -> Dispatcher:
        sources = [
            ReplicaSource(f"{number}:{one.spec}" if len(self.replicas) > 1 else one.spec, one, self.slots)
            for number, one in enumerate(self.replicas)
        ]
        return Dispatcher(sources, workflows=self.workflows, limits=self.limits, policy=self.policy)


def replicated(
    specs: Sequence[str],
    options: EngineOptions,
    workflows: WorkflowTable,
    *,
    slots: int = 0,
    limits: DispatchLimits | None = None,
    policy: Policy | None = None,
    progress: ProgressListener = ignore_progress,
) -> ReplicatedModel:
    """Return what loads a model that every one of ``specs`` (see :func:`engine_factory`) is a replica of.

    ``slots`` (0: what the engine tells) is how many calls each is given at once.
    """
    # Whether and where a call is tried again is the dispatcher's to say.
    engines = [SpecifiedEngine(spec, replace(options, attempts=1), progress) for spec in specs]
    return ReplicatedModel(tuple(engines), slots, workflows, limits, policy)


def _remote(spec: str, options: EngineOptions) -> Engine:
    url, model = urldefrag(spec)
    return OpenAIEngine.connect(
        url,
        model=model or None,
        api_key=options.api_key,
        context_length=options.context_length,
        attempts=options.attempts,
    )


def _vllm(spec: str, options: EngineOptions, progress: ProgressListener) -> Engine:
    from agentsys.serving.vllm_engine.engine import VllmEngine

    return VllmEngine(pull(spec, progress=progress, directory=options.models_dir), _vllm_options(options))


def _vllm_options(options: EngineOptions) -> VllmOptions:
    from agentsys.serving.vllm_engine.loading import VllmOptions

    return VllmOptions(
        dtype=options.weight_format if options.weight_format in ("float32", "bfloat16") else None,
        threads=options.threads,
        kv_cache_bytes=options.kv_cache_bytes,
        max_batch=options.max_batch,
        adapters=options.adapters,
        adapters_at_once=options.adapters_at_once,
    )


def _in_process(spec: str, options: EngineOptions, progress: ProgressListener) -> Engine:
    # torch takes seconds to import, which callers with a remote model need not wait for.
    from agentsys.serving.torch_engine.engine import TorchEngine

    return TorchEngine.load(
        pull(spec, progress=progress, directory=options.models_dir),
        weight_format=options.weight_format,
        threads=options.threads,
        kv_cache_bytes=options.kv_cache_bytes,
        max_batch=options.max_batch,
        max_waiting=options.max_waiting,
        drafter=options.drafter,
        tuning=options.tuning,
        device=options.device,
    )
