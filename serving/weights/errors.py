"""What can go wrong between a model's name and its folder."""

from __future__ import annotations

from agentsys.errors import ServingError


class UnknownModelError(ServingError):
    """No catalogue entry, folder, file or hub repository has this name."""

    code = "AGS-0401"
    remedy = (
        "Give a catalogue name (`agentsys models list`), a folder with config.json, a .gguf file, "
        "or a Hugging Face id such as organisation/name."
    )


class HashMismatchError(ServingError):
    """A downloaded file is not the one whose hash is pinned."""

    code = "AGS-0402"
    remedy = "The file was deleted; pull again, and if it repeats, ask who runs your package index or proxy."


class DownloadError(ServingError):
    """The network, the package index or the hub did not deliver."""

    code = "AGS-0403"
    remedy = (
        "Check the network and pip's index settings, then pull again (it resumes); "
        "or copy a .gguf file here and pull its path."
    )


class DiskFullError(ServingError):
    """The cache's file system cannot hold the model."""

    code = "AGS-0404"
    remedy = "Free space, or set AGENTSYS_MODELS_DIR to a folder on a larger disk, then pull again (it resumes)."


class ModelFileError(ServingError):
    """A model file or folder is damaged, incomplete or of an unsupported kind."""

    code = "AGS-0405"
    remedy = "Pull the model again, or give a folder that holds config.json, tokenizer.json and *.safetensors."
