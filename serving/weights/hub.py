"""Models of the Hugging Face hub, kept in the hub library's own cache."""

from __future__ import annotations

from pathlib import Path

import httpx

from agentsys.serving.weights.cache import full_disk_named
from agentsys.serving.weights.errors import DownloadError, UnknownModelError

_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


def fetch_from_hub(repository: str) -> Path:
    """Return the local snapshot of a hub repository, downloading what is missing (the hub library resumes).

    ``repository`` is ``organisation/name`` or ``organisation/name@revision``. Raises :class:`UnknownModelError` when
    the hub does not have it (or wants a token), :class:`DownloadError` when the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = repository.partition("@")
    try:
        with full_disk_named(Path.home()):
            return Path(snapshot_download(name, revision=revision or None, allow_patterns=_PATTERNS))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise UnknownModelError(
            f"the hub has no model {repository!r}, or it wants a token: {_first_line(error)}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, ConnectionError) as error:
        raise DownloadError(f"the hub did not deliver {repository!r}: {_first_line(error)}") from error


def find_in_hub_cache(repository: str) -> Path | None:
    """Return the local snapshot of a hub repository, as far as it was downloaded; asks nobody."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, _, revision = repository.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".") + "."
