"""Who owns which KV block, and which full blocks may be used again by a later request.

Pure bookkeeping over block numbers: the blocks' contents live in the KV cache, which this module never touches.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from agentsys.blackboard.labels import Readers

_DIGEST_BYTES = 16


def domain_digest(readers: Readers) -> bytes:
    """Return the root of the hash chain for values with these readers.

    Blocks are found only along a chain, so requests whose readers differ can never share one: whether a prefix is
    already cached (which timing reveals) is a fact about somebody's prompt.
    """
    # repr quotes and escapes, so no choice of principals' names makes two reader sets look alike.
    named = "public" if readers.members is None else repr(sorted(readers.members))
    return _digest(named.encode())


def chain_digest(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Return the name of a full block: all tokens up to its end, and the domain they belong to."""
    return _digest(parent + array("q", tokens).tobytes())


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


class BlockPool:
    """Reference-counted blocks. A block is free, owned by one or more sequences, or *cached*: unowned but findable.

    Cached blocks are given away, least recently used first, when no free block is left.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._owners: dict[int, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that :meth:`take` can give: free and cached ones."""
        return len(self._free) + len(self._cached)

    @property
    def owned(self) -> int:
        """Blocks that at least one sequence holds."""
        return len(self._owners)

    def take(self, count: int) -> list[int]:
        """Own ``count`` blocks; the caller has checked :attr:`available` (``IndexError``/``KeyError`` otherwise)."""
        return [self._take_one() for _ in range(count)]

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """Own and return the blocks of the longest cached prefix of a chain."""
        found: list[int] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            self._cached.pop(block, None)
            self._owners[block] = self._owners.get(block, 0) + 1
            found.append(block)
        return found

    def name(self, block: int, digest: bytes) -> None:
        """Make an owned, completely written block findable, unless an equal one already is."""
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one ownership of each block; the last of a chain becomes the first to be reused."""
        for block in reversed(blocks):
            self._owners[block] -= 1
            if self._owners[block]:
                continue
            del self._owners[block]
            if block in self._digest_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def _take_one(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        self._owners[block] = 1
        return block
