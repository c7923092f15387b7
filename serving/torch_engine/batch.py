"""One step's work: slices of several sequences, flattened into rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True, slots=True)
class SequenceSlice:
    """New tokens of one sequence.

    ``start`` is the position of the first of them, which is also the number of tokens already in the KV cache.
    ``block_table`` lists the KV blocks that cover positions 0 to ``start + len(token_ids) - 1``. Logits are returned
    from index ``logits_from`` within ``token_ids`` on; ``len(token_ids)`` asks for none. With ``states`` the last
    hidden states of all its tokens are returned in their place.
    """

    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    logits_from: int
    states: bool = False


class Outputs(NamedTuple):
    """What a model gives for a batch: float32 ``logits`` ``[wanted, vocab]`` and ``states`` ``[states, hidden]``.

    States are those after the last layer and its norm, which the logits are read from.
    """

    logits: torch.Tensor
    states: torch.Tensor


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """The rows of all slices one after another.

    ``tokens``, ``positions`` and ``sequences`` (index of the row's slice) are int32 ``[rows]``; ``tables`` is int32
    ``[slices, longest table]``, padded with zeros; ``wanted`` is int32, the rows whose logits are asked for, and
    ``states`` those whose hidden states are.
    """

    slices: Sequence[SequenceSlice]
    tokens: torch.Tensor
    positions: torch.Tensor
    sequences: torch.Tensor
    tables: torch.Tensor
    wanted: torch.Tensor
    states: torch.Tensor

    @staticmethod
    def of(slices: Sequence[SequenceSlice], block_size: int) -> FlatBatch:
        """Flatten; raises ``ValueError`` for an empty slice or a block table that is too short."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        wanted: list[int] = []
        states: list[int] = []
        for index, piece in enumerate(slices):
            count = len(piece.token_ids)
            end = piece.start + count
            if count == 0 or end > len(piece.block_table) * block_size:
                raise ValueError(f"slice {index}: {count} tokens from {piece.start}, {len(piece.block_table)} blocks")
            first = 0 if piece.states else piece.logits_from
            (states if piece.states else wanted).extend(range(len(tokens) + first, len(tokens) + count))
            tokens.extend(piece.token_ids)
            positions.extend(range(piece.start, end))
            sequences.extend([index] * count)
        longest = max(len(piece.block_table) for piece in slices)
        tables = [[*piece.block_table, *[0] * (longest - len(piece.block_table))] for piece in slices]
        rows = (tokens, positions, sequences, tables, wanted, states)
        return FlatBatch(slices, *(torch.tensor(row, dtype=torch.int32) for row in rows))

    @property
    def rows(self) -> int:
        """Number of new tokens in all slices."""
        return len(self.tokens)

    def split(self, outputs: Outputs) -> list[torch.Tensor]:
        """Cut what a model gave into one tensor per slice."""
        counts = [len(piece.token_ids) - piece.logits_from for piece in self.slices if not piece.states]
        logits = iter(torch.split(outputs.logits, counts))
        states = iter(torch.split(outputs.states, [len(piece.token_ids) for piece in self.slices if piece.states]))
        return [next(states if piece.states else logits) for piece in self.slices]
