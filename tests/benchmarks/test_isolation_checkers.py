"""The isolation checkers: each planted violation is found, as what it is; a clean history is clean."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentsys.benchmarks.isolation.anomalies import Anomaly, forbidden
from agentsys.benchmarks.isolation.bench import keep_history, unfound
from agentsys.benchmarks.isolation.histories import jepsen_events, to_edn_lines, to_json_lines
from agentsys.benchmarks.isolation.list_append import check_lists
from agentsys.benchmarks.isolation.planted import (
    LIST_VIOLATIONS,
    PREDICATE_VIOLATIONS,
    Script,
    list_transactions,
    with_violation,
)
from agentsys.benchmarks.isolation.predicate_reads import PredicateTransaction, SetRead, check_predicates
from agentsys.benchmarks.isolation.trial import Plan, run_trial
from agentsys.benchmarks.isolation.workloads import WORKLOADS
from agentsys.blackboard.board import Board
from agentsys.blackboard.commits import Commit, Isolation
from agentsys.blackboard.predicates import Predicate

CLEAN: Script = [
    (1, "ok", "x: +x1"),
    (2, "ok", "x:1 +x2 +x3"),
    (1, "info", "+y1"),
    (3, "ok", "x:123 y:1"),
    (2, "fail", "+x4"),
]


def kinds(found: list[Anomaly]) -> list[str]:
    return [anomaly.kind for anomaly in found]


@pytest.mark.parametrize("kind", LIST_VIOLATIONS)
def test_a_planted_violation_is_found_as_what_it_is(kind: str) -> None:
    found = check_lists(list_transactions(CLEAN) + list_transactions(LIST_VIOLATIONS[kind], at=100, process=10))
    assert kind in kinds(found)
    assert forbidden(found, "serializable")


def test_a_clean_history_is_clean() -> None:
    assert check_lists(list_transactions(CLEAN)) == []


@pytest.mark.parametrize("kind", [kind for kind in LIST_VIOLATIONS if kind not in ("G2", "G2-process")])
def test_snapshot_permits_write_skew_alone(kind: str) -> None:
    assert kind in kinds(forbidden(check_lists(list_transactions(LIST_VIOLATIONS[kind])), "snapshot"))
    for permitted in ("G2", "G2-process"):
        found = check_lists(list_transactions(LIST_VIOLATIONS[permitted]))
        assert kinds(found) == [permitted] and forbidden(found, "snapshot") == []


def test_a_stronger_cycle_is_not_hidden_by_write_skew_around_it() -> None:
    script: Script = [(1, "ok", "x: +y1"), (2, "ok", "y: +x1 +w1"), (3, "ok", "x:1 w:"), (4, "ok", "x:1 w:1 y:1")]
    assert "G-single" in kinds(check_lists(list_transactions(script)))


def test_a_witness_names_its_transactions_and_edges() -> None:
    (found,) = check_lists(list_transactions(LIST_VIOLATIONS["G2"]))
    assert found.text == "T0(p1) -rw-> T1(p2) -rw-> T0(p1) (2 transactions)"


def test_histories_are_written_as_jepsen_reads_them() -> None:
    events = list(jepsen_events(list_transactions([(1, "ok", "+x1 x:1"), (2, "info", "y:")])))
    assert [(event["index"], event["type"], event["process"]) for event in events] == [
        (0, "invoke", 1),
        (1, "invoke", 2),
        (2, "ok", 1),
        (3, "info", 2),
    ]
    lines = [json.loads(line) for line in to_json_lines(events).splitlines()]
    assert lines == events and lines[2]["value"] == [["append", "planted-0-x", 1], ["r", "planted-0-x", [1]]]
    assert lines[0]["value"] == [["append", "planted-0-x", 1], ["r", "planted-0-x", None]]
    edn = to_edn_lines(events).splitlines()
    assert edn[0].endswith(':f :txn, :value [[:append "planted-0-x" 1] [:r "planted-0-x" nil]]}')
    assert edn[2].startswith("{:index 2, :type :ok, :process 1, :time 2,") and edn[2].endswith("[1]]]}")


Recorded = tuple[list[Commit], list[PredicateTransaction]]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    """A log with one transaction that two others overtook, none in what it read."""
    with Board.open(":memory:") as board:
        for key in ("a", "b"):
            write(board, key, "open")
        tx = board.begin("agent")
        read = SetRead({"topic": "items", "equals": {"state": "open"}}, found(tx.query(OPEN)))
        tx.put("reports", "count", 2, type="report")
        for key in ("c", "d"):
            write(board, key, "done")
        seq = board.commit(tx).seq
        yield board.log(), [PredicateTransaction(tx.id, "serializable", tx.snapshot, seq, (read,))]


OPEN = Predicate(topic="items", equals={"state": "open"})


def found(entries: list) -> frozenset:
    return frozenset((entry.topic, entry.key, entry.version) for entry in entries)


def write(board: Board, key: str, state: str) -> None:
    tx = board.begin("setup")
    tx.put("items", key, {"state": state}, type="item")
    board.commit(tx)


def test_reads_that_the_log_confirms_are_clean(recorded: Recorded) -> None:
    assert check_predicates(*recorded) == []


@pytest.mark.parametrize("kind", PREDICATE_VIOLATIONS)
def test_a_planted_violation_of_a_predicate_read_is_found(recorded: Recorded, kind: str) -> None:
    log, transactions = recorded
    assert kind in kinds(check_predicates(log, with_violation(kind, log, transactions)))


def test_faults_of_the_log_itself_are_found(recorded: Recorded) -> None:
    log, _ = recorded
    assert "gap" in kinds(check_predicates([*log[:1], *log[2:]], []))
    late = replace(log[1], seq=6, snapshot=0, isolation="snapshot", writes=(replace(log[0].writes[0], version=2),))
    assert kinds(check_predicates([*log, late], [])) == ["lost-update"]


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"topic": "items"},
        {"topic_prefix": "it"},
        {"topic": "items", "key_from": "b", "key_to": "d"},
        {"type": "report"},
        {"equals": {"state": "done"}},
    ],
)
def test_the_checkers_own_reading_of_predicates_agrees_with_the_boards(recorded: Recorded, conditions: dict) -> None:
    log, _ = recorded
    with Board.open(":memory:") as board:
        for commit in log:
            tx = board.begin("copy")
            for entry in commit.writes:
                tx.put(entry.topic, entry.key, entry.value, type=entry.type)
            board.commit(tx)
        read = SetRead(conditions, found(board.query(Predicate.from_json(conditions))))
        item = PredicateTransaction("reader", "serializable", board.head, board.head, (read,))
        assert check_predicates(board.log(), [item]) == []
        assert kinds(check_predicates(board.log(), [replace(item, snapshot=0, seq=0)])) == ["wrong-read"]


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_small_trial_with_kills_shows_no_forbidden_anomaly(workload: str, isolation: Isolation) -> None:
    trial = run_trial(Plan(workload, isolation, count=240, processes=3, kills=1))
    assert trial.forbidden == [] and trial.outcomes["ok"] >= 160
    assert unfound(trial) == []


def test_a_history_is_kept_in_both_formats(tmp_path: Path) -> None:
    trial = run_trial(Plan("list-append", "serializable", count=20, processes=2))
    lines = [path.read_text().splitlines() for path in keep_history(trial, tmp_path)]
    assert len(lines[0]) == len(lines[1]) == 2 * len(trial.lists) >= 42
