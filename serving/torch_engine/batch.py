"""One step's work: slices of several sequences, flattened into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class SequenceSlice:
    """New tokens of one sequence.

    ``start`` is the position of the first of them, which is also the number of tokens already in the KV cache.
    ``block_table`` lists the KV blocks that cover positions 0 to ``start + len(token_ids) - 1``. Logits are returned
    from index ``logits_from`` within ``token_ids`` on; ``len(token_ids)`` asks for none.
    """

    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    logits_from: int


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """The rows of all slices one after another.

    ``tokens``, ``positions`` and ``sequences`` (index of the row's slice) are int32 ``[rows]``; ``tables`` is int32
    ``[slices, longest table]``, padded with zeros; ``wanted`` is int32, the rows whose logits are asked for.
    """

    slices: Sequence[SequenceSlice]
    tokens: torch.Tensor
    positions: torch.Tensor
    sequences: torch.Tensor
    tables: torch.Tensor
    wanted: torch.Tensor

    @staticmethod
    def of(slices: Sequence[SequenceSlice], block_size: int) -> FlatBatch:
        """Flatten; raises ``ValueError`` for an empty slice or a block table that is too short."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[int] = []
        for index, piece in enumerate(slices):
            count = len(piece.token_ids)
            end = piece.start + count
            if count == 0 or end > len(piece.block_table) * block_size:
                raise ValueError(f"slice {index}: {count} tokens from {piece.start}, {len(piece.block_table)} blocks")
            wanted.extend(range(len(tokens) + piece.logits_from, len(tokens) + count))
            tokens.extend(piece.token_ids)
            positions.extend(range(piece.start, end))
            sequences.extend([index] * count)
        longest = max(len(piece.block_table) for piece in slices)
        tables = [[*piece.block_table, *[0] * (longest - len(piece.block_table))] for piece in slices]
        return FlatBatch(
            slices, *(torch.tensor(x, dtype=torch.int32) for x in (tokens, positions, sequences, tables, wanted))
        )

    @property
    def rows(self) -> int:
        """Number of new tokens in all slices."""
        return len(self.tokens)

    def split(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """Cut ``[wanted, vocab]`` into one tensor per slice."""
        return list(torch.split(logits, [len(piece.token_ids) - piece.logits_from for piece in self.slices]))
