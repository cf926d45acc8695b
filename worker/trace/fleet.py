"""Any number of workers under a virtual clock: their engines, one slot table, one log.

What a worker appends is read back a moment later; not before another worker's record of the same
account when a recording says that that one came first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import orjson

from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.ops import Append, Bind, Log, Publish
from worker.parking.model import AccountId, CallId, WorkerId
from worker.parking.records import Claim, Join, Record, Retrieve, Settled, Unretrieve
from worker.parking.slots import SlotTable

BIND_MS: Final = 1
LOG_MS: Final = 2
"""What a broker usually needs; a binding is faster than the log."""
WAIT_MS: Final = 1_000
"""A record waits at most so long for one that came before it in the recording."""

Identity = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message or record of one worker. ``reason``: why a lamp was set, else empty."""

    at_ms: int
    worker: WorkerId
    op: Publish | Append
    reason: str = ""


@dataclass(slots=True)
class _Pending:
    """Something the broker has been asked for and has not done yet."""

    due_ms: int
    worker: WorkerId
    record: Record | None = None
    call_id: CallId = CallId("")
    until_ms: int = 0
    held: bool = False
    """It waits for a record that came before it in the recording."""


class Latency:
    """When the broker has done what it was asked for; a recording may know better."""

    def of_record(self, _record: Record, now_ms: int) -> int:
        return now_ms + LOG_MS

    def of_binding(self, _call_id: CallId, now_ms: int) -> int:
        return now_ms + BIND_MS


def identity_of(record: Record) -> tuple[AccountId, Identity] | None:
    """Account and identity of a record whose place in the log decides something."""
    match record:
        case Claim():
            entry = record.entry
            return entry.account, ("claim", entry.session, str(record.attempt))
        case Retrieve():
            return record.account, ("retrieve", record.session, str(record.attempt))
        case Unretrieve():
            return record.account, ("unretrieve", record.session, record.slot)
        case _:
            return None


