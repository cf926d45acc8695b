"""The replica: follows the slot log through the broker, appends to it, keeps the worker a member.

It does not connect: `Replica.attach` is given a live link each time, on which the worker's inbox
(`streams.Names.inbox`) has been declared. Everything is decided when a record is read back from the
log; publisher confirms only tell of trouble. docs/replication.md has the whole story.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from worker.broker.port import Delivery, Link
from worker.errors import BrokerError, BrokerLostError, MalformedMessageError
from worker.parking.changes import Change
from worker.parking.model import WorkerId
from worker.parking.records import Alive, Dead, Join, Leave, Record, Seed, Settled
from worker.parking.slots import Ignored, SlotTable
from worker.replica.codec import Snapshot, decode, encode, encode_snapshot, mark_of
from worker.replica.sender import Phase, Sender
from worker.replica.streams import (
    LOG_ARGUMENTS,
    LOG_PREFETCH,
    SNAPSHOT_ARGUMENTS,
    Names,
    ensure,
    newest_snapshot,
    offset_of,
    peek,
)
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

log = logging.getLogger(__name__)

OnChanges = Callable[[Sequence[Change]], None]
OnRecord = Callable[[int, Record, Sequence[Change]], None]
WriteLog = Callable[[str, str, dict[str, object]], None]

ACK_EACH = 50
ACK_WITHIN_S = 0.05
TICK_S = 0.05
QUIET_S = 2.0
"""While catching up: no record for so long means our barrier will not come (wrong log)."""
READY_S = 15.0
"""Joining and settling after that, beyond the settle time."""
REOPEN_S = 0.2
"""After a returned publish (a broker that is starting), before the next try."""
LEAVE_S = 1.0
SEED_SESSIONS = 100
THREAD_FROM_SESSIONS = 200
"""Snapshots of more sessions are encoded beside the event loop."""
GAP_MS = 10_000
"""A record of another worker so young proves that somebody knows the whole truth."""
PROBE_BODY = b'{"probe":true}'


class _WrongLogError(Exception):
    """The log is not the one our state comes from."""


@dataclass(slots=True)
class Counters:
    """What the replica has done; for metrics."""

    applied: int = 0
    junk: int = 0
    """Records that could not be read and were skipped."""
    appended: int = 0
    returned: int = 0
    """Publishes the broker could not route or refused."""
    epochs: int = 0
    rebuilt: int = 0
    """Times the state was given up and read anew."""
    snapshots: int = 0


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
        self._settle_ms = settle_ms
        self._now_ms = now_ms
        self._on_changes = on_changes
        self._on_record = on_record
        self._write_log = write_log
        self._timing = timing or Timing(settle_ms=settle_ms)
        self._vitals = Vitals(worker, self._timing)
        self._sender = Sender(worker, table, self._publish)
        self._link: Link | None = None
        self._consumer = ""
        self._last_offset = -1
        """Of the record read last, junk included; -1: nothing is known."""
        self._last_body = b""
        self._expected_mark = ""
        """What the record at ``_last_offset`` must be; empty: nothing to prove (any more)."""
        self._trusted = False
        """The table has been caught up once since it was empty: worth remembering."""
        self._truncated = False
        """The first record read was not the log's first."""
        self._other_at_ms = 0
        """The newest time another worker wrote into a record."""
        self._known: SlotTable | None = None
        """What we knew of a log that is no more; told to the new one."""
        self._caught_up: asyncio.Future[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._left: asyncio.Future[None] | None = None
        self._leaving = False
        self._unacked = 0
        self._last_tag = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._reopen_timer: asyncio.TimerHandle | None = None
        self._opening_since_ms = 0
        self._read_at_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- for the worker -------------------------------------------------------------------------

    def lease_ok(self, now_ms: int | None = None) -> bool:
        """Whether the worker may act: a member that has just been heard, caught up, not leaving.

        False from the moment the link is lost, and soon enough after a freeze that nobody else can
        have taken over before (see `vitals`)."""
        return (
            self._link is not None
            and not self._link.closed.done()
            and not self._leaving
            and self._sender.phase is Phase.OPEN
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
        if self._leaving or self._link is None or self.worker not in self.table.workers:
            self._leaving = True
            return
        self._leaving = True
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
        now_ms = self._now_ms()
        self._vitals.attached(now_ms, self._beats())
        self._tick()
        await self._until_ready()

    async def _compare_end(self, link: Link) -> None:
        """A log that ends before our last record is a new one: the broker was wiped."""
        if self._last_offset < 0:
            return
        tail = await peek(link, self._names.log, self._last_offset)
        end = max((offset_of(delivery) for delivery in tail), default=-1)
        if end < self._last_offset:
            fields: dict[str, object] = {"end": end, "read": self._last_offset}
            self._write_log("slot log is a new one", "warning", fields)
            self.counters.rebuilt += 1
            self._forget()

    def _refuse_gap(self) -> None:
        """The beginning of the log is gone and there was no snapshot: what we have read is not the
        whole truth. Others who know it take a snapshot soon; with nobody there, it must do."""
        if not self._truncated:
            return
        self._write_log("slot log begins in the middle, without a snapshot", "error", {})
        if self._now_ms() - self._other_at_ms < GAP_MS:
            self._forget()
            raise BrokerLostError("waiting for a snapshot of the slot log")

    async def _catch_up(self, link: Link) -> None:
        """Read up to our own barrier, from our last record, else a snapshot, else the beginning."""
        use_snapshot = True
        while True:
            if self._last_offset < 0 and use_snapshot:
                await self._restore(link)
                use_snapshot = False
            try:
                await self._follow(link)
            except _WrongLogError as error:
                self._write_log("slot log is another one", "warning", {"reason": str(error)})
                self.counters.rebuilt += 1
                await self._stop_reading(link)
                self._forget()
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
        self._last_offset, self._expected_mark = snapshot.at, snapshot.mark

    async def _follow(self, link: Link) -> None:
        """Consume from the last known record on; done when our barrier has been read."""
        resumes = self._last_offset >= 0
        if resumes and not self._expected_mark:
            self._expected_mark = mark_of(self._last_body)
        start: object = self._last_offset if resumes else "first"
        loop = asyncio.get_running_loop()
        self._caught_up = loop.create_future()
        self._read_at_s = loop.time()
        self._consumer = await link.consume(
            self._names.log,
            self._delivered,
            prefetch=LOG_PREFETCH,
            arguments={"x-stream-offset": start},
        )
        self._open_epoch()
        while not self._caught_up.done():
            await asyncio.wait({self._caught_up}, timeout=QUIET_S / 4)
            if not self._caught_up.done() and loop.time() - self._read_at_s > QUIET_S:
                break
        if self._caught_up.done():
            self._caught_up.result()
        elif resumes:
            raise _WrongLogError("silence")
        else:
            raise BrokerLostError("the slot log is silent")

    def _forget(self) -> None:
        """Start from nothing, keeping what we knew for the seed."""
        if self._trusted:
            self._known = SlotTable(loads=orjson.loads)
            self._known.restore(self.table.snapshot())
        self._trusted = self._truncated = False
        self.table.reset()
        self._last_offset, self._last_body, self._expected_mark = -1, b"", ""

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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _lost(self, link: Link) -> None:
        if self._link is link:
            self._shut()

    def _shut(self) -> None:
        self._link = None
        self._consumer = ""
        self._sender.shut()
        self._vitals.detached()
        for timer in (self._ack_timer, self._tick_timer, self._reopen_timer):
            if timer is not None:
                timer.cancel()
        self._ack_timer = self._tick_timer = self._reopen_timer = None
        self._unacked = 0
        for waiting in (self._caught_up, self._ready, self._left):
            if waiting is not None and not waiting.done():
                waiting.set_exception(BrokerLostError("connection lost"))
                waiting.exception()  # whoever waited may have been cancelled

    async def _stop_reading(self, link: Link) -> None:
        consumer, self._consumer = self._consumer, ""
        self._sender.shut()
        self._unacked = 0
        if consumer:
            await link.cancel(consumer)

    def _give_up(self, reason: str) -> None:
        """Only a new connection helps."""
        link = self._link
        if link is None:
            return
        self._write_log("slot log lost", "error", {"reason": reason})
        self._shut()
        self._spawn(link.close())

    # ---- reading --------------------------------------------------------------------------------

    def _delivered(self, delivery: Delivery) -> None:
        """One record. Must not raise: the stream would go on without it."""
        if delivery.consumer != self._consumer:
            return
        self._read_at_s = asyncio.get_running_loop().time()
        self._ack_soon(delivery.tag)
        try:
            offset = offset_of(delivery)
        except MalformedMessageError:
            self.counters.junk += 1
            return
        if self._expected_mark and not self._proves(offset, delivery.body):
            return
        if offset <= self._last_offset:
            return
        self._truncated = self._truncated or (self._last_offset < 0 < offset)
        self._last_offset, self._last_body = offset, delivery.body
        try:
            record = decode(delivery.body)
        except MalformedMessageError as error:
            self.counters.junk += 1
            self._write_log(
                "junk in the slot log", "warning", {"offset": offset, "reason": str(error)}
            )
            return
        self._apply(offset, record)

    def _proves(self, offset: int, body: bytes) -> bool:
        """The first record read must be the last one we know. True: go on with this record."""
        known = offset == self._last_offset and mark_of(body) == self._expected_mark
        self._expected_mark = ""
        self._last_body = body if known else b""
        if not known and self._caught_up is not None and not self._caught_up.done():
            found = f"offset {offset} where {self._last_offset} was"
            self._caught_up.set_exception(_WrongLogError(found))
            self._expected_mark = "never"  # nothing of this log may touch the table
        return known

    def _apply(self, offset: int, record: Record) -> None:
        table = self.table
        changes = table.apply(offset, record)
        ignored = table.ignored
        self.counters.applied += 1
        now_ms = self._now_ms()
        self._vitals.heard(record.author, now_ms, matters=not isinstance(record, Alive))
        wanted = self._trusted
        if record.author != self.worker:
            self._other_at_ms = max(self._other_at_ms, record.at_ms)
        else:
            before = len(self._sender)
            self._own(record, ignored)
            wanted = wanted or len(self._sender) < before
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
                self._open_epoch()
            else:
                self._epoch_opened()
            return
        if not self._sender.seen(record, ignored):
            if not self._leaving:
                self._reopen_soon()
            return
        match record:
            case Alive() if ignored is None:
                self._vitals.beat_read(record.beat)
            case Seed() if not self._sender.has(Seed):
                self._known = None
            case Leave() if self._left is not None and not self._left.done():
                self._left.set_result(None)
            case Join() if self._tick_timer is not None:
                self._tick()
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
            self._trusted = not self._truncated
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
        if not self._leaving and self._sender.phase is Phase.OPEN:
            self._open_epoch()

    def _ack_soon(self, tag: int) -> None:
        """Acks go out on a count and on a timer: an ack held back for long costs the channel."""
        self._unacked += 1
        self._last_tag = tag
        if self._unacked >= ACK_EACH:
            self._ack()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_WITHIN_S, self._ack)

    def _ack(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._unacked and self._link is not None and self._consumer:
            self._unacked = 0
            self._link.ack(self._consumer, self._last_tag, multiple=True)

    # ---- writing --------------------------------------------------------------------------------

    def _open_epoch(self) -> None:
        if self._link is None:
            return
        self.counters.epochs += 1
        now_ms = self._now_ms()
        if self._sender.phase is not Phase.OPENING:
            self._opening_since_ms = now_ms
        self._sender.open(now_ms)

    def _reopen_soon(self) -> None:
        if self._reopen_timer is None and self._link is not None:
            loop = asyncio.get_running_loop()
            self._reopen_timer = loop.call_later(REOPEN_S, self._reopen)

    def _reopen(self) -> None:
        self._reopen_timer = None
        self._open_epoch()

    def _publish(self, record: Record) -> None:
        """Send one stamped record (called by the sender)."""
        link = self._link
        if link is None:
            return
        try:
            body = encode(record)
        except MalformedMessageError as error:
            self._unsendable(record, str(error))
            return
        self.counters.appended += 1
        confirm = link.publish("", self._names.log, body, mandatory=True, persistent=True)
        confirm.add_done_callback(lambda done: self._confirmed(record, done))

    def _confirmed(self, record: Record, confirm: asyncio.Future[bool]) -> None:
        """A confirm proves nothing; a return, a refusal or an error means a hole in our epoch."""
        if confirm.cancelled() or self._link is None:
            return
        error = confirm.exception()
        if isinstance(error, BrokerLostError):
            return  # the link's end is noticed elsewhere
        if error is not None:
            self._unsendable(record, str(error))
        elif not confirm.result() and record.epoch == self._sender.epoch:
            self.counters.returned += 1
            self._reopen_soon()

    def _unsendable(self, record: Record, reason: str) -> None:
        fields: dict[str, object] = {"record": type(record).__name__, "reason": reason}
        self._write_log("record cannot be sent", "error", fields)
        self._sender.drop(record)
        self._reopen_soon()

    # ---- time -----------------------------------------------------------------------------------

    def _beats(self) -> dict[WorkerId, int]:
        return {worker: row.beat for worker, row in self.table.workers.items()}

    def _tick(self) -> None:
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._tick_timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        now_ms = self._now_ms()
        if self._sender.phase is not Phase.OPEN:
            if now_ms - self._opening_since_ms > self._timing.opening_ms:
                self._give_up("our barrier is not taken")
            return
        if self._leaving:
            return
        for action in self._vitals.due(now_ms, self._beats(), settled=self.table.settled):
            self._do(action, now_ms)

    def _do(self, action: Action, now_ms: int) -> None:
        match action:
            case Beat():
                self._vitals.beat_sent(action.number, now_ms)
                self._write(Alive(author=self.worker, at_ms=now_ms, beat=action.number))
            case Settle():
                self._write(Settled(author=self.worker, at_ms=now_ms))
            case Probe():
                self._probe(action)
            case Bury():
                self._bury(action, now_ms)
            case TakeSnapshot():
                self._vitals.snapshot_taken(now_ms)
                self._spawn(self._take_snapshot())
            case Deaf():
                self._give_up("our own beats do not come back")

    def _write(self, record: Record) -> None:
        self._sender.append(record, lasting=False)

    def _probe(self, probe: Probe) -> None:
        """A tiny message to the other's inbox; returned when the inbox is gone."""
        if self._link is None:
            return
        answer = self._link.publish("", self._names.inbox(probe.worker), PROBE_BODY, mandatory=True)
        answer.add_done_callback(lambda done: self._probed(probe, done))

    def _probed(self, probe: Probe, answer: asyncio.Future[bool]) -> None:
        if answer.cancelled() or answer.exception() is not None or self._link is None:
            return
        member = self.table.workers.get(probe.worker)
        if member is None or member.beat != probe.beat:
            return  # it lives, or is gone already
        for action in self._vitals.probed(probe.worker, probe.beat, there=answer.result()):
            self._do(action, self._now_ms())

    def _bury(self, bury: Bury, now_ms: int) -> None:
        self._write_log("worker is dead", "warning", {"worker": bury.victim})
        self._write(Dead(author=self.worker, at_ms=now_ms, victim=bury.victim, beat=bury.beat))

    async def _take_snapshot(self) -> None:
        link = self._link
        if link is None or self._last_offset < 0:
            return
        snapshot = Snapshot(
            at=self._last_offset, mark=mark_of(self._last_body), state=self.table.snapshot()
        )
        if self.table.session_count >= THREAD_FROM_SESSIONS:
            body = await asyncio.to_thread(encode_snapshot, snapshot)
        else:
            body = encode_snapshot(snapshot)
        stored = await link.publish(
            "", self._names.snapshots, body, mandatory=True, persistent=True
        )
        if stored:
            self.counters.snapshots += 1

    def _spawn(self, work: object) -> None:
        async def guarded() -> None:
            try:
                await work  # type: ignore[misc]
            except BrokerError as error:
                log.debug("%s", error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
