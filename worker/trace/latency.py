"""How fast the broker was while a trace was recorded, as far as the trace tells."""

from __future__ import annotations

from typing import Final

from worker.kapi.exchanges import Exchange
from worker.parking.model import CallId
from worker.parking.records import Claim, Record, Retrieve
from worker.parking.slot_view import subject_of
from worker.trace.effects import QUESTION
from worker.trace.fleet import BIND_MS, LOG_MS, Latency
from worker.trace.lines import LogRecord, Message, Trace

SLOW_MS: Final = 200
"""A broker that needs longer for a binding or a record is not followed."""


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
