"""Reads the slot log: from a known record on, in order, acknowledging on a count and on a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.broker.port import Delivery, Link
from worker.errors import MalformedMessageError
from worker.parking.records import Record
from worker.replica.codec import decode, mark_of
from worker.replica.counters import Counters, WriteLog
from worker.replica.streams import LOG_PREFETCH, offset_of

ACK_EACH = 50
ACK_WITHIN_S = 0.05
"""An ack held back for long (a half-full batch in a quiet hour) would cost the channel."""

Take = Callable[[int, Record], None]


class LogReader:
    """A position in the log and, while a link is there, a consumer that moves it.

    ``take`` is called with each record after the position. ``wrong`` is called once, with the
    reason, when the first record read proves that this is not the log we know; nothing of it is
    taken then."""

    def __init__(
        self,
        name: str,
        *,
        take: Take,
        wrong: Callable[[str], None],
        counters: Counters,
        write_log: WriteLog,
    ) -> None:
        self._name = name
        self._take = take
        self._wrong = wrong
        self._counters = counters
        self._write_log = write_log
        self.offset = -1
        """Of the record read last, junk included; -1: nothing is known."""
        self.starts_late = False
        """The first record read was not the log's first, and no snapshot led to it."""
        self._body = b""
        self._mark = ""
        """What the record at ``offset`` must be."""
        self._is_proven = False
        """Whether the log was seen to be the one we know; then only its order matters."""
        self._is_wrong = False
        self._link: Link | None = None
        self._consumer = ""
        self._read_at_s = 0.0
        self._unacked = 0
        self._last_tag = 0
        self._ack_timer: asyncio.TimerHandle | None = None

    @property
    def mark(self) -> str:
        """The mark of the record read last."""
        return mark_of(self._body) if self._body else self._mark

    @property
    def quiet_s(self) -> float:
        """How long nothing has been read."""
        return asyncio.get_running_loop().time() - self._read_at_s

    def forget(self) -> None:
        """Know nothing: read from the beginning next time."""
        self.stand_at(-1, "")

    def stand_at(self, offset: int, mark: str) -> None:
        """Read on from this record next time, if the log has it."""
        self.offset, self._mark, self._body = offset, mark, b""
        self.starts_late = False

    async def start(self, link: Link) -> None:
        """Consume from the last known record on: that one must be there, to prove the log."""
        self._mark, self._body = self.mark, b""
        self._is_proven = self.offset < 0
        self._is_wrong = False
        self._link = link
        self._read_at_s = asyncio.get_running_loop().time()
        start: object = "first" if self.offset < 0 else self.offset
        self._consumer = await link.consume(
            self._name,
            self._delivered,
            prefetch=LOG_PREFETCH,
            arguments={"x-stream-offset": start},
        )

    async def stop(self) -> None:
        """Consume no more on this link."""
        link, consumer = self._link, self._consumer
        self.cut()
        if link is not None and consumer:
            await link.cancel(consumer)

    def cut(self) -> None:
        """The link is gone."""
        self._link, self._consumer = None, ""
        self._unacked = 0
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None

    def _delivered(self, delivery: Delivery) -> None:
        """One record. Must not raise: the stream would go on without it."""
        if delivery.consumer != self._consumer:
            return
        self._read_at_s = asyncio.get_running_loop().time()
        self._ack_soon(delivery.tag)
        try:
            offset = offset_of(delivery)
        except MalformedMessageError:
            self._counters.junk += 1
            return
        if not self._is_proven and not self._prove(offset, delivery.body):
            return
        if offset <= self.offset:
            return
        self.starts_late = self.starts_late or (self.offset < 0 < offset)
        self.offset, self._body = offset, delivery.body
        try:
            record = decode(delivery.body)
        except MalformedMessageError as error:
            self._counters.junk += 1
            fields: dict[str, object] = {"offset": offset, "reason": str(error)}
            self._write_log("junk in the slot log", "warning", fields)
            return
        self._take(offset, record)

    def _prove(self, offset: int, body: bytes) -> bool:
        if not self._is_wrong and offset == self.offset and mark_of(body) == self._mark:
            self._is_proven = True
        elif not self._is_wrong:
            self._is_wrong = True
            self._wrong(f"offset {offset} where {self.offset} was")
        return self._is_proven

    def _ack_soon(self, tag: int) -> None:
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
        if self._unacked and self._link is not None:
            self._unacked = 0
            self._link.ack(self._consumer, self._last_tag, multiple=True)
