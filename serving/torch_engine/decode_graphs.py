"""Steps in which every sequence takes one token, recorded once as CUDA graphs and then replayed.

To launch the hundreds of operations of such a step takes several times as long as the GPU needs for them; a recorded
step is one launch. What is recorded has fixed shapes and addresses, so steps are padded to a few sizes, and their rows
are copied to where the recording reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

import torch

from agentsys.serving.torch_engine.batch import FlatBatch, SequenceSlice
from agentsys.serving.torch_engine.gpu_kv_cache import TokenMajorKVCache
from agentsys.serving.torch_engine.gpu_rows import GpuRows

Compute = Callable[[], torch.Tensor]
Record = Callable[[Compute], tuple[Callable[[], object], torch.Tensor]]
"""Runs a computation and returns how to run it again, and its output, which each run overwrites."""

_Recording = tuple[GpuRows, Callable[[], object], torch.Tensor]  # what it reads, how to replay it, what it writes
_ROWS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_KEYS: Final = tuple(sorted(256 * 2**power * part // 2 for power in range(16) for part in (2, 3)))
_LONGEST: Final = tuple(512 * 4**power for power in range(9))
_MOST_RECORDED: Final = 128


class CudaGraphs:
    """Records on the current GPU; all recordings share memory, so one may run only after another's output was read."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> tuple[Callable[[], object], torch.Tensor]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()  # libraries set themselves up in their first call, which cannot be recorded
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = compute()
        return graph.replay, output


class DecodeGraphs:
    """Recordings of one model's steps, made when a size first comes; those used last are kept."""

    def __init__(self, logits: Callable[[GpuRows], torch.Tensor], kv: TokenMajorKVCache, record: Record) -> None:
        """``logits`` maps rows to ``[rows, vocab]`` and is what gets recorded."""
        self._logits = logits
        self._kv = kv
        self._record = record
        self._recorded: dict[tuple[int, int, int], _Recording] = {}

    def logits(self, batch: FlatBatch) -> torch.Tensor | None:
        """Return the logits ``[slices, vocab]`` on the device until the next call, or None if not all rows decode."""
        pieces = batch.slices
        if len(pieces) > _ROWS[-1] or any(len(one.token_ids) != 1 or one.logits_from or one.states for one in pieces):
            return None
        nobody = SequenceSlice([0], 0, [self._kv.spare_block], 0)
        padding = _ROWS[bisect_left(_ROWS, len(pieces))] - len(pieces)
        if padding:
            batch = FlatBatch.of([*pieces, *[nobody] * padding], self._kv.block_size)
        rows = GpuRows.of(batch, self._kv)
        size = (
            len(rows.tokens),
            _KEYS[bisect_left(_KEYS, len(rows.attention.gathered))],
            _LONGEST[bisect_left(_LONGEST, rows.attention.most_keys)],
        )
        if size not in self._recorded:
            self._recorded[size] = self._recording(rows, *size[1:])
        held, replay, output = self._recorded[size] = self._recorded.pop(size)
        if len(self._recorded) > _MOST_RECORDED:
            del self._recorded[next(iter(self._recorded))]
        held.fill(rows)
        replay()
        return output[: len(pieces)]

    def _recording(self, rows: GpuRows, keys: int, most_keys: int) -> _Recording:
        held = rows.with_room(keys, most_keys)
        return held, *self._record(lambda: self._logits(held))
