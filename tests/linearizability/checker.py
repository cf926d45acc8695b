"""Checks histories (`history`) of real runs for what must never happen.

The log gives the witness: every decided operation has an offset. The run is linearizable when

1. all replicas saw the same changes and have the same digest at equal offsets of the same log;
2. in log order the changes are those of a plain dictionary of slots: a slot is taken only when it
   is free, a loser was really too late, an automatic slot is the lowest free one, one retriever at
   a time;
3. log order agrees with real time: what was acknowledged before another operation was begun stands
   before it;
4. in real time (not in log order) nobody held a slot for sure while another did;
5. no acknowledged park is lost: it was released by somebody who asked for that, or it is still
   there at the end, on every replica.

`python -m tests.linearizability.checker FOLDER` checks a recorded run.
"""

from __future__ import annotations

import bisect
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.linearizability.history import Line, read_all

FIRST_NUMBER = 101


@dataclass(frozen=True, slots=True)
class Violation:
    """``rule``: replica, order, time, overlap or lost."""

    rule: str
    text: str


@dataclass(slots=True)
class Report:
    """What was found. ``counts``: how much was checked, so that an empty run shows."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def bad(self, rule: str, text: str) -> None:
        self.violations.append(Violation(rule, text))

    def __str__(self) -> str:
        checked = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        lines = [f"{found.rule}: {found.text}" for found in self.violations[:20]]
        more = len(self.violations) - len(lines)
        if more > 0:
            lines.append(f"… and {more} more")
        return "\n".join([f"checked: {checked}", *(lines or ["no violation"])])


@dataclass(slots=True)
class _Op:
    kind: str
    session: str
    invoked: int
    slot: str = ""
    holder: str = ""
    attempt: int = 0
    ok: Line | None = None


def check(histories: Sequence[Sequence[Line]]) -> Report:
    """Check one run: the histories of all its processes."""
    report = Report()
    logs = _merge(histories, report)
    operations = _operations(histories, report)
    began = {name: min(line["t"] for line in applied.values()) for name, applied in logs.items()}
    for number, name in enumerate(sorted(logs, key=lambda name: began[name])):
        _check_order(_Model(report, seeded=number > 0), logs[name], operations, report)
    _check_time(operations, logs, report)
    _check_overlaps(operations, report)
    _check_lost(histories, operations, logs, report)
    return report


# ---- 1. replicas ---------------------------------------------------------------------------------


def _merge(histories: Iterable[Sequence[Line]], report: Report) -> dict[str, dict[int, Line]]:
    """Log name → offset → what was applied there, as all replicas agree."""
    logs: dict[str, dict[int, Line]] = {}
    for number, history in enumerate(histories):
        for line in history:
            if line["e"] != "apply":
                continue
            report.counts["applied"] += 1
            log = logs.setdefault(line["log"], {})
            first = log.setdefault(line["o"], line)
            if first is line:
                continue
            report.counts["compared"] += 1
            if first["d"] != line["d"]:
                report.bad("replica", f"digests differ at offset {line['o']} (process {number})")
            elif first["c"] != line["c"]:
                report.bad("replica", f"changes differ at offset {line['o']} (process {number})")
    return {name: dict(sorted(log.items())) for name, log in logs.items()}


def _operations(histories: Iterable[Sequence[Line]], report: Report) -> dict[str, _Op]:
    operations: dict[str, _Op] = {}
    for history in histories:
        for line in history:
            if line["e"] == "invoke":
                report.counts[f"{line['kind']} begun"] += 1
                operations[line["op"]] = _Op(
                    kind=line["kind"],
                    session=line["session"],
                    invoked=line["t"],
                    slot=line.get("slot", ""),
                    holder=str(line.get("holder", line["session"])),
                    attempt=line.get("attempt", 0),
                )
            elif line["e"] == "ok":
                operation = operations[line["op"]]
                operation.ok = line
                report.counts[f"{operation.kind} {line['outcome']}"] += 1
    return operations


# ---- 2. log order --------------------------------------------------------------------------------


def _check_order(
    model: _Model, applied: dict[int, Line], operations: dict[str, _Op], report: Report
) -> None:
    asked = {(op.kind, op.session, op.attempt): op for op in operations.values() if op.attempt}
    decided: dict[tuple[str, str, int], tuple[str, str]] = {}
    for offset, line in applied.items():
        for row in line["c"]:
            kind, session = row[0], row[1]
            if kind in ("claim", "retrieve"):
                attempt, answer = row[2], (row[3], row[4])
                key = (kind, session, attempt)
                if decided.get(key, answer) != answer:
                    report.bad("order", f"{session} was decided twice, at {offset} otherwise")
                elif key not in decided:
                    decided[key] = answer
                    report.counts["decided"] += 1
                    model.decided(offset, session, answer, asked.get(key), kind=kind)
            elif kind == "free":
                model.freed(offset, session, row[2])
            elif kind == "retrieve_end":
                model.retrieval_ended(session, row[2])


class _Model:
    """A dictionary of slots, and nothing of the slot table's code.

    ``seeded``: the log followed one that was wiped. What slots held at its beginning shows only
    with the first row about each, so that row is believed."""

    def __init__(self, report: Report, *, seeded: bool) -> None:
        self._report = report
        self._seeded = seeded
        self._seen: set[str] = set()
        self.holders: dict[str, str] = {}
        self.retrievers: dict[str, str] = {}

    def decided(
        self, offset: int, session: str, answer: tuple[str, str], op: _Op | None, *, kind: str
    ) -> None:
        """``answer``: outcome and slot as the replicas say; ``op``: what was asked, if known."""
        slot = answer[1] or (op.slot if op else "")
        if self._is_new(slot) and answer[0] != "won":
            return
        if self._is_new(slot) and kind == "retrieve":
            self.holders[slot] = "somebody seeded"
        self._seen.add(slot)
        if kind == "claim":
            self._claim(offset, session, answer, op)
        else:
            self._retrieve(offset, session, answer, op)

    def _is_new(self, slot: str) -> bool:
        return self._seeded and slot not in self._seen

    def _claim(self, offset: int, session: str, answer: tuple[str, str], op: _Op | None) -> None:
        outcome, slot = answer
        where = f"at {offset} {session} claimed {slot or '?'}"
        holder = self.holders.get(slot)
        if outcome == "won":
            if holder is not None:
                self._report.bad("order", f"{where} and won, but {holder} had it")
            if session in self.holders.values():
                self._report.bad("order", f"{where} and won, but has another slot")
            if op is not None and op.slot not in ("", slot):
                self._report.bad("order", f"{where}, but had asked for {op.slot}")
            automatic = op is not None and not op.slot and not self._seeded
            if automatic and slot != self._lowest():
                self._report.bad("order", f"{where}, but {self._lowest()} was free")
            self.holders[slot] = session
        elif outcome == "occupied" and holder is None:
            self._report.bad("order", f"{where} and lost, but it was free")

    def _retrieve(self, offset: int, session: str, answer: tuple[str, str], op: _Op | None) -> None:
        outcome, slot = answer
        slot = slot or (op.slot if op else "")
        where = f"at {offset} {session} retrieved {slot or '?'}: {outcome}"
        retriever = self.retrievers.get(slot)
        if outcome == "won":
            if slot not in self.holders:
                self._report.bad("order", f"{where}, but nobody was there")
            if retriever not in (None, session):
                self._report.bad("order", f"{where}, but {retriever} was at it")
            self.retrievers[slot] = session
        elif outcome == "busy" and retriever in (None, session):
            self._report.bad("order", f"{where}, but nobody was at it")
        elif outcome == "empty" and slot in self.holders:
            self._report.bad("order", f"{where}, but {self.holders[slot]} was there")

    def freed(self, offset: int, session: str, slot: str) -> None:
        believed = self._is_new(slot) or self.holders.get(slot) == "somebody seeded"
        self._seen.add(slot)
        if self.holders.get(slot) != session and not believed:
            had = self.holders.get(slot)
            self._report.bad("order", f"at {offset} {session} left {slot}, but {had} had it")
        self.holders.pop(slot, None)
        self.retrievers.pop(slot, None)

    def retrieval_ended(self, session: str, slot: str) -> None:
        if self.retrievers.get(slot) == session:
            del self.retrievers[slot]

    def _lowest(self) -> str:
        number = FIRST_NUMBER
        while str(number) in self.holders:
            number += 1
        return str(number)


# ---- 3. real time --------------------------------------------------------------------------------


def _check_time(
    operations: dict[str, _Op], logs: dict[str, dict[int, Line]], report: Report
) -> None:
    """Whatever was acknowledged before an operation began has a lower offset than it."""
    for name in logs:
        done = [
            (op.ok["t"], op.ok["offset"], op)
            for op in operations.values()
            if op.ok is not None and op.ok.get("log") == name
        ]
        done.sort(key=lambda item: item[0])
        times = [time for time, _, _ in done]
        highest: list[int] = []
        for _, offset, _ in done:
            highest.append(max(offset, highest[-1] if highest else -1))
        for _, offset, op in done:
            before = bisect.bisect_left(times, op.invoked)
            if before and highest[before - 1] >= offset:
                report.bad(
                    "time",
                    f"{op.kind} of {op.session} at {offset} began after the operation at "
                    f"{highest[before - 1]} was done",
                )
        report.counts["in time order"] += len(done)


# ---- 4. overlaps ---------------------------------------------------------------------------------


def _check_overlaps(operations: dict[str, _Op], report: Report) -> None:
    """A session holds a slot for sure from the acknowledgement on until somebody asks to end it."""
    ends: dict[str, int] = {}
    for op in operations.values():
        if op.kind in ("release", "close"):
            ends[op.holder] = min(op.invoked, ends.get(op.holder, op.invoked))
    by_slot: dict[str, list[tuple[int, float, str]]] = {}
    for op in operations.values():
        if op.kind == "claim" and op.ok is not None and op.ok["outcome"] == "won":
            until: float = ends.get(op.session, float("inf"))
            if until > op.ok["t"]:
                held = (op.ok["t"], until, op.session)
                by_slot.setdefault(op.ok["slot"], []).append(held)
    for slot, intervals in by_slot.items():
        intervals.sort()
        report.counts["ownerships"] += len(intervals)
        latest: tuple[float, str] = (-1.0, "")
        for begin, end, session in intervals:
            if begin < latest[0]:
                report.bad("overlap", f"{latest[1]} and {session} both held {slot}")
            latest = max(latest, (end, session))


# ---- 5. lost parks -------------------------------------------------------------------------------


def _check_lost(
    histories: Sequence[Sequence[Line]],
    operations: dict[str, _Op],
    logs: dict[str, dict[int, Line]],
    report: Report,
) -> None:
    finals = [line for history in histories for line in history if line["e"] == "final"]
    report.counts["finals"] += len(finals)
    if not finals:
        report.bad("lost", "no process told its final state")
        return
    if len({repr(sorted(final["held"].items())) for final in finals}) > 1:
        report.bad("replica", "the final states differ")
    ending: dict[str, int] = {}
    for op in operations.values():
        if op.kind in ("release", "close"):
            ending[op.holder] = min(op.invoked, ending.get(op.holder, op.invoked))
    for offset, line in (item for log in logs.values() for item in log.items()):
        for row in line["c"]:
            if row[0] == "free" and ending.get(row[1], line["t"] + 1) > line["t"]:
                report.bad("lost", f"{row[1]} lost {row[2]} at {offset}, nobody asked for it")
    for op in operations.values():
        if op.kind != "claim" or op.ok is None or op.ok["outcome"] != "won":
            continue
        report.counts["parks"] += 1
        slot = op.ok["slot"]
        there = all(final["held"].get(slot) == op.session for final in finals)
        if op.session not in ending and not there:
            report.bad("lost", f"{op.session} was given {slot} and is not there")


def main(folder: str) -> int:
    """Print the report; 1 when something is wrong."""
    report = check(read_all(Path(folder)))
    print(report)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
