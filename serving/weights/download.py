"""Download one file by URL: resumed by byte range after any interruption, accepted only with its pinned SHA-256."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from agentsys.serving.weights.cache import full_disk_named, require_space
from agentsys.serving.weights.errors import DownloadError, HashMismatchError
from agentsys.serving.weights.progress import ProgressListener, PullProgress

_ATTEMPTS = 5
_PAUSE_SECONDS = 0.5
_TIMEOUT = httpx.Timeout(30.0, connect=15.0)


def download(url: str, sha256: str, target: Path, *, progress: ProgressListener) -> Path:
    """Fetch ``url`` (http, https or file) into ``target`` and return it.

    What arrived before an interruption stays in ``target`` with the suffix ``.part`` and is continued, by the next
    attempt or by the next process. Raises :class:`DownloadError`, :class:`HashMismatchError` or :class:`DiskFullError`.
    """
    part = target.with_name(target.name + ".part")
    with full_disk_named(target.parent):
        if urlsplit(url).scheme == "file":
            shutil.copyfile(url2pathname(urlsplit(url).path), part)
        else:
            _fetch_with_retries(url, part, progress)
    return accept(part, sha256, target)


def accept(part: Path, sha256: str, target: Path) -> Path:
    """Move ``part`` to ``target`` if its hash is right, else delete it and raise :class:`HashMismatchError`."""
    found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise HashMismatchError(f"{target.name} has SHA-256 {found}, expected {sha256}.")
    part.replace(target)
    return target


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch_with_retries(url: str, part: Path, progress: ProgressListener) -> None:
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT, verify=_certificates()) as client:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _continue(client, url, part, progress)
                return
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS:
                    message = f"{urlsplit(url).hostname} broke off {attempt} times: {error or type(error).__name__}."
                    raise DownloadError(message) from error
                time.sleep(_PAUSE_SECONDS * attempt)


def _continue(client: httpx.Client, url: str, part: Path, progress: ProgressListener) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with _opened(client, url, headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to fetch; the hash decides whether what is here is the file
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        done = have if resumed else 0
        length = response.headers.get("content-length")
        total = done + int(length) if length else None
        if total is not None:
            require_space(part.parent, total - done)
        with part.open("ab" if resumed else "wb") as stream:
            for chunk in response.iter_bytes():
                stream.write(chunk)
                done += len(chunk)
                progress(PullProgress("download", done, total))


@contextmanager
def _opened(client: httpx.Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    with client.stream("GET", url, headers={**headers, "Accept-Encoding": "identity"}) as response:
        refused = response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and response.is_error
        if refused:
            raise DownloadError(f"{urlsplit(url).hostname} answered HTTP {response.status_code} for the model file.")
        yield response


def _certificates() -> ssl.SSLContext | bool:
    # pip's own variable names the certificates of a company proxy, which httpx does not read.
    bundle = os.environ.get("PIP_CERT")
    return ssl.create_default_context(cafile=bundle) if bundle and Path(bundle).is_file() else True
