"""Replay of a recording: its inputs go to the pure engines under a virtual clock, and everything
they say is compared with what the recording holds.

A recording is made from outside (`record`), so some things cannot be seen and are not held against
either side: what was said on a direct exchange before it was tapped, what concerns calls that were
parked before the recording began, lamps said again only to outlast their Expires, and what a worker
that was about to be declared dead did not say any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from worker.engine.engine import Engine
from worker.errors import MalformedMessageError
from worker.kapi.exchanges import Exchange
from worker.parking.model import CallId, SessionId, WorkerId
from worker.parking.records import (
    Alive,
    Barrier,
    Claim,
    Dead,
    Join,
    Leave,
    Record,
    Retrieve,
    Settled,
)
from worker.parking.slot_view import subject_of
from worker.trace.differences import Difference, Kind
from worker.trace.effects import (
    QUESTION,
    SLOT_LOG,
    Effect,
    effect_of,
    record_effect,
    recorded_effect,
)
from worker.trace.fleet import BIND_MS, LOG_MS, Fleet, Latency, RecordedOrder, Said
from worker.trace.lines import Ended, LogRecord, Message, NotATraceError, TableLine, Trace
from worker.trace.matching import (
    TOLERANCE_MS,
    Matcher,
    difference,
    left_over,
    pair_differences,
)
from worker.trace.survey import Survey, WorkerSeen, survey

Plain = Mapping[str, object]

WAIT_FOR_ASKER_MS: Final = 5_000
"""An answer waits so long for replay to ask its question."""
SLOW_MS: Final = 200
"""A broker that needs longer for a binding or a record is not followed."""
DEATH_MS: Final = 8_000
"""A worker may have been dead for so long when the log says so."""
NEIGHBOUR_GRACE: Final = 1.25
SAID_AGAIN_MS: Final = 30_000
"""A lit lamp said again after so long is a refresh."""
_UNTIMELY: Final = frozenset({"refreshed", "returned", "adopted", "orphaned", "repaired"})
"""Reasons of lamp updates whose time or number depends on what no recording shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """What came of it."""

    differences: tuple[Difference, ...]
    inputs: int
    effects: int
    """Pairs that were compared."""
    unseen: int
    """Effects of either side that could not be compared (see the module)."""
    duration_ms: int
    """Virtual time."""
    crashes: tuple[str, ...] = ()
    said: tuple[Effect, ...] = ()
    """Everything replay said, in order."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """Recorded id → replay's."""


