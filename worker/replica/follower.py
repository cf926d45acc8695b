"""The replica: follows the slot log through the broker, appends to it, keeps the worker a member.

It does not connect: `Replica.attach` is given a live link each time, on which the worker's inbox
(`streams.Names.inbox`) has been declared. Everything is decided when a record is read back from the
log; publisher confirms only tell of trouble. docs/replication.md has the whole story.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import orjson

from worker.broker.port import Link
from worker.errors import BrokerLostError, MalformedMessageError
from worker.parking.changes import Change
from worker.parking.model import WorkerId
from worker.parking.records import Alive, Dead, Join, Leave, Record, Seed
from worker.parking.slots import Ignored, SlotTable
from worker.replica.counters import Counters, WriteLog
from worker.replica.keeper import Keeper
from worker.replica.reader import LogReader
from worker.replica.streams import (
    LOG_ARGUMENTS,
    SNAPSHOT_ARGUMENTS,
    Names,
    ensure,
    newest_snapshot,
    offset_of,
    peek,
)
from worker.replica.vitals import Timing
from worker.replica.writer import LogWriter

log = logging.getLogger(__name__)

OnChanges = Callable[[Sequence[Change]], None]
OnRecord = Callable[[int, Record, Sequence[Change]], None]

QUIET_S = 2.0
"""While catching up: no record for so long means our barrier will not come (wrong log)."""
READY_S = 15.0
"""For joining and the first beat after that, beyond the settle time."""
LEAVE_S = 1.0
SEED_SESSIONS = 100
GAP_MS = 10_000
"""A record of another worker so young proves that somebody knows the whole truth."""


class _WrongLogError(Exception):
    """The log is not the one our state comes from."""


def _no_log(event: str, level: str, fields: dict[str, object]) -> None:
    log.debug("%s %s %s", event, level, fields)


class Replica:
    """One worker's replica of the slot table. Not thread-safe.

    ``now_ms``: a clock that never jumps and counts while the process is frozen; it is written into
    records as well. ``on_changes`` is called in log order for every record that changed something,
    also for those missed during an outage, but not while the table is read anew. ``on_record``
    (tests) sees every record after it was applied, with what it changed.
    """

    def __init__(
        self,
        *,
        table: SlotTable,
        worker: WorkerId,
        on_changes: OnChanges,
        now_ms: Callable[[], int],
        prefix: str = "kzpark",
        name: str = "",
        settle_ms: int = 1_000,
        write_log: WriteLog = _no_log,
        timing: Timing | None = None,
        on_record: OnRecord | None = None,
    ) -> None:
        self.worker = worker
        self.table = table
        self.counters = Counters()
        self._names = Names.of(prefix)
        self._label = name
        self._now_ms = now_ms
        self._on_changes = on_changes
        self._on_record = on_record
        self._write_log = write_log
        timing = timing or Timing(settle_ms=settle_ms)
        self._settle_ms = timing.settle_ms
        self._reader = LogReader(
            self._names.log,
            take=self._apply,
            wrong=self._is_wrong_log,
            counters=self.counters,
            write_log=write_log,
        )
        self._writer = LogWriter(
            worker,
            table,
            self._names.log,
            now_ms=now_ms,
            counters=self.counters,
            write_log=write_log,
        )
        self._sender = self._writer.sender
        self._keeper = Keeper(
            worker,
            table,
            self._names,
            timing=timing,
            now_ms=now_ms,
            reader=self._reader,
            writer=self._writer,
            give_up=self._give_up,
            counters=self.counters,
            write_log=write_log,
        )
        self._vitals = self._keeper.vitals
        self._link: Link | None = None
        self._trusted = False
        """The table has been caught up once since it was empty: worth remembering."""
        self._other_at_ms = 0
        """When another worker last said that it is alive; one that cannot catch up does not."""
        self._known: SlotTable | None = None
        """What we knew of a log that is no more; told to the new one."""
        self._caught_up: asyncio.Future[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._left: asyncio.Future[None] | None = None
        self._leaving = False
        self._closing: asyncio.Task[None] | None = None

    # ---- for the worker -------------------------------------------------------------------------

    def lease_ok(self, now_ms: int | None = None) -> bool:
        """Whether the worker may act: a member that has just been heard, caught up, not leaving.

        False from the moment the link is lost, and soon enough after a freeze that nobody else can
        have taken over before (see `vitals`)."""
        return (
            self._link is not None
            and not self._link.closed.done()
            and not self._leaving
            and self._writer.is_open
            and self.worker in self.table.workers
            and self._vitals.lease_ok(self._now_ms() if now_ms is None else now_ms)
        )

    def append(self, record: Record) -> None:
        """Append in call order. While there is no link, or the broker refuses, it is kept and sent
        again; dropped when its session turns out to be another worker's by then."""
        self._sender.append(record)

    @property
    def pending(self) -> int:
        """Own records not yet read back."""
        return len(self._sender)

    async def leave(self) -> None:
        """Hand all sessions over to the other workers; at most LEAVE_S. Nothing is done after."""
        member = self._link is not None and self.worker in self.table.workers
        if self._leaving or not member:
            self._leaving = True
            return
        self._leaving = True
        self._keeper.rest()
        self._left = asyncio.get_running_loop().create_future()
        self._sender.append(Leave(author=self.worker, at_ms=self._now_ms()), lasting=False)
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._left
        except (TimeoutError, BrokerLostError):
            self._write_log("handing over not seen in the log", "warning", {})

    # ---- attaching ------------------------------------------------------------------------------

    async def attach(self, link: Link) -> None:
        """Catch up with the log, join, settle. Returns when the worker may act.

        Raises BrokerError (of any kind): then `detach` and try on another link."""
        self._link = link
        link.closed.add_done_callback(lambda _closed: self._lost(link))
        await ensure(link, self._names.log, LOG_ARGUMENTS)
        await ensure(link, self._names.snapshots, SNAPSHOT_ARGUMENTS)
        await self._compare_end(link)
        await self._catch_up(link)
        self._refuse_gap()
        self._keeper.start(link)
        await self._until_ready()

    async def _compare_end(self, link: Link) -> None:
        """A log that ends before our last record is a new one: the broker was wiped."""
        if self._reader.offset < 0:
            return
        tail = await peek(link, self._names.log, self._reader.offset)
        end = max((offset_of(delivery) for delivery in tail), default=-1)
        if end < self._reader.offset:
            self._forget(f"it ends at {end}, we had read {self._reader.offset}")

    async def _catch_up(self, link: Link) -> None:
        """Read up to our own barrier, from our last record, else a snapshot, else the beginning."""
        use_snapshot = True
        while True:
            if self._reader.offset < 0 and use_snapshot:
                await self._restore(link)
                use_snapshot = False
            try:
                await self._follow(link)
            except _WrongLogError as error:
                self._writer.cut()
                await self._reader.stop()
                self._forget(str(error))
            else:
                return

    async def _restore(self, link: Link) -> None:
        snapshot = await newest_snapshot(link, self._names.snapshots)
        if snapshot is None:
            return
        try:
            self.table.restore(snapshot.state)
        except MalformedMessageError as error:
            self._write_log("snapshot unusable", "error", {"reason": str(error)})
            return
        self._reader.stand_at(snapshot.at, snapshot.mark)

    async def _follow(self, link: Link) -> None:
        """Consume from where we are; done when our barrier has been read."""
        resumes = self._reader.offset >= 0
        self._caught_up = asyncio.get_running_loop().create_future()
        await self._reader.start(link)
        self._writer.attach(link)
        while not self._caught_up.done() and self._reader.quiet_s < QUIET_S:
            await asyncio.wait({self._caught_up}, timeout=QUIET_S / 4)
        if self._caught_up.done():
            self._caught_up.result()
        elif resumes:
            raise _WrongLogError("silence")
        else:
            raise BrokerLostError("the slot log is silent")

    def _is_wrong_log(self, reason: str) -> None:
        if self._caught_up is not None and not self._caught_up.done():
            self._caught_up.set_exception(_WrongLogError(reason))

    def _forget(self, reason: str) -> None:
        """Start from nothing, keeping what we knew for the seed."""
        self._write_log("slot log is another one", "warning", {"reason": reason})
        self.counters.rebuilt += 1
        if self._trusted:
            self._known = SlotTable(loads=orjson.loads)
            self._known.restore(self.table.snapshot())
        self._trusted = False
        self.table.reset()
        self._reader.forget()

    def _refuse_gap(self) -> None:
        """The beginning of the log is gone and there was no snapshot: what we have read is not the
        whole truth. Others who know it take a snapshot soon; with nobody there, it must do."""
        if not self._reader.starts_late:
            self._trusted = True
            return
        self._write_log("slot log begins in the middle, without a snapshot", "error", {})
        if self._now_ms() - self._other_at_ms < GAP_MS:
            self._writer.cut()
            self._reader.cut()  # not a record more into the table that is forgotten here
            self._forget("it begins in the middle")
            raise BrokerLostError("waiting for a snapshot of the slot log")

    async def _until_ready(self) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        self._check_ready()
        try:
            async with asyncio.timeout(READY_S + self._settle_ms / 1000):
                await self._ready
        except TimeoutError:
            raise BrokerLostError("the slot log does not take our records") from None

    def _check_ready(self) -> None:
        ready = self._ready
        if ready is not None and not ready.done() and self.table.settled and self.lease_ok():
            ready.set_result(None)

    # ---- losing the link ------------------------------------------------------------------------

    async def detach(self) -> None:
        """Stop using the link; what is known is kept for the next one."""
        self._shut()
        await self._keeper.close()
        if self._closing is not None:
            await asyncio.gather(self._closing, return_exceptions=True)

    def _lost(self, link: Link) -> None:
        if self._link is link:
            self._shut()

    def _shut(self) -> None:
        self._link = None
        self._reader.cut()
        self._writer.cut()
        self._keeper.cut()
        for waiting in (self._caught_up, self._ready, self._left):
            if waiting is not None and not waiting.done():
                waiting.set_exception(BrokerLostError("connection lost"))
                waiting.exception()  # whoever waited may have been cancelled

    def _give_up(self, reason: str) -> None:
        """Only a new connection helps."""
        link = self._link
        if link is not None:
            self._write_log("slot log lost", "error", {"reason": reason})
            self._shut()
            self._closing = asyncio.get_running_loop().create_task(link.close())

    # ---- applying -------------------------------------------------------------------------------

    def _apply(self, offset: int, record: Record) -> None:
        """The next record of the log."""
        changes = self.table.apply(offset, record)
        ignored = self.table.ignored
        self.counters.applied += 1
        self._vitals.heard(record.author, self._now_ms(), matters=not isinstance(record, Alive))
        wanted = self._trusted
        if record.author != self.worker:
            if isinstance(record, Alive):
                self._other_at_ms = max(self._other_at_ms, record.at_ms)
        else:
            waiting = len(self._sender)
            self._own(record, ignored)
            wanted = wanted or len(self._sender) < waiting  # somebody waits for this answer
        if changes and wanted:
            self._tell(changes)
        if self._on_record is not None:
            self._on_record(offset, record, changes)
        if isinstance(record, Dead) and record.victim == self.worker and ignored is None:
            self._buried()
        self._check_ready()

    def _tell(self, changes: Sequence[Change]) -> None:
        try:
            self._on_changes(changes)
        except Exception:
            log.exception("a change could not be handled")

    def _own(self, record: Record, ignored: Ignored | None) -> None:
        """One of our records came back."""
        if self._sender.is_our_barrier(record):
            if ignored is Ignored.STALE:  # somebody used a higher epoch in our name
                self._writer.open_epoch()
            else:
                self._epoch_opened()
            return
        if not self._sender.seen(record, ignored):
            if not self._leaving:
                self._writer.reopen_soon()
            return
        match record:
            case Alive() if ignored is None:
                self._vitals.beat_read(record.beat)
            case Seed() if not self._sender.has(Seed):
                self._known = None
            case Leave() if self._left is not None and not self._left.done():
                self._left.set_result(None)
            case Join():
                self._keeper.tick()
            case _:
                pass

    def _epoch_opened(self) -> None:
        """Our barrier was read: everything before it is known. Say who we are and what we knew."""
        first: list[Record] = []
        at_ms = self._now_ms()
        if self.worker not in self.table.workers and not self._leaving:
            first.append(Join(author=self.worker, at_ms=at_ms, name=self._label))
        first += self._seeds(at_ms)
        self._sender.barrier_seen(first)
        if self._caught_up is not None and not self._caught_up.done():
            self._trusted = not self._reader.starts_late
            self._caught_up.set_result(None)

    def _seeds(self, at_ms: int) -> list[Record]:
        """What we knew of the old log and this one does not know."""
        known = self._known
        if known is None or not (known.session_count or known.closed_count):
            return []
        if known.birth and known.birth == self.table.birth:
            self._known = None  # the same log after all: it knows better
            return []
        parts = known.seed_for(self.table, SEED_SESSIONS)
        self._write_log("seeding the slot log", "warning", {"sessions": known.session_count})
        return [
            Seed(author=self.worker, at_ms=at_ms, state=orjson.dumps(part).decode())
            for part in parts
        ]

    def _buried(self) -> None:
        """The others hold us for dead: our calls are theirs now. Start over."""
        self._write_log("declared dead by another worker", "warning", {})
        self._vitals.replaced()
        if not self._leaving and self._writer.is_open:
            self._writer.open_epoch()
