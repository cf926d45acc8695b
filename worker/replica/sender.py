"""The records we append: in order, each taking effect once, whatever becomes of connections.

Pure but for ``send``, which publishes one stamped record. An *epoch* is one try to have our records
taken in order: it is opened by a barrier that carries number 1, and the table takes only the next
number of the newest epoch. Once our barrier has been read back nothing older of ours can take
effect any more, so what was not seen until then is certain to be missing and is sent again. A
returned or refused publish leaves a hole, after which the table takes nothing: a new epoch is
opened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum

from worker.parking.model import SessionId, WorkerId
from worker.parking.records import Barrier, Record
from worker.parking.slots import Ignored, SlotTable, subject_of

Send = Callable[[Record], None]


class Phase(Enum):
    SHUT = "shut"
    """No connection."""
    OPENING = "opening"
    """Our barrier is under way."""
    OPEN = "open"


@dataclass(slots=True)
class _Item:
    """A record not yet seen in the log. ``lasting``: sent again in the next epoch."""

    record: Record
    lasting: bool
    sent: bool = False


class Sender:
    """See the module. Stamps, sends and remembers records until they are seen in the log."""

    def __init__(self, worker: WorkerId, table: SlotTable, send: Send) -> None:
        self._worker = worker
        self._table = table
        self._send = send
        self._pending: deque[_Item] = deque()
        self._seq = 0
        self.epoch = 0
        self.phase = Phase.SHUT
        self.dropped = 0
        """Records not sent again because their session is no longer ours."""

    def __len__(self) -> int:
        """Records not yet seen in the log."""
        return len(self._pending)

    def append(self, record: Record, *, lasting: bool = True) -> None:
        """Send it after all others, now or when an epoch is open."""
        self._pending.append(_Item(record=record, lasting=lasting))
        if self.phase is Phase.OPEN:
            self._send_next(self._pending[-1])

    def shut(self) -> None:
        """The connection is gone."""
        self.phase = Phase.SHUT

    def open(self, at_ms: int) -> None:
        """Begin a new epoch: send its barrier."""
        self.epoch = max(self._table.epoch(self._worker), self.epoch) + 1
        self._seq = 1
        self.phase = Phase.OPENING
        nonce = f"{self._worker}:{self.epoch}"
        self._send(Barrier(author=self._worker, at_ms=at_ms, nonce=nonce, epoch=self.epoch, seq=1))

    def is_our_barrier(self, record: Record) -> bool:
        return (
            self.phase is Phase.OPENING
            and isinstance(record, Barrier)
            and (record.author, record.epoch) == (self._worker, self.epoch)
        )

    def barrier_seen(self, first: Iterable[Record]) -> None:
        """Our barrier was read back and taken: send ``first``, then all that is still missing."""
        missing = [item for item in self._pending if item.lasting]
        ours = [item for item in missing if not self._is_lost(item.record)]
        self.dropped += len(missing) - len(ours)
        self._pending = deque(_Item(record=record, lasting=False) for record in first)
        self._pending.extend(_Item(record=item.record, lasting=True) for item in ours)
        self.phase = Phase.OPEN
        for item in self._pending:
            self._send_next(item)

    def seen(self, record: Record, ignored: Ignored | None) -> bool:
        """A record of ours was read. False when a hole or our death kept it from taking effect:
        a new epoch is needed (our burial is forgotten by joining again)."""
        if record.epoch == self.epoch and ignored is Ignored.STALE:
            return False
        if ignored in (Ignored.STALE, Ignored.GONE):
            return ignored is Ignored.STALE or record.epoch != self.epoch
        head = self._pending[0] if self._pending else None
        if head is not None and head.sent and _stamp(head.record) == _stamp(record):
            self._pending.popleft()
        return True

    def drop(self, record: Record) -> None:
        """The broker cannot take this record at all."""
        self._pending = deque(
            item for item in self._pending if _stamp(item.record) != _stamp(record)
        )

    def has(self, kind: type[Record]) -> bool:
        """Whether a record of this kind is not yet seen in the log."""
        return any(isinstance(item.record, kind) for item in self._pending)

    def _send_next(self, item: _Item) -> None:
        self._seq += 1
        item.record = replace(item.record, epoch=self.epoch, seq=self._seq)
        item.sent = True
        self._send(item.record)

    def _is_lost(self, record: Record) -> bool:
        """Whether the session that speaks has gone to another worker or is over."""
        session = subject_of(record)
        if session is None:
            return False
        return self._table.is_closed(session) or self._moved(session)

    def _moved(self, session: SessionId) -> bool:
        row = self._table.session(session)
        return row is not None and row.owner != self._worker and self._table.settled


def _stamp(record: Record) -> tuple[int, int]:
    return (record.epoch, record.seq)