class Replay:
    """One run over one trace."""

    def __init__(
        self, trace: Trace, *, overrides: Plain | None = None, tolerance_ms: int = TOLERANCE_MS
    ) -> None:
        self._trace = trace
        self._tolerance_ms = tolerance_ms
        self._overrides = overrides or {}
        self._survey: Survey = survey(trace)
        self._fleet = Fleet(
            order=RecordedOrder(self._survey.records), latency=RecordedLatency(trace)
        )
        self._matcher = Matcher(exact=self._survey.has_our_ids, on_pair=self._paired)
        times = [line.at_ms for line in _timed(trace)] or [trace.head.started_at_ms]
        self._start_ms, self._end_ms = min(times), max(times)
        self._inputs = 0
        self._tags = 0
        self._said: list[Effect] = []
        self._reasons: dict[int, str] = {}
        self._waiting: dict[str, list[Message]] = {}
        self._deaths: dict[WorkerId, int] = {}
        self._epochs: dict[WorkerId, int] = {}

    # ---- the run --------------------------------------------------------------------------------

    def run(self) -> ReplayResult:
        """Feed everything and compare. Raises NotATraceError for a slot table that is none."""
        fleet = self._fleet
        fleet.now_ms = self._start_ms
        self._begin()
        for line in self._trace.lines:
            if not isinstance(line, Message | LogRecord):
                continue
            self._advance(line.at_ms)
            if isinstance(line, LogRecord):
                self._log_record(line)
            else:
                self._message(line)
            self._hear()
        self._advance(self._end_ms)
        self._hear()
        return self._result()

    def _begin(self) -> None:
        """The slot table as it was, and the workers that were there already."""
        table = next((line for line in self._trace.lines if isinstance(line, TableLine)), None)
        if table is not None:
            try:
                self._fleet.restore(table.state)
            except MalformedMessageError as error:
                raise NotATraceError(f"{self._trace.path}: its slot table: {error}") from error
        for seen in self._survey.workers.values():
            if not seen.joined:
                self._start(seen, resumes=False)
        self._meet_neighbours()

    def _start(self, seen: WorkerSeen, *, resumes: bool) -> None:
        config = self._survey.config(
            seen.worker, self._trace.head.settings, self._overrides, self._fleet.now_ms
        )
        self._fleet.start(config, resumes=resumes)
        self._hear()

    def _meet_neighbours(self) -> None:
        """Nodes that advertise themselves soon after the start were known before it."""
        met: set[str] = set()
        for line in self._trace.lines:
            if not isinstance(line, Message) or line.exchange != Exchange.NODES:
                continue
            node, expires = line.text("Node"), (line.payload or {}).get("Expires")
            known_ms = expires * NEIGHBOUR_GRACE if isinstance(expires, int) else 0
            if node in met or node in self._survey.nodes:
                continue
            met.add(node)
            if line.at_ms - self._start_ms <= known_ms:
                self._feed(line, None)

    def _advance(self, until_ms: int) -> None:
        self._fleet.advance(until_ms)
        self._hear()

    # ---- lines ----------------------------------------------------------------------------------

    def _log_record(self, line: LogRecord) -> None:
        record = line.record
        subject = subject_of(record)
        if subject is not None and not self._is_foreign(subject):
            effect = record_effect(record, line.at_ms, line=line.number)
            if effect is not None:
                self._matcher.recorded(effect)
            return
        self._about_workers(record, line.at_ms)

    def _is_foreign(self, session: SessionId) -> bool:
        """Looked after by nobody here: its records count as they are."""
        return session not in self._survey.executes

    def _about_workers(self, record: Record, at_ms: int) -> None:
        """Somebody else's doing: taken as it stands, without its author's numbering."""
        fleet = self._fleet
        match record:
            case Join() if record.author not in fleet.engines:
                self._start(self._survey.workers[record.author], resumes=True)
            case Join() | Alive() | Settled():
                pass
            case Barrier():
                known = self._epochs.get(record.author)
                self._epochs[record.author] = record.epoch
                if known is not None and known != record.epoch:
                    fleet.reconnected(record.author)
            case _:
                fleet.append(replace(record, epoch=0, seq=0))
                fleet.settle()
        if isinstance(record, Dead | Leave):
            gone = record.victim if isinstance(record, Dead) else record.author
            if gone not in fleet.table.workers:
                self._deaths[gone] = at_ms
                fleet.stop(gone)

    def _message(self, line: Message) -> None:
        effect = recorded_effect(line)
        if effect is not None and line.exchange != Exchange.KAPPS:
            if line.text("Node") in self._survey.nodes:
                self._expect(effect)
            return
        match line.exchange:
            case Exchange.KAPPS:
                self._execute(line)
            case Exchange.TARGETED:
                inbox = self._survey.inboxes.get(line.key)
                if inbox is not None:
                    self._answer(line, inbox)
            case Exchange.NODES if line.text("Node") in self._survey.nodes:
                pass
            case Exchange.CALLEVT:
                self._answer(line, None)
            case Exchange.PRESENCE | Exchange.NODES | Exchange.CONFIGURATION:
                self._feed(line, None)
            case _:
                pass

    def _expect(self, effect: Effect) -> None:
        """The trace holds something a worker said: replay must have said it, or be about to."""
        if self._matcher.recorded(effect) or not effect.strict:
            return
        if effect.exchange == Exchange.PRESENCE:
            return
        # What the worker's timer made it say a little early: its clock is not the recorder's.
        soon_ms = effect.at_ms + self._tolerance_ms
        while self._matcher.is_free(effect):
            deadline_ms = self._fleet.next_deadline_ms()
            if deadline_ms is None or deadline_ms > soon_ms:
                return
            self._advance(deadline_ms)

    def _execute(self, line: Message) -> None:
        session = SessionId(line.text("Msg-ID"))
        worker = self._survey.took.get(session)
        if worker not in self._fleet.engines:
            worker = next(iter(self._fleet.engines), None)
        self._tags += 1
        self._inputs += 1
        tag, now_ms = self._tags, self._fleet.now_ms

        def apply(engine: Engine) -> None:
            engine.execute(
                line.bytes,
                tag=tag,
                sent_at_ms=line.sent_at_ms,
                redelivered=False,
                exchange=line.exchange,
                routing_key=line.key,
                now_ms=now_ms,
            )

        self._fleet.feed(apply, worker)

    def _answer(self, line: Message, worker: WorkerId | None) -> None:
        """An input that may quote an id: in the trace the recorded one, for the engine its own."""
        for name in ("Msg-ID", "Application-Response"):
            quoted = line.text(name)
            if quoted and quoted not in self._matcher.ids and self._matcher.has_free_id(quoted):
                self._waiting.setdefault(quoted, []).append(line)
                return
        self._feed(line, worker)

    def _paired(self, recorded: Effect, replayed: Effect) -> None:
        for quoted in [key for key in self._waiting if key in self._matcher.ids]:
            for line in self._waiting.pop(quoted):
                if self._fleet.now_ms - line.at_ms <= WAIT_FOR_ASKER_MS:
                    self._feed(line, self._survey.inboxes.get(line.key))

    def _feed(self, line: Message, worker: WorkerId | None) -> None:
        self._inputs += 1
        body, now_ms = self._translated(line), self._fleet.now_ms
        self._fleet.feed(
            lambda engine: engine.message(
                body, exchange=line.exchange, routing_key=line.key, now_ms=now_ms
            ),
            worker,
        )
        self._hear()

    def _translated(self, line: Message) -> bytes:
        ids = self._matcher.ids
        quoted = {
            name: ids[line.text(name)]
            for name in ("Msg-ID", "Application-Response")
            if line.text(name) in ids
        }
        if quoted:
            line = replace(line, payload={**(line.payload or {}), **quoted})
        return line.bytes

    # ---- what replay says -----------------------------------------------------------------------

    def _hear(self) -> None:
        has_log = self._survey.has_log
        while said := self._fleet.take_said():
            for one in said:
                effect = _effect_of(one)
                if effect is not None and (has_log or effect.exchange != SLOT_LOG):
                    self._said.append(effect)
                    self._matcher.replayed(effect)

    # ---- the result -----------------------------------------------------------------------------

    def _result(self) -> ReplayResult:
        matcher, start_ms = self._matcher, self._start_ms
        pairs = [pair for pair in matcher.compared() if not self._is_old(pair.recorded)]
        recorded = [e for e in matcher.free_recorded() if self._counts_recorded(e)]
        replayed = [e for e in matcher.free_replayed() if self._counts_replayed(e)]
        free = len(matcher.free_recorded()) + len(matcher.free_replayed())
        found = [
            *pair_differences(pairs, tolerance_ms=self._tolerance_ms, start_ms=start_ms),
            *left_over(recorded, replayed, tolerance_ms=self._tolerance_ms, start_ms=start_ms),
        ]
        found += [
            difference(Kind.ORDER, start_ms=start_ms, recorded=left, replayed=right)
            for left, right in matcher.out_of_order()
        ]
        found += _lost_lines(self._trace, start_ms)
        crashes = [
            f"{log.fields.get('call_id')}: {log.fields.get('error')}"
            for _, _, log in self._fleet.logs
            if log.event == "session crashed"
        ]
        return ReplayResult(
            differences=tuple(sorted(found, key=lambda found: found.at_ms)),
            inputs=self._inputs,
            effects=len(pairs),
            unseen=free - len(recorded) - len(replayed) + len(matcher.pairs) - len(pairs),
            duration_ms=self._end_ms - start_ms,
            crashes=tuple(crashes),
            said=tuple(self._said),
            ids=dict(matcher.ids),
        )

    def _is_old(self, effect: Effect) -> bool:
        """About a call that was looked after before the recording began."""
        call_id = effect.payload.get("Call-ID")
        session = effect.payload.get("Msg-ID")
        return call_id in self._survey.old_calls or session in self._survey.old_sessions

    def _counts_recorded(self, effect: Effect) -> bool:
        if not effect.strict or self._is_old(effect):
            return False
        return effect.exchange != Exchange.PRESENCE or not (
            self._is_refresh(effect) or self._is_of_before(effect)
        )

    def _is_refresh(self, effect: Effect) -> bool:
        """A lit lamp said again, long after it was said."""
        payload = effect.payload
        if payload.get("State") == "terminated":
            return False
        lit = [
            other
            for other in self._said
            if other.channel == effect.channel and other.name == effect.name
        ]
        return bool(lit) and effect.at_ms - lit[0].at_ms >= SAID_AGAIN_MS

    def _is_of_before(self, effect: Effect) -> bool:
        """Of a lamp nobody lit in this trace: an answer from what a worker remembers."""
        workers = self._survey.workers.values()
        if all(seen.joined for seen in workers):
            return False
        channel = effect.channel.lower()
        return not any(other.channel.lower() == channel for other in self._said)

    def _counts_replayed(self, effect: Effect) -> bool:
        if not effect.strict or self._is_old(effect):
            return False
        if effect.at_ms > self._end_ms - self._tolerance_ms:
            return False
        died_ms = self._deaths.get(WorkerId(effect.worker))
        if died_ms is not None and effect.at_ms >= died_ms - DEATH_MS:
            return False
        if not effect.is_direct or not self._survey.tapped:
            return True
        since_ms = self._survey.tapped.get((effect.exchange, effect.key))
        return since_ms is not None and effect.at_ms >= since_ms