class RecordedOrder:
    """The order in which a recorded log decided, account by account."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._waiting: dict[AccountId, dict[Identity, None]] = {}
        for record in records:
            known = identity_of(record)
            if known is not None:
                self._waiting.setdefault(known[0], {}).setdefault(known[1])

    def is_next(self, record: Record) -> bool:
        """Whether nothing of the account stands before it (or it was never recorded)."""
        known = identity_of(record)
        if known is None:
            return True
        line = self._waiting.get(known[0], {})
        return known[1] not in line or next(iter(line)) == known[1]

    def done(self, record: Record) -> bool:
        """It is in the log; whether others may have waited for it."""
        known = identity_of(record)
        if known is None:
            return False
        self._waiting.get(known[0], {}).pop(known[1], None)
        return True


@dataclass(slots=True)
class Fleet:
    """See the module. ``latency`` says when a record is read back from the log or a binding is in
    place; take what the workers say with `take_said`."""

    order: RecordedOrder = field(default_factory=RecordedOrder)
    latency: Latency = field(default_factory=Latency)
    now_ms: int = 0
    engines: dict[WorkerId, Engine] = field(default_factory=dict)
    logs: list[tuple[int, WorkerId, Log]] = field(default_factory=list)
    table: SlotTable = field(default_factory=lambda: SlotTable(loads=orjson.loads))
    _said: list[Said] = field(default_factory=list)
    _pending: list[_Pending] = field(default_factory=list)
    _offset: int = -1

    # ---- workers --------------------------------------------------------------------------------

    def restore(self, state: Mapping[str, object]) -> None:
        """Begin with this slot table. Raises MalformedMessageError."""
        self.table.restore(state)
        self._offset = self.table.offset

    def start(self, config: EngineConfig, *, resumes: bool) -> None:
        """A worker is there; ``resumes``: it has just connected and looks around."""
        worker = config.worker
        self.engines[worker] = Engine(config, self.table)
        if worker not in self.table.workers:
            self.append(Join(author=worker, at_ms=self.now_ms, name=config.node))
        if not self.table.settled:
            self.append(Settled(author=worker, at_ms=self.now_ms))
        if resumes:
            self.engines[worker].resume(self.now_ms)
        self.settle()

    def reconnected(self, worker: WorkerId) -> None:
        """It lost its connection and has a new one."""
        engine = self.engines.get(worker)
        if engine is not None:
            engine.links_lost()
            engine.resume(self.now_ms)
            self.settle()

    def stop(self, worker: WorkerId) -> None:
        """It is no more."""
        self.engines.pop(worker, None)
        self._pending = [one for one in self._pending if one.worker != worker]

    # ---- inputs ---------------------------------------------------------------------------------

    def feed(self, apply: Callable[[Engine], None], worker: WorkerId | None = None) -> None:
        """An input for one worker, or for all; then everything that follows from it."""
        for name, engine in list(self.engines.items()):
            if worker is None or worker == name:
                apply(engine)
        self.settle()

    def append(self, record: Record) -> None:
        """A record that is in the log now."""
        self._offset += 1
        if self.order.done(record):
            for held in self._pending:
                if held.record is not None and held.held and self.order.is_next(held.record):
                    held.due_ms = self.now_ms
        changes = self.table.apply(self._offset, record)
        for engine in list(self.engines.values()):
            engine.applied(changes, self.now_ms)

    # ---- time -----------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        times = [engine.next_deadline_ms() for engine in self.engines.values()]
        times += [pending.due_ms for pending in self._pending]
        return min((at for at in times if at is not None), default=None)

    def advance(self, until_ms: int) -> None:
        """Let time pass, deadline by deadline."""
        while (deadline_ms := self.next_deadline_ms()) is not None and deadline_ms <= until_ms:
            self.now_ms = max(self.now_ms, deadline_ms)
            self._happen()
            for engine in list(self.engines.values()):
                at_ms = engine.next_deadline_ms()
                if at_ms is not None and at_ms <= self.now_ms:
                    engine.tick(self.now_ms)
            self.settle()
        self.now_ms = max(self.now_ms, until_ms)

    def _happen(self) -> None:
        """What the broker has done by now, each with what follows from it."""
        while due := [one for one in self._pending if one.due_ms <= self.now_ms]:
            first = min(due, key=lambda one: one.due_ms)
            record = first.record
            if record is None:
                self._pending.remove(first)
                engine = self.engines.get(first.worker)
                if engine is not None:
                    engine.bound(first.call_id, self.now_ms)
            elif self.order.is_next(record) or first.until_ms <= self.now_ms:
                self._pending.remove(first)
                self.append(record)
            else:
                first.held = True
                first.due_ms = first.until_ms
            self.settle()

    # ---- operations -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Carry out what the engines want until they want no more."""
        busy = True
        while busy:
            busy = False
            for worker, engine in list(self.engines.items()):
                ops = engine.take_ops()
                busy = busy or bool(ops)
                for op in ops:
                    self._carry_out(worker, op)

    def _carry_out(self, worker: WorkerId, op: object) -> None:
        match op:
            case Publish():
                self._said.append(Said(at_ms=self.now_ms, worker=worker, op=op))
            case Append():
                self._said.append(Said(at_ms=self.now_ms, worker=worker, op=op))
                due_ms = max(self.latency.of_record(op.record, self.now_ms), self._last_due(worker))
                until_ms = due_ms + WAIT_MS
                self._pending.append(_Pending(due_ms, worker, op.record, until_ms=until_ms))
            case Bind():
                due_ms = self.latency.of_binding(op.call_id, self.now_ms)
                if due_ms <= self.now_ms:
                    self.engines[worker].bound(op.call_id, self.now_ms)
                else:
                    self._pending.append(_Pending(due_ms, worker, call_id=op.call_id))
            case Log():
                self.logs.append((self.now_ms, worker, op))
                if op.event == "lamp" and self._said:
                    reason = str(op.fields.get("reason", ""))
                    self._said[-1] = replace(self._said[-1], reason=reason)
            case _:
                pass

    def _last_due(self, worker: WorkerId) -> int:
        """A worker's records keep their order."""
        mine = (one for one in self._pending if one.worker == worker and one.record is not None)
        return max((one.due_ms for one in mine), default=0)

    def take_said(self) -> list[Said]:
        """What was said since the last call."""
        said, self._said = self._said, []
        return said
