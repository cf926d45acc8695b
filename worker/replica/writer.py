"""Publishes what the sender has to send, and opens a new epoch when a publish went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from worker.broker.port import Link
from worker.errors import BrokerLostError, MalformedMessageError
from worker.parking.model import WorkerId
from worker.parking.records import Record
from worker.parking.slots import SlotTable
from worker.replica.codec import encode
from worker.replica.counters import Counters, WriteLog
from worker.replica.sender import Phase, Sender

REOPEN_S = 0.2
"""After a returned publish (a broker that is starting), before the next try."""


class LogWriter:
    """The sender with a link. Confirms prove nothing; they only tell of holes."""

    def __init__(
        self,
        worker: WorkerId,
        table: SlotTable,
        name: str,
        *,
        now_ms: Callable[[], int],
        counters: Counters,
        write_log: WriteLog,
    ) -> None:
        self.sender = Sender(worker, table, self._publish)
        self._name = name
        self._now_ms = now_ms
        self._counters = counters
        self._write_log = write_log
        self._link: Link | None = None
        self._reopen_timer: asyncio.TimerHandle | None = None
        self._opening_since_ms = 0

    @property
    def is_open(self) -> bool:
        return self.sender.phase is Phase.OPEN

    @property
    def opening_ms(self) -> int:
        """How long our barriers have been waiting; 0 while an epoch is open."""
        return 0 if self.is_open else self._now_ms() - self._opening_since_ms

    def attach(self, link: Link) -> None:
        self._link = link
        self.open_epoch()

    def cut(self) -> None:
        """The link is gone, or not to be used for now."""
        self._link = None
        self.sender.shut()
        if self._reopen_timer is not None:
            self._reopen_timer.cancel()
            self._reopen_timer = None

    def open_epoch(self) -> None:
        """Send a barrier; what is missing follows when it is read back."""
        if self._link is None:
            return
        self._counters.epochs += 1
        now_ms = self._now_ms()
        if self.sender.phase is not Phase.OPENING:
            self._opening_since_ms = now_ms
        self.sender.open(now_ms)

    def reopen_soon(self) -> None:
        """There is a hole in our epoch."""
        if self._reopen_timer is None and self._link is not None:
            loop = asyncio.get_running_loop()
            self._reopen_timer = loop.call_later(REOPEN_S, self._reopen)

    def _reopen(self) -> None:
        self._reopen_timer = None
        self.open_epoch()

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
        self._counters.appended += 1
        confirm = link.publish("", self._name, body, mandatory=True, persistent=True)
        confirm.add_done_callback(lambda done: self._confirmed(record, done))

    def _confirmed(self, record: Record, confirm: asyncio.Future[bool]) -> None:
        if confirm.cancelled() or self._link is None:
            return
        error = confirm.exception()
        if isinstance(error, BrokerLostError):
            return  # the link's end is noticed elsewhere
        if error is not None:
            self._unsendable(record, str(error))
        elif not confirm.result() and record.epoch == self.sender.epoch:
            self._counters.returned += 1
            self.reopen_soon()

    def _unsendable(self, record: Record, reason: str) -> None:
        fields: dict[str, object] = {"record": type(record).__name__, "reason": reason}
        self._write_log("record cannot be sent", "error", fields)
        self.sender.drop(record)
        self.reopen_soon()