class RecordedLatency(Latency):
    """As fast as the broker was then, as far as the trace tells."""

    def __init__(self, trace: Trace) -> None:
        self._records: dict[tuple[str, str], list[int]] = {}
        self._asked: dict[str, list[int]] = {}
        self._decided: dict[str, int] = {}
        sessions: dict[str, str] = {}
        for line in trace.lines:
            if isinstance(line, LogRecord):
                self._records.setdefault(_kind_of(line.record), []).append(line.at_ms)
                if isinstance(line.record, Claim | Retrieve):
                    call_id = sessions.get(str(subject_of(line.record)))
                    self._decided.setdefault(call_id or "", line.at_ms)
            elif isinstance(line, Message) and line.exchange == Exchange.KAPPS:
                sessions[line.text("Msg-ID")] = line.text("Call-ID")
            elif isinstance(line, Message) and line.text("Event-Name") == QUESTION:
                self._asked.setdefault(line.text("Call-ID"), []).append(line.at_ms)

    def of_record(self, record: Record, now_ms: int) -> int:
        times = self._records.get(_kind_of(record))
        if not times:
            return now_ms + LOG_MS
        return min(max(times.pop(0), now_ms), now_ms + SLOW_MS)

    def of_binding(self, call_id: CallId, now_ms: int) -> int:
        """A call that is listened to is asked for at once, unless its claim was decided before."""
        times = self._asked.get(call_id, ())
        if any(now_ms - SLOW_MS <= at_ms <= now_ms + SLOW_MS for at_ms in times):
            return now_ms
        decided_ms = self._decided.get(call_id, now_ms + LOG_MS)
        return min(max(decided_ms, now_ms), now_ms + SLOW_MS) + BIND_MS


