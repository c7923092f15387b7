"""Turn a GGUF file into a folder of safetensors, config and tokenizer, once.

The weights are stored in float32: a Q4_1 weight is ``d * q + m`` with 16-bit ``d`` and ``m``, which float32 holds
and bfloat16 would round a second time.

The conversion runs in a child process, so that its memory (about three times the model) goes back to the system and
its progress bars do not mix with the caller's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsys.serving.weights.errors import ModelFileError
from agentsys.serving.weights.progress import ProgressListener, PullProgress

_CHILD_ENVIRONMENT = {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def convert_gguf(gguf: Path, folder: Path, *, progress: ProgressListener) -> None:
    """Write config.json, generation_config.json, tokenizer files and model.safetensors into ``folder``.

    Raises :class:`ModelFileError` when the file is damaged or its architecture unknown to transformers, ``OSError``
    when the folder cannot be written.
    """
    progress(PullProgress("convert", 0, 1))
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(gguf), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, **_CHILD_ENVIRONMENT},
        check=False,
    )
    if done.returncode != 0:
        _raise_failure(gguf, done)
    progress(PullProgress("convert", 1, 1))


def _raise_failure(gguf: Path, done: subprocess.CompletedProcess[str]) -> None:
    try:
        failure = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last_words = (done.stderr.strip().splitlines() or ["no message"])[-1]
        failure = {"errno": None, "message": f"exit status {done.returncode}, {last_words}"}
    if failure["errno"] is not None:
        raise OSError(failure["errno"], failure["message"])
    raise ModelFileError(f"{gguf.name} cannot be converted: {failure['message']}.")


def _save_weights(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)


def _save_tokenizer(gguf: Path, folder: Path, metadata: _Metadata) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if metadata.pre_tokenizer == "smollm":
        # transformers drops this pre-tokenizer's digit rule; without it numbers are cut in ways never trained on.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer.model_max_length = metadata.context_length
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class _Metadata:
    context_length: int
    pre_tokenizer: str


def _read_metadata(gguf: Path) -> _Metadata:
    """Read what transformers leaves out; raises before anything slow is imported if the file is damaged."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)

    def field(key: str) -> Any:
        found = reader.get_field(key)
        if found is None:
            raise KeyError(f"the file has no {key}")
        return found.contents()

    architecture = field("general.architecture")
    return _Metadata(int(field(f"{architecture}.context_length")), str(field("tokenizer.ggml.pre")))


def _main(gguf: Path, folder: Path) -> int:
    try:
        metadata = _read_metadata(gguf)
        _save_tokenizer(gguf, folder, metadata)
        _save_weights(gguf, folder)
    except Exception as error:  # the parent turns whatever a damaged file provokes into one typed error
        number = error.errno if isinstance(error, OSError) else None
        print(json.dumps({"errno": number, "message": f"{type(error).__name__}: {error}"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2])))
