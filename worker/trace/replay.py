"""Replay of a recording: its inputs go to the pure engines under a virtual clock, and everything
they say is compared with what the recording holds.

A recording is made from outside (`record`): what it cannot show is in `visible`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from worker.engine.engine import Engine
from worker.engine.ops import Append
from worker.errors import MalformedMessageError
from worker.kapi.exchanges import Exchange
from worker.parking.model import SessionId, WorkerId
from worker.parking.records import (
    Alive,
    Barrier,
    Dead,
    Join,
    Leave,
    Record,
    Settled,
)
from worker.parking.slot_view import subject_of
from worker.trace.differences import Difference, Kind
from worker.trace.effects import (
    SLOT_LOG,
    Effect,
    effect_of,
    record_effect,
    recorded_effect,
)
from worker.trace.fleet import Fleet, RecordedOrder, Said
from worker.trace.latency import RecordedLatency
from worker.trace.lines import Ended, LogRecord, Message, NotATraceError, TableLine, Trace
from worker.trace.matching import (
    TOLERANCE_MS,
    Matcher,
    difference,
    left_over,
    pair_differences,
)
from worker.trace.places import lost_lines
from worker.trace.survey import Survey, WorkerSeen, survey
from worker.trace.visible import UNTIMELY, Visibility

Plain = Mapping[str, object]

DAY_MS: Final = 86_400_000
LONGEST_MS: Final = 31 * DAY_MS
"""A longer recording has a line whose time is nonsense."""
WAIT_FOR_ASKER_MS: Final = 5_000
"""An answer waits so long for replay to ask its question."""
AFTER_LAST_WORDS_MS: Final = 2
"""A killed worker may have done so much more than what was seen of it."""
NEIGHBOUR_GRACE: Final = 1.25
"""A node that advertises itself lives for its Expires times this (contract §10)."""


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
    pairs: tuple[tuple[Effect, Effect], ...] = ()
    """(recorded, replayed) effects that are the same one, timely."""
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
        self._start_ms, self._end_ms = times[0], max(times)
        if self._end_ms - self._start_ms > LONGEST_MS:
            raise NotATraceError(f"{trace.path}: it lasts longer than {LONGEST_MS // DAY_MS} days")
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
        for worker, at_ms in list(self._survey.last_words.items()):
            if worker in self._fleet.engines and at_ms + AFTER_LAST_WORDS_MS < until_ms:
                self._fleet.advance(at_ms + AFTER_LAST_WORDS_MS)
                self._hear()
                owes = self._owes(worker)
                if not owes or at_ms + self._tolerance_ms < until_ms:
                    self._fleet.stop(worker)
                    del self._survey.last_words[worker]
        self._fleet.advance(until_ms)
        self._hear()

    def _owes(self, worker: WorkerId) -> bool:
        """Whether replay still has to say something that the worker said."""
        seen = self._survey.workers[worker]
        return any(
            (effect.strict and seen.node == effect.payload.get("Node"))
            or effect.payload.get("author") == worker
            for effect in self._matcher.free_recorded()
        )

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
        visible = Visibility(
            survey=self._survey,
            end_ms=self._end_ms,
            tolerance_ms=self._tolerance_ms,
            deaths=self._deaths,
            said=tuple(self._said),
        )
        pairs = [pair for pair in matcher.compared() if not visible.is_old(pair.recorded)]
        recorded = [e for e in matcher.free_recorded() if visible.counts_recorded(e)]
        replayed = [e for e in matcher.free_replayed() if visible.counts_replayed(e)]
        free = len(matcher.free_recorded()) + len(matcher.free_replayed())
        found = [
            *pair_differences(pairs, tolerance_ms=self._tolerance_ms, start_ms=start_ms),
            *left_over(recorded, replayed, tolerance_ms=self._tolerance_ms, start_ms=start_ms),
        ]
        found += [
            difference(Kind.ORDER, start_ms=start_ms, recorded=left, replayed=right)
            for left, right in matcher.out_of_order()
        ]
        found += lost_lines(self._trace, start_ms)
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
            pairs=tuple(
                (recorded, replayed)
                for recorded, replayed in matcher.pairs
                if abs(recorded.at_ms - replayed.at_ms) <= self._tolerance_ms
            ),
            ids=dict(matcher.ids),
        )

def _effect_of(said: Said) -> Effect | None:
    op = said.op
    if isinstance(op, Append):
        effect = record_effect(op.record, said.at_ms)
    else:
        effect = effect_of(
            op.exchange.value, op.routing_key, dict(op.headers), dict(op.payload), said.at_ms
        )
    if effect is None:
        return None
    strict = effect.strict and said.reason not in UNTIMELY
    return replace(effect, worker=said.worker, strict=strict)


def _timed(trace: Trace) -> Iterator[Message | LogRecord | Ended]:
    for line in trace.lines:
        if isinstance(line, Message | LogRecord | Ended):
            yield line


def replay(
    trace: Trace, *, overrides: Plain | None = None, tolerance_ms: int = TOLERANCE_MS
) -> ReplayResult:
    """Replay a recording. Raises NotATraceError."""
    return Replay(trace, overrides=overrides, tolerance_ms=tolerance_ms).run()
