"""``kzpark record``: taps a live broker into a trace without disturbing it.

One queue of its own, exclusive and bounded, without acknowledgements; Kazoo's exchanges are
declared with Kazoo's own flags. The slot log is a stream: reading it takes nothing from anybody.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Final, Protocol

import orjson

from worker import __version__
from worker.broker.port import Delivery, Link
from worker.errors import BrokerError, BrokerLostError, MalformedMessageError, QueueGoneError
from worker.kapi.exchanges import EXCHANGE_TYPES
from worker.kapi.nodes import SETTINGS
from worker.parking.records import (
    Alive,
    Checkpoint,
    Claim,
    Close,
    Join,
    Record,
    Release,
    Retrieve,
    Swap,
    Unretrieve,
)
from worker.parking.slots import Ignored, SlotTable
from worker.replica.codec import decode
from worker.replica.streams import LOG_PREFETCH, Names, newest_snapshot, offset_of
from worker.trace.lines import (
    Ended,
    Head,
    Line,
    LogRecord,
    TableLine,
    Tapped,
    head_bytes,
    line_bytes,
    message_of,
)
from worker.trace.survey import calls_of
from worker.trace.tap import CALLMGR, Binding, Filters, Tap

QUEUE_MAX: Final = 50_000
QUEUE_MAX_BYTES: Final = 64 * 2**20
FLUSH_S: Final = 0.2
SILENT_S: Final = 0.7
"""No record of the log for so long, or one younger than this: it has been read up."""
CATCH_UP_S: Final = 20.0
LOOK_AGAIN_S: Final = 0.5
LOOK_SELDOM_S: Final = 5.0
SOON_S: Final = 60.0
"""How often a log that is not there is looked for: every look is an error in the broker's log."""
ACK_EACH: Final = 50

Edit = Callable[[Line], Line | None]
"""Changes a line before it is written (redaction); None: leave it out."""


