"""What becomes of a request at its turn: a commit on top of the log, or what speaks against it."""

import time
from collections.abc import Callable
from dataclasses import replace

from agentsys.blackboard.chain import chained
from agentsys.blackboard.commits import Commit, CommitRequest, Write, new_commit
from agentsys.blackboard.effects import Effect, EffectIntent, plan, step
from agentsys.blackboard.entries import Entry, canonical_json, new_entry
from agentsys.blackboard.merges import merged
from agentsys.blackboard.storage import BoardState, HistoryCompacted, PreparedCommit
from agentsys.blackboard.transactions import InvalidCursorMove
from agentsys.blackboard.validation import BatchState, validate


def prepare(
    request: CommitRequest, state: BatchState, board: BoardState, alive: Callable[[int], bool]
) -> PreparedCommit:
    """Return the commit that ``request`` becomes on top of ``board``, of which ``state`` tells the content.

    ``alive`` says whether the process that opened the board as an epoch still has it open. Raises what speaks against
    the request: :class:`Conflict`, :class:`InvalidCursorMove`, :class:`EffectRefused`, :class:`MergeMismatch`.
    """
    validate(request, state)
    seq = board.head + 1
    for move in request.cursors:
        if move.to_seq >= seq:
            raise InvalidCursorMove(f"Subscription {move.subscription} cannot pass the log's end to {move.to_seq}.")
    at = time.time()
    # Deleting what is not there changes nothing, and must not create a version.
    wanted = [_on_head(write, state) if write.merges else write for write in request.writes]
    writes = [write for write in wanted if write.text is not None or _exists(write, state)]
    texts = tuple([write.text for write in writes])
    commit = new_commit(
        seq,
        request.tx_id,
        request.principal,
        request.run,
        request.snapshot,
        request.isolation,
        at,
        tuple([_entry(write, request, state, seq, at) for write in writes]),
        _effects(request, state, alive, seq, at) if request.effects else (),
        request.cursors,
        board.head_hash,
        "",
    )
    return PreparedCommit(chained(commit, texts), texts)


def check_remembered(request: CommitRequest, board: BoardState) -> None:
    """Refuse a request that may have been committed so long ago that the log no longer tells."""
    if request.snapshot < board.horizon:
        raise HistoryCompacted.at(request.snapshot, board.horizon)


def after(board: BoardState, commit: Commit) -> BoardState:
    """Return ``board`` with ``commit`` as its newest."""
    return BoardState(commit.seq, commit.hash, board.epoch, board.horizon)


def _exists(write: Write, state: BatchState) -> bool:
    head = state.head((write.topic, write.key))
    return head is not None and not head.deleted


def _on_head(write: Write, state: BatchState) -> Write:
    """Return what a merge amounts to at its turn. Raises :class:`MergeMismatch`."""
    head = state.head((write.topic, write.key))
    value, label, sources = None, write.label, dict.fromkeys(write.derived_from)
    if head is not None:
        value, label = head.value, label.join(head.label)
        sources[head.ref] = None
    for merge in write.merges:
        value = merged(value, merge)
    return replace(write, text=canonical_json(value), value=value, label=label, derived_from=tuple(sources), merges=())


def _entry(write: Write, request: CommitRequest, state: BatchState, seq: int, at: float) -> Entry:
    head = state.head((write.topic, write.key))
    return new_entry(
        write.topic,
        write.key,
        write.type,
        1 if head is None else head.version + 1,
        write.value,
        write.label,
        seq,
        request.principal,
        request.run,
        write.derived_from,
        at,
        write.endorsement,
        write.text is None,
    )


def _effects(
    request: CommitRequest, state: BatchState, alive: Callable[[int], bool], seq: int, at: float
) -> tuple[Effect, ...]:
    """Return the effects after the steps that ``request`` asks for; each step may follow one of the same request."""
    current: dict[str, Effect | None] = {item.id: state.effect(item.id) for item in request.effects}
    taken: list[Effect] = []
    for item in request.effects:
        if isinstance(item, EffectIntent):
            after = plan(current[item.id], item, seq, at)
        else:
            after = step(current[item.id], item, request.epoch, alive, seq, at)
        if after is not None:
            current[item.id] = after
            taken.append(after)
    return tuple(taken)
