from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from agentsys.blackboard.labels import PUBLIC, Readers
from agentsys.serving.torch_engine.block_pool import BlockPool, chain_digest, domain_digest

NUM_BLOCKS = 6


def test_a_named_block_is_found_again_and_an_unnamed_one_is_not() -> None:
    pool = BlockPool(4)
    first, second = pool.take(2)
    pool.name(first, b"a")
    pool.release([first, second])
    assert pool.match([b"a", b"b"]) == [first]


def test_least_recently_used_cached_blocks_go_first_and_the_tail_before_the_head() -> None:
    pool = BlockPool(3)
    old = pool.take(2)
    for block, digest in zip(old, [b"head", b"tail"], strict=True):
        pool.name(block, digest)
    pool.release(old)
    new = pool.take(1)
    pool.name(new[0], b"new")
    pool.release(new)
    pool.take(1)
    assert pool.match([b"tail"]) == []
    assert len(pool.match([b"head"])) == 1


def test_a_shared_block_stays_owned_until_its_last_owner_lets_go() -> None:
    pool = BlockPool(1)
    (block,) = pool.take(1)
    pool.name(block, b"x")
    assert pool.match([b"x"]) == [block]
    pool.release([block])
    assert pool.available == 0
    pool.release([block])
    assert pool.available == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Readers.of("user:ann"), Readers.of("user:bob")),
        (Readers.of("user:ann"), Readers.of("user:ann", "user:bob")),
        (Readers.of(), PUBLIC),
        (Readers.of("public"), PUBLIC),
        (Readers.of("a', 'b"), Readers.of("a", "b")),
    ],
)
def test_different_readers_have_different_chains(one: Readers, other: Readers) -> None:
    assert chain_digest(domain_digest(one), [1, 2]) != chain_digest(domain_digest(other), [1, 2])


def test_the_chain_depends_on_every_token_before() -> None:
    root = domain_digest(PUBLIC)
    assert chain_digest(chain_digest(root, [1]), [2]) != chain_digest(chain_digest(root, [3]), [2])
    assert chain_digest(root, [1, 2]) == chain_digest(root, (1, 2))


class PoolMachine(RuleBasedStateMachine):
    """Random use of a pool against a model that counts ownerships."""

    owned = Bundle("owned")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.owners: dict[int, int] = {}

    @rule(target=owned)
    def take(self) -> object:
        if self.pool.available == 0:
            return multiple()
        (block,) = self.pool.take(1)
        assert block not in self.owners
        self.owners[block] = 1
        return block

    @rule(target=owned, digest=st.sampled_from([b"a", b"b", b"c"]))
    def match(self, digest: bytes) -> object:
        found = self.pool.match([digest])
        for block in found:
            self.owners[block] = self.owners.get(block, 0) + 1
        return multiple(*found)

    @rule(block=owned, digest=st.sampled_from([b"a", b"b", b"c"]))
    def name(self, block: int, digest: bytes) -> None:
        if block in self.owners:
            self.pool.name(block, digest)

    @rule(block=consumes(owned))
    def release(self, block: int) -> None:
        self.pool.release([block])
        self.owners[block] -= 1
        if not self.owners[block]:
            del self.owners[block]

    @invariant()
    def every_block_is_either_owned_or_available(self) -> None:
        assert self.pool.owned == len(self.owners)
        assert self.pool.owned + self.pool.available == NUM_BLOCKS


TestPool = PoolMachine.TestCase
