"""The lamps of this worker: the pure lamp book, told of the log and spoken for on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

from worker.engine import wire
from worker.engine.config import EngineConfig
from worker.engine.ops import Log, Op
from worker.kapi.presence import Probe, Reset
from worker.parking.changes import Released
from worker.parking.lamp import LampUpdate
from worker.parking.model import SlotEntry, WorkerId
from worker.parking.presence import LampBook
from worker.parking.slots import SlotTable

AUDIT_MS = 5_000
TERMINATED_REPEATS_MS = (400,)
"""One repeat heals what Kamailio's unordered workers do to the first (blf.md, design §8)."""


class Lamps:
    """One ordered writer for the lamps of this worker's sessions (design §6)."""

    def __init__(
        self,
        config: EngineConfig,
        table: SlotTable,
        emit: Callable[[Op], None],
        new_id: Callable[[], str],
    ) -> None:
        self._config = config
        self._table = table
        self._emit = emit
        self._new_id = new_id
        self._book = LampBook(
            expires_s=config.lamp_expires_s, repeats_ms=TERMINATED_REPEATS_MS
        )
        self._audit_at_ms = config.started_at_ms + AUDIT_MS

    def next_deadline_ms(self) -> int:
        at_ms = self._book.next_deadline_ms()
        return self._audit_at_ms if at_ms is None else min(at_ms, self._audit_at_ms)

    def due(self, now_ms: int, wanted: Callable[[], Iterable[SlotEntry]]) -> None:
        """Say what is due, and every few seconds compare with ``wanted``: the slots we hold."""
        self._publish(self._book.due(now_ms))
        if self._audit_at_ms <= now_ms:
            self._audit_at_ms = now_ms + AUDIT_MS
            for drift in self._book.audit(wanted(), now_ms):
                fields = {"call_id": drift.lamp.call_id, "kind": drift.kind.value}
                self._emit(Log(event="lamp drift", level="warning", fields=fields))

    # ---- our own -------------------------------------------------------------------------------

    def light(self, entry: SlotEntry, now_ms: int) -> None:
        self._publish(self._book.light(entry, now_ms))

    def darken(self, entry: SlotEntry, now_ms: int) -> None:
        self._publish(self._book.darken(entry, now_ms))

    def forget(self, entry: SlotEntry) -> None:
        """Its session is another worker's now."""
        self._book.forget(entry)

    # ---- everybody's ---------------------------------------------------------------------------

    def saw_occupied(self, entry: SlotEntry) -> None:
        self._book.saw_occupied(entry)

    def saw_table(self, entries: Iterable[SlotEntry]) -> None:
        """After an outage: these are all the slots that hold a call."""
        self._book.saw_table(entries)

    def saw_free(self, change: Released, now_ms: int) -> None:
        self._book.saw_free(change.entry, change.owner, now_ms)

    def owner_gone(self, worker: WorkerId, now_ms: int) -> None:
        self._book.owner_gone(worker, now_ms, self._mine)

    def kamailio_back(self, now_ms: int) -> None:
        self._book.kamailio_back(now_ms)

    def probe(self, probe: Probe) -> None:
        self._publish(self._book.probe(probe.realm, probe.user, self._mine))

    def reset(self, reset: Reset, now_ms: int) -> None:
        self._book.reset(reset.realm, reset.user, now_ms)

    def _mine(self, place: str) -> bool:
        """Whether this worker answers for a lamp nobody owns: true in one live worker."""
        workers = list(self._table.workers) or [self._config.worker]
        return max(workers, key=lambda worker: _weight(worker, place)) == self._config.worker

    def _publish(self, updates: Iterable[LampUpdate]) -> None:
        for update in updates:
            for op in wire.lamp(update, node=self._config.node, msg_id=self._new_id()):
                self._emit(op)


def _weight(worker: str, place: str) -> bytes:
    return blake2b(f"{worker} {place}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
