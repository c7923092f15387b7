"""The folder of pulled models: one subfolder a model, published atomically, written by one process at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from agentsys.serving.weights.errors import DiskFullError, ModelFileError

MODELS_DIR_VARIABLE = "AGENTSYS_MODELS_DIR"
_MANIFEST = "agentsys.json"
_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class PulledModel:
    """One model in the cache. ``source`` says where it came from, ``sha256`` is the hash of the downloaded file."""

    name: str
    path: Path
    source: str
    sha256: str
    size_bytes: int


def models_dir() -> Path:
    """Return the cache folder: ``AGENTSYS_MODELS_DIR``, else the platform's user cache."""
    configured = os.environ.get(MODELS_DIR_VARIABLE)
    return Path(configured).expanduser() if configured else platformdirs.user_cache_path("agentsys") / "models"


def find_pulled(directory: Path, name: str) -> Path | None:
    """Return the folder of a model that is wholly there, else None."""
    folder = directory / name
    return folder if (folder / _MANIFEST).is_file() else None


def list_models(directory: Path | None = None) -> list[PulledModel]:
    """Return the models in ``directory`` (default :func:`models_dir`) by name; a folder without manifest is none."""
    manifests = sorted((directory or models_dir()).glob(f"*/{_MANIFEST}"))
    return [_read_manifest(manifest) for manifest in manifests if not manifest.parent.name.startswith(".")]


@contextmanager
def exclusive(directory: Path, name: str) -> Iterator[None]:
    """Hold the model's lock, waiting for another process that pulls it; creates the cache folder."""
    with full_disk_named(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / f".{name}.lock"):
        yield


@contextmanager
def publish(directory: Path, name: str, *, source: str, sha256: str) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes the model ``name``, on failure it vanishes.

    The caller holds the model's lock, so folders that a killed process left behind are removed here.
    """
    for abandoned in directory.glob(f".{name}@*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}@", dir=directory))
    try:
        with full_disk_named(staging):
            yield staging
            (staging / _MANIFEST).write_text(json.dumps({"source": source, "sha256": sha256}), encoding="utf-8")
            staging.chmod(0o755)
            target = directory / name
            # A folder without manifest is what an interrupted deletion leaves: rename() would refuse to replace it.
            shutil.rmtree(target, ignore_errors=True)
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" into :class:`DiskFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise DiskFullError(f"no space left for a model in {folder}: {error.strerror}.") from error
        raise


def require_space(folder: Path, needed: int) -> None:
    """Raise :class:`DiskFullError` before starting what cannot end: ``needed`` bytes against those free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(f"{folder} has {free / 1e6:.0f} MB free, the model needs {needed / 1e6:.0f} MB.")


def _read_manifest(manifest: Path) -> PulledModel:
    folder = manifest.parent
    try:
        fields = json.loads(manifest.read_text(encoding="utf-8"))
        source, sha256 = str(fields["source"]), str(fields["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"the manifest {manifest} is unreadable: {error}.") from error
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return PulledModel(folder.name, folder, source, sha256, size)


def describe(model: PulledModel) -> dict[str, str | int]:
    """Return the shape printed by ``--json``."""
    return {**asdict(model), "path": str(model.path)}