def _kind_of(record: Record) -> tuple[str, str]:
    return type(record).__name__, str(subject_of(record))


def _effect_of(said: Said) -> Effect | None:
    op = said.op
    if hasattr(op, "record"):
        effect = record_effect(op.record, said.at_ms)
    else:
        effect = effect_of(
            op.exchange.value, op.routing_key, dict(op.headers), dict(op.payload), said.at_ms
        )
    if effect is None:
        return None
    strict = effect.strict and said.reason not in _UNTIMELY
    return replace(effect, worker=said.worker, strict=strict)


def _lost_lines(trace: Trace, start_ms: int) -> Iterator[Difference]:
    """Lines that were taken out of the trace, or stand elsewhere: their numbers tell."""
    there = {n for n, _, _ in trace.places}
    highest = 0
    for n, at_ms, number in trace.places:
        if n < highest:
            yield Difference(
                kind=Kind.ORDER,
                subject=f"line n={n} of the trace stands after n={highest}",
                at_ms=at_ms - start_ms,
                line=number,
            )
        for lost in range(highest + 1, n):
            if lost not in there:
                yield Difference(
                    kind=Kind.MISSING,
                    subject=f"line n={lost} is gone from the trace",
                    at_ms=at_ms - start_ms,
                    line=number,
                )
        highest = max(highest, n)


def _timed(trace: Trace) -> Iterator[Message | LogRecord | Ended]:
    for line in trace.lines:
        if isinstance(line, Message | LogRecord | Ended):
            yield line


def replay(
    trace: Trace, *, overrides: Plain | None = None, tolerance_ms: int = TOLERANCE_MS
) -> ReplayResult:
    """Replay a recording. Raises NotATraceError."""
    return Replay(trace, overrides=overrides, tolerance_ms=tolerance_ms).run()