class Sink(Protocol):
    """Where bytes go: a file or stdout."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


@dataclass(slots=True)
class Recording:
    """Writes lines, counts them, and says when enough were written."""

    out: Sink | IO[bytes]
    edit: Edit | None = None
    most: int | None = None
    full: asyncio.Event = field(default_factory=asyncio.Event)
    written: int = 0
    messages: int = 0
    error: OSError | None = None
    """Why nothing can be written any more: a full disk, a reader that is gone."""

    def head(self, head: Head) -> None:
        self._put(head_bytes(head))
        self.flush()

    def _put(self, data: bytes) -> None:
        try:
            self.out.write(data)
        except OSError as error:
            self.error = error
            self.full.set()

    def flush(self) -> None:
        """Hand over what was written."""
        try:
            self.out.flush()
        except OSError as error:
            self.error = error
            self.full.set()

    def write(self, line: Line) -> None:
        """One line, unless it is left out or there are enough."""
        if self.full.is_set():
            return
        edited = line if self.edit is None else self.edit(line)
        if edited is None:
            return
        self.written += 1
        self._put(line_bytes(edited, self.written))
        if not isinstance(line, Tapped | TableLine | Ended):
            self.messages += 1
            if self.most is not None and self.messages >= self.most:
                self.full.set()

    def end(self, reason: str) -> None:
        """The last line. Raises OSError when the recording could not be written."""
        if self.error is None:
            self.full.clear()
            self.most = None
            self.write(Ended(at_ms=now_ms(), reason=reason))
            self.flush()
        if self.error is not None:
            raise self.error


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Recorder:
    """One recording on one link."""

    def __init__(
        self,
        link: Link,
        recording: Recording,
        filters: Filters,
        *,
        prefix: str,
        with_log: bool = True,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._link = link
        self._with_log = with_log
        self._on_ready = on_ready
        self.heard_settings = False
        """Whether a worker has told what its decisions depend on."""
        self._recording = recording
        self._tap = Tap(filters=filters)
        self._names = Names.of(prefix)
        self._queue = f"{prefix}.recorder.{secrets.token_hex(6)}"
        self._table = SlotTable(loads=orjson.loads)
        self._log_consumer = ""
        self._log_read_at_s = 0.0
        self._log_newest_ms = 0
        self._log_lines = False
        self._unacked = 0
        self._learned = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> str:
        """Record until ``stop``, until there is enough, or until the link is lost. Says why."""
        link = self._link
        for declared, kind in EXCHANGE_TYPES.items():
            await link.declare_exchange(declared.value, kind)
        if self._tap.filters.routes:
            await link.declare_exchange(CALLMGR, "topic")
        await link.declare_queue(
            self._queue,
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": QUEUE_MAX, "x-max-length-bytes": QUEUE_MAX_BYTES},
        )
        has_log = not self._with_log or await self._read_log()
        for exchange, key in self._tap.bindings():
            await link.bind(self._queue, exchange, key)
        await link.consume(self._queue, self._delivered, no_ack=True)
        self._on_ready()
        ends = [asyncio.ensure_future(one.wait()) for one in (stop, self._recording.full)]
        works = [asyncio.ensure_future(one) for one in (self._bind_learned(), self._flush())]
        if not has_log:
            works.append(asyncio.ensure_future(self._await_log()))
        waiting: set[asyncio.Future[Any]] = {*ends, works[0], link.closed}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if ends[0].done():
                return "stopped"
            if ends[1].done():
                return "enough"
            if works[0].done():
                works[0].result()
            raise BrokerLostError(str(link.closed.exception() or "the link was closed"))
        finally:
            for task in (*ends, *works):
                task.cancel()
            await asyncio.gather(*ends, *works, return_exceptions=True)

    # ---- messages -------------------------------------------------------------------------------

    def _delivered(self, delivery: Delivery) -> None:
        message = message_of(delivery, now_ms())
        self.heard_settings = self.heard_settings or SETTINGS in (message.payload or {})
        if self._tap.keeps(message):
            self._recording.write(message)
        self._learned.set()

    async def _bind_learned(self) -> None:
        """Tap the direct keys as they become known."""
        while True:
            await self._learned.wait()
            self._learned.clear()
            for binding in self._tap.wanted():
                await self._bind(binding)

    async def _bind(self, binding: Binding) -> None:
        exchange, key = binding
        await self._link.bind(self._queue, exchange, key)
        self._recording.write(Tapped(at_ms=now_ms(), exchange=exchange, key=key))

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._recording.flush()

    # ---- the slot log ---------------------------------------------------------------------------

    async def _read_log(self) -> bool:
        """Read the log up and write the slot table as it is; False when there is no log yet."""
        try:
            snapshot = await newest_snapshot(self._link, self._names.snapshots)
        except QueueGoneError:
            snapshot = None
        if snapshot is not None:
            try:
                self._table.restore(snapshot.state)
            except MalformedMessageError:
                self._table.reset()
        start: object = self._table.offset + 1 if self._table.offset >= 0 else "first"
        if not await self._follow_log(start):
            return False
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CATCH_UP_S
        self._log_read_at_s = loop.time()
        while loop.time() < until_s:
            await asyncio.sleep(SILENT_S / 10)
            silent = loop.time() - self._log_read_at_s > SILENT_S
            if silent or now_ms() - self._log_newest_ms < SILENT_S * 1000:
                break
        state = self._table.snapshot()
        sessions = state.get("sessions")
        for row in sessions if isinstance(sessions, list) else []:
            self._tap.follow(calls_of(row))
        for worker in self._table.workers:
            self._tap.learn("targeted", self._names.inbox(worker))
        self._recording.write(TableLine(at_ms=now_ms(), state=self._only_wanted(state)))
        self._log_lines = True
        return True

    async def _follow_log(self, start: object) -> bool:
        try:
            self._log_consumer = await self._link.consume(
                self._names.log,
                self._log_delivered,
                prefetch=LOG_PREFETCH,
                arguments={"x-stream-offset": start},
            )
        except QueueGoneError:
            return False
        return True

    async def _await_log(self) -> None:
        """The first worker has not started yet: all of its log will be news."""
        loop = asyncio.get_running_loop()
        soon_until_s = loop.time() + SOON_S
        while True:
            await asyncio.sleep(LOOK_AGAIN_S if loop.time() < soon_until_s else LOOK_SELDOM_S)
            try:
                if await self._follow_log("first"):
                    self._log_lines = True
                    return
            except BrokerError:
                return

    def _log_delivered(self, delivery: Delivery) -> None:
        self._log_read_at_s = asyncio.get_running_loop().time()
        self._unacked += 1
        if self._unacked >= ACK_EACH:
            self._link.ack(delivery.consumer, delivery.tag, multiple=True)
            self._unacked = 0
        try:
            offset, record = offset_of(delivery), decode(delivery.body)
        except MalformedMessageError:
            return
        self._log_newest_ms = max(self._log_newest_ms, record.at_ms)
        wanted = self._tap.wants_account(self._account_of(record))
        self._table.apply(offset, record)
        if isinstance(record, Join):
            # Before it asks anything: an answer that comes before the binding would not be seen.
            self._tap.learn("targeted", self._names.inbox(record.author))
            self._learned.set()
        if self._log_lines and wanted and self._is_news(record):
            self._recording.write(LogRecord(at_ms=now_ms(), offset=offset, record=record))

    def _account_of(self, record: Record) -> str:
        """The account a record is about; empty for those about workers and the log."""
        match record:
            case Claim():
                return record.entry.account
            case Retrieve() | Unretrieve() | Release() | Swap():
                return record.account
            case Checkpoint() | Close():
                row = self._table.session(record.session)
                return "" if row is None else row.account
            case _:
                return ""

    def _is_news(self, record: Record) -> bool:
        """Whether it had (or may have had) an effect; heartbeats are not worth a line."""
        useless = {Ignored.SEEN, Ignored.STALE, Ignored.GONE, Ignored.FENCED, Ignored.VOID}
        return self._table.ignored not in useless and not isinstance(record, Alive)

    def _only_wanted(self, state: dict[str, object]) -> dict[str, object]:
        """Without the accounts nobody asked for."""
        sessions = state.get("sessions")
        rows = sessions if isinstance(sessions, list) else []
        wants = self._tap.wants_account
        return {**state, "sessions": [row for row in rows if wants(str(row.get("account")))]}


def head_of(filters: Filters, settings: dict[str, object], *, redacted: bool) -> Head:
    """The head of a recording that begins now."""
    return Head(
        started_at_ms=now_ms(),
        kzpark=__version__,
        redacted=redacted,
        filters=filters.plain(),
        settings=settings,
    )
