"""Keeps the worker a member and the log tidy: carries out what `vitals` finds due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.broker.port import Link
from worker.errors import BrokerError
from worker.parking.model import WorkerId
from worker.parking.records import Alive, Dead, Record, Settled
from worker.parking.slots import SlotTable
from worker.replica.codec import Snapshot, encode_snapshot
from worker.replica.counters import Counters, WriteLog
from worker.replica.reader import LogReader
from worker.replica.streams import Names
from worker.replica.vitals import (
    Action,
    Beat,
    Bury,
    Deaf,
    Probe,
    Settle,
    TakeSnapshot,
    Timing,
    Vitals,
)
from worker.replica.writer import LogWriter

TICK_S = 0.05
THREAD_FROM_SESSIONS = 200
"""Snapshots of more sessions are encoded beside the event loop."""
PROBE_BODY = b'{"probe":true}'


class Keeper:
    """Beats, probes, burials, snapshots. ``give_up`` is called when only a new link helps."""

    def __init__(
        self,
        worker: WorkerId,
        table: SlotTable,
        names: Names,
        *,
        timing: Timing,
        now_ms: Callable[[], int],
        reader: LogReader,
        writer: LogWriter,
        give_up: Callable[[str], None],
        counters: Counters,
        write_log: WriteLog,
    ) -> None:
        self.vitals = Vitals(worker, timing)
        self._worker = worker
        self._table = table
        self._names = names
        self._timing = timing
        self._now_ms = now_ms
        self._reader = reader
        self._writer = writer
        self._give_up = give_up
        self._counters = counters
        self._write_log = write_log
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._snapshot: asyncio.Task[None] | None = None
        self._resting = False

    def start(self, link: Link) -> None:
        """Caught up on this link: take part."""
        self._link = link
        self.vitals.attached(self._now_ms(), self._beats())
        self.tick()

    def cut(self) -> None:
        """The link is gone."""
        self._link = None
        self.vitals.detached()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def rest(self) -> None:
        """Leaving: no more beats, nobody is buried."""
        self._resting = True

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._snapshot is not None:
            self._snapshot.cancel()
            await asyncio.gather(self._snapshot, return_exceptions=True)

    def tick(self) -> None:
        """Do what is due; comes again by itself."""
        if self._link is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self.tick)
        if not self._writer.is_open:
            if self._writer.opening_ms > self._timing.opening_ms:
                self._give_up("our barrier is not taken")
            return
        if self._resting:
            return
        now_ms = self._now_ms()
        for action in self.vitals.due(now_ms, self._beats(), settled=self._table.settled):
            self._do(action, now_ms)

    def _beats(self) -> dict[WorkerId, int]:
        return {worker: row.beat for worker, row in self._table.workers.items()}

    def _do(self, action: Action, now_ms: int) -> None:
        match action:
            case Beat():
                self.vitals.beat_sent(action.number, now_ms)
                self._write(Alive(author=self._worker, at_ms=now_ms, beat=action.number))
            case Settle():
                self._write(Settled(author=self._worker, at_ms=now_ms))
            case Probe():
                self._probe(action)
            case Bury():
                self._bury(action, now_ms)
            case TakeSnapshot():
                self.vitals.snapshot_taken(now_ms)
                self._take_snapshot()
            case Deaf():
                self._give_up("our own beats do not come back")

    def _write(self, record: Record) -> None:
        self._writer.sender.append(record, lasting=False)

    def _bury(self, bury: Bury, now_ms: int) -> None:
        self._write_log("worker is dead", "warning", {"worker": bury.victim})
        self._write(Dead(author=self._worker, at_ms=now_ms, victim=bury.victim, beat=bury.beat))

    def _probe(self, probe: Probe) -> None:
        """A tiny message to the other's inbox; returned when the inbox is gone."""
        if self._link is None:
            return
        answer = self._link.publish("", self._names.inbox(probe.worker), PROBE_BODY, mandatory=True)
        answer.add_done_callback(lambda done: self._probed(probe, done))

    def _probed(self, probe: Probe, answer: asyncio.Future[bool]) -> None:
        if answer.cancelled() or answer.exception() is not None or self._link is None:
            return
        member = self._table.workers.get(probe.worker)
        if member is None or member.beat != probe.beat:
            return  # it lives, or is gone already
        for action in self.vitals.probed(probe.worker, probe.beat, there=answer.result()):
            self._do(action, self._now_ms())

    def _take_snapshot(self) -> None:
        if self._snapshot is None or self._snapshot.done():
            self._snapshot = asyncio.get_running_loop().create_task(self._store_snapshot())

    async def _store_snapshot(self) -> None:
        link = self._link
        if link is None or self._reader.offset < 0:
            return
        snapshot = Snapshot(
            at=self._reader.offset, mark=self._reader.mark, state=self._table.snapshot()
        )
        try:
            if self._table.session_count >= THREAD_FROM_SESSIONS:
                body = await asyncio.to_thread(encode_snapshot, snapshot)
            else:
                body = encode_snapshot(snapshot)
            stored = await link.publish(
                "", self._names.snapshots, body, mandatory=True, persistent=True
            )
        except BrokerError as error:
            self._write_log("snapshot not stored", "warning", {"reason": str(error)})
            return
        if stored:
            self._counters.snapshots += 1
