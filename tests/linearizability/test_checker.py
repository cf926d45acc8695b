"""The checker finds what it is there to find: each seeded violation, and nothing in a good run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.linearizability.checker import Report, check, main
from tests.linearizability.history import Line, Recorder, read

History = list[list[Line]]
LOG = "the log"


def apply(at: int, offset: int, *rows: list[str | int], digest: str = "") -> Line:
    return {"e": "apply", "t": at, "log": LOG, "o": offset, "c": list(rows), "d": digest or offset}


def invoke(at: int, op: str, kind: str, session: str, **more: object) -> Line:
    return {"e": "invoke", "t": at, "op": op, "kind": kind, "session": session, **more}


def ok(at: int, op: str, outcome: str, slot: str, offset: int) -> Line:
    return {
        "e": "ok",
        "t": at,
        "op": op,
        "outcome": outcome,
        "slot": slot,
        "offset": offset,
        "log": LOG,
    }


def final(at: int, held: dict[str, str]) -> Line:
    return {"e": "final", "t": at, "log": LOG, "o": 99, "held": held}


def good_run() -> History:
    """Two processes: a parks in 101, b is too late and later gets it, c is retrieved by d."""
    log = [
        apply(15, 1, ["claim", "a", 1, "won", "101"]),
        apply(16, 2, ["claim", "b", 1, "occupied", "101"]),
        apply(35, 3, ["free", "a", "101", "abandoned"]),
        apply(45, 4, ["claim", "b", 2, "won", "101"]),
        apply(55, 5, ["claim", "c", 1, "won", "102"]),
        apply(65, 6, ["retrieve", "d", 1, "won", "102"]),
        apply(66, 7, ["retrieve", "e", 1, "busy", "102"]),
        apply(75, 8, ["free", "c", "102", "retrieved"]),
        apply(76, 9, ["retrieve", "f", 1, "empty", ""]),
    ]
    one = [
        invoke(10, "1", "claim", "a", attempt=1, slot="101"),
        ok(20, "1", "won", "101", 1),
        invoke(30, "2", "release", "a", holder="a", slot="101"),
        invoke(50, "5", "claim", "c", attempt=1, slot=""),
        ok(58, "5", "won", "102", 5),
    ]
    two = [
        invoke(11, "3", "claim", "b", attempt=1, slot="101"),
        ok(21, "3", "occupied", "", 2),
        invoke(40, "4", "claim", "b", attempt=2, slot="101"),
        ok(47, "4", "won", "101", 4),
        invoke(60, "6", "retrieve", "d", attempt=1, slot="102"),
        ok(68, "6", "won", "102", 6),
        invoke(61, "7", "retrieve", "e", attempt=1, slot="102"),
        ok(69, "7", "busy", "", 7),
        invoke(70, "8", "release", "d", holder="c", slot="102"),
        invoke(70, "9", "retrieve", "f", attempt=1, slot="102"),
        ok(78, "9", "empty", "", 9),
    ]
    held = {"101": "b"}
    return [[*log, *one, final(90, held)], [*copy.deepcopy(log), *two, final(91, held)]]


def rules(report: Report) -> set[str]:
    return {violation.rule for violation in report.violations}


def test_a_good_run_has_no_violation_and_was_really_checked() -> None:
    report = check(good_run())
    assert report.violations == []
    assert report.counts["compared"] == 9
    assert report.counts["decided"] == 7
    assert report.counts["ownerships"] == 3
    assert report.counts["parks"] == 3


def line(run: History, process: int, event: str, number: int) -> Line:
    return [each for each in run[process] if each["e"] == event][number]


def double_holder(run: History) -> None:
    for process in (0, 1):
        line(run, process, "apply", 1)["c"] = [["claim", "b", 1, "won", "101"]]


def double_holder_in_real_time(run: History) -> None:
    """The log says it was freed, but nobody had asked yet when the next one was told."""
    line(run, 0, "invoke", 1)["t"] = 80


def lost_park(run: History) -> None:
    for process in (0, 1):
        line(run, process, "final", 0)["held"] = {}


def park_freed_unasked(run: History) -> None:
    run[0] = [each for each in run[0] if each.get("op") != "2"]


def digest_mismatch(run: History) -> None:
    line(run, 1, "apply", 4)["d"] = "other"


def different_decisions(run: History) -> None:
    line(run, 1, "apply", 1)["c"] = [["claim", "b", 1, "won", "101"]]


def stale_answer(run: History) -> None:
    """Acknowledged long before the other began, but later in the log."""
    line(run, 1, "ok", 1)["offset"] = 0


def loser_of_a_free_slot(run: History) -> None:
    for process in (0, 1):
        line(run, process, "apply", 0)["c"] = []


def automatic_slot_not_the_lowest(run: History) -> None:
    for process in (0, 1):
        line(run, process, "apply", 4)["c"] = [["claim", "c", 1, "won", "103"]]


def two_retrievers(run: History) -> None:
    for process in (0, 1):
        line(run, process, "apply", 6)["c"] = [["retrieve", "e", 1, "won", "102"]]


def empty_where_somebody_was(run: History) -> None:
    for process in (0, 1):
        line(run, process, "apply", 7)["c"] = []


def decided_twice_otherwise(run: History) -> None:
    for process in (0, 1):
        line(run, process, "apply", 8)["c"] = [["claim", "b", 1, "won", "103"]]


def finals_differ(run: History) -> None:
    line(run, 1, "final", 0)["held"] = {"101": "b", "104": "x"}


@pytest.mark.parametrize(
    ("seeded", "rule"),
    [
        (double_holder, "order"),
        (double_holder_in_real_time, "overlap"),
        (lost_park, "lost"),
        (park_freed_unasked, "lost"),
        (digest_mismatch, "replica"),
        (different_decisions, "replica"),
        (stale_answer, "time"),
        (loser_of_a_free_slot, "order"),
        (automatic_slot_not_the_lowest, "order"),
        (two_retrievers, "order"),
        (empty_where_somebody_was, "order"),
        (decided_twice_otherwise, "order"),
        (finals_differ, "replica"),
    ],
)
def test_a_seeded_violation_is_caught(seeded: Callable[[History], None], rule: str) -> None:
    run = good_run()
    seeded(run)
    assert rule in rules(check(run))


def seeded_log(run: History) -> None:
    """After a wipe the log begins with what was there: b in 101, g in 104."""
    rows: list[list[str | int]] = [
        ["claim", "x", 1, "occupied", "101"],
        ["retrieve", "y", 1, "won", "104"],
        ["free", "g", "104", "retrieved"],
        ["free", "b", "101", "abandoned"],
        ["claim", "z", 1, "won", "101"],
    ]
    one = [{**apply(100 + number, number, row), "log": "new"} for number, row in enumerate(rows)]
    asked = [
        invoke(95, "20", "release", "y", holder="g", slot="104"),
        invoke(95, "21", "release", "b", holder="b", slot="101"),
    ]
    for process in (0, 1):
        run[process] = [each for each in run[process] if each["e"] != "final"]
        run[process] += [*asked, *copy.deepcopy(one), final(200, {"101": "z"})]


def test_what_a_wiped_log_was_seeded_with_is_believed_once() -> None:
    run = good_run()
    seeded_log(run)
    assert check(run).violations == []
    for process in (0, 1):
        run[process].insert(-1, {**apply(150, 50, ["claim", "q", 1, "won", "101"]), "log": "new"})
    assert rules(check(run)) == {"order"}


def test_a_run_without_an_end_is_no_good_run() -> None:
    run = [[each for each in history if each["e"] != "final"] for history in good_run()]
    assert rules(check(run)) == {"lost"}


def test_a_line_cut_off_by_a_kill_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "00.jsonl"
    recorder = Recorder(path)
    recorder.write("start", worker="w")
    recorder.write("final", log=LOG, o=1, held={})
    with path.open("ab") as file:
        file.write(b'{"e":"ok","t":')
    assert [each["e"] for each in read(path)] == ["start", "final"]
    assert main(str(tmp_path)) == 0
    assert "no violation" in capsys.readouterr().out
