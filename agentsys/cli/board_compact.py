"""``agentsys board compact``: drop the board's past, and keep what proves the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agentsys.cli.board_option import BoardOption
from agentsys.cli.composition import settings_with
from agentsys.cli.output import JsonOption, err, out, print_json, reported_errors

if TYPE_CHECKING:
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.compaction import Keep, Plan

Sizes: TypeAlias = tuple[int, int]
"""Bytes of the board's file before and after."""


def compact(
    board: BoardOption = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|COMMITS",
            help="How much of the past stays readable: 30d, 12h, 90m, or a number of commits. "
            "Default: the setting board.keep, else 30d.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go, and what keeps the rest.")
    ] = False,
    shrink: Annotated[
        bool,
        typer.Option("--shrink", help="Then give the file's free space back to the disk, while commits wait."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Drop superseded versions and old commits that nobody needs, while others go on; the current state stays.

    Runs that have not ended, subscriptions, leases and unsettled effects keep what they need.
    """
    with reported_errors(as_json=as_json):
        from agentsys.blackboard.board import Board
        from agentsys.retention import DEFAULT_KEEP, parse_keep, plan_compaction

        settings = settings_with(board_path=board).board
        kept = parse_keep(keep or settings.keep or DEFAULT_KEEP)
        # A board that is not there must not come to be by compacting it.
        with Board.open_read_only(settings.location) as opened:
            made = plan_compaction(opened, kept)
        sizes = _sizes(settings.location) if shrink else None
        if not dry_run:
            with Board.open(settings.location, durability=settings.durability) as opened:
                made = _compact(opened, kept, sum(made.dropped.values()))
                sizes = _shrink(opened) if shrink else None
        _report(made, sizes, dry_run=dry_run, as_json=as_json)


def _sizes(location: Path | str) -> Sizes:
    """Return the size of the board's file as it is, and as it would be."""
    from agentsys.blackboard.places import FilePlace
    from agentsys.blackboard.postgres.address import is_postgres
    from agentsys.blackboard.shrinking import NoFileToShrink, stored_size

    if is_postgres(location):
        raise NoFileToShrink("The board is in PostgreSQL.")
    size = stored_size(FilePlace.parse(location).path)
    return size.taken, size.taken - size.free


def _shrink(board: Board) -> Sizes:
    with err.status("giving space back"):
        before, after = board.shrink()
    return before.taken, after.taken


def _compact(board: Board, keep: Keep, total: int) -> Plan:
    from agentsys.retention import compact_board

    columns = (TextColumn("compacting"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("compacting", total=total)
        return compact_board(board, keep, lambda rows: bar.update(task, completed=rows))


def _report(made: Plan, sizes: Sizes | None, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        pins = [{"needed_by": pin.what, "from": pin.seq} for pin in made.pins]
        document = {"head": made.head, "horizon": made.horizon, "was": made.begin, "dropped": made.dropped}
        shrunk = {} if sizes is None else {"bytes_before": sizes[0], "bytes_after": sizes[1]}
        print_json({**document, "pins": pins, "dry_run": dry_run, **shrunk})
        return
    from agentsys.views.texts import count_text

    counts = ", ".join(count_text(count, what.removesuffix("s")) for what, count in made.dropped.items())
    out.print(f"{'would drop' if dry_run else 'dropped'}: {counts}", highlight=False)
    out.print(
        f"the board {'would be' if dry_run else 'is'} readable from commit {made.horizon:,} of {made.head:,} on",
        highlight=False,
    )
    for pin in made.pins:
        out.print(f"kept from commit {pin.seq:,} on for {pin.what}", highlight=False, markup=False)
    if any(pin.what.startswith("subscription ") for pin in made.pins):
        out.print("`agentsys board unsubscribe` ends a subscription that nobody uses any more")
    if sizes is not None:
        before, after = (size / 2**20 for size in sizes)
        out.print(
            f"the file {'would take at most' if dry_run else 'takes'} {after:,.1f} MiB, after {before:,.1f} MiB",
            highlight=False,
        )
