"""One process of a run: a replica and many simulated calls, without the rest of the worker.

``python -m tests.linearizability.client`` is started by `run`; it reads orders from stdin, one a
line: ``quiet`` (begin no more calls), ``final`` (write the final state), ``drop`` (cut the
connection), ``stop``. It prints ``progress N`` and ``final``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import secrets
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop

from tests.linearizability.history import Recorder, change_rows
from worker.broker.port import Link
from worker.broker.rabbit import open_link
from worker.errors import BrokerError
from worker.parking.changes import (
    Change,
    ClaimDecided,
    ClaimOutcome,
    Released,
    ReleaseRefused,
    RetrieveDecided,
    RetrieveOutcome,
    SessionMoved,
    SessionOpened,
)
from worker.parking.model import (
    AccountId,
    CallId,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.records import Claim, Close, Record, Release, Retrieve
from worker.parking.slot_rows import SessionRow
from worker.parking.slots import SlotTable
from worker.replica.follower import Replica
from worker.run.clock import Clock

ACCOUNT = AccountId("load")
PARKED_S = 0.03
LONG_PARKED_S = 1.0
PROGRESS_EACH = 50


@dataclass(frozen=True, kw_only=True)
class Load:
    """What this process does. ``slots`` slots from 101; ``calls`` at a time."""

    url: str
    prefix: str
    operations: int
    slots: int
    calls: int
    rate: float
    """Operations begun per second."""
    sabotage: bool


class WrongTable(SlotTable):
    """Gives a slot away a second time now and then: the checker must notice (test_runs)."""

    def _place(
        self, record: Claim, row: SessionRow
    ) -> tuple[ClaimOutcome, SlotEntry | None, SlotEntry | None]:
        outcome, entry, previous = super()._place(record, row)
        if outcome is ClaimOutcome.OCCUPIED and self.offset % 5 == 0:
            return ClaimOutcome.WON, record.entry, None
        return outcome, entry, previous


class Client:
    """See the module."""

    def __init__(self, load: Load, recorder: Recorder) -> None:
        self.load = load
        self.recorder = recorder
        self.worker = WorkerId(secrets.token_hex(6))
        self.random = random.Random(self.worker)
        self.table = (WrongTable if load.sabotage else SlotTable)(loads=orjson.loads)
        self.replica = Replica(
            table=self.table,
            worker=self.worker,
            prefix=load.prefix,
            on_changes=self.changed,
            now_ms=Clock().now_ms,
            on_record=self.applied,
            write_log=self.note,
        )
        self.waiting: dict[tuple[str, str, int], asyncio.Future[Change]] = {}
        self.freed: dict[SessionId, asyncio.Future[None]] = {}
        self.begun = 0
        """Claims, retrieves and releases."""
        self.asked = 0
        self.quiet = False
        self.stopping = asyncio.Event()
        self.link: Link | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.calls: dict[SessionId, asyncio.Task[None]] = {}
        self.next_start_s = time.monotonic()

    # ---- the log --------------------------------------------------------------------------------

    def note(self, event: str, level: str, fields: dict[str, object]) -> None:
        self.recorder.write("note", text=event, level=level, fields=fields)

    def applied(self, offset: int, record: Record, changes: Sequence[Change]) -> None:
        rows = change_rows(changes)
        if rows and self.table.settled:
            digest = self.table.digest()
            self.recorder.write("apply", log=self.table.birth, o=offset, c=rows, d=digest)

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            match change:
                case ClaimDecided():
                    self.answer("claim", change.session, change.attempt, change)
                case RetrieveDecided():
                    self.answer("retrieve", change.session, change.attempt, change)
                case Released():
                    self.let_go(change.entry.session)
                case ReleaseRefused():
                    self.let_go(change.holder)
                case SessionMoved() | SessionOpened() if change.owner == self.worker:
                    self.adopt(change.session)
                case SessionMoved():
                    task = self.calls.pop(change.session, None)
                    if task is not None:
                        task.cancel()
                case _:
                    pass

    def let_go(self, session: SessionId) -> None:
        waiting = self.freed.get(session)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def answer(self, kind: str, session: SessionId, attempt: int, change: Change) -> None:
        future = self.waiting.pop((kind, session, attempt), None)
        if future is not None and not future.done():
            future.set_result(change)

    # ---- operations -----------------------------------------------------------------------------

    async def ask(self, kind: str, session: SessionId, record: Record, **fields: object) -> Change:
        """Append and wait for the decision; both are in the history."""
        await self.turn()
        attempt = int(str(fields.get("attempt", 0)))
        subject = SessionId(str(fields.get("holder", session)))
        future: asyncio.Future[Change] = asyncio.get_running_loop().create_future()
        self.waiting[kind, subject, attempt] = future
        op = self.invoke(kind, session, **fields)
        self.replica.append(record)
        change = await future
        outcome, slot = outcome_of(change)
        self.recorder.write(
            "ok",
            op=op,
            outcome=outcome,
            slot=slot,
            log=self.table.birth,
            offset=self.table.offset,
        )
        return change

    def invoke(self, kind: str, session: SessionId, **fields: object) -> str:
        self.asked += 1
        if kind != "close":
            self.begun += 1
            if self.begun % PROGRESS_EACH == 0:
                say(f"progress {self.begun}")
        op = f"{self.worker}.{self.asked}"
        self.recorder.write("invoke", op=op, kind=kind, session=session, **fields)
        return op

    async def turn(self) -> None:
        """Wait until we may act, and keep the rate."""
        while not self.replica.lease_ok():  # noqa: ASYNC110 - a lease runs out silently
            await asyncio.sleep(0.01)
        at_s = max(self.next_start_s, time.monotonic() - 0.1)
        self.next_start_s = at_s + 1 / self.load.rate
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))

    async def close(self, session: SessionId) -> None:
        await self.turn()
        self.invoke("close", session)
        self.replica.append(Close(author=self.worker, at_ms=0, session=session))

    async def release(self, session: SessionId, slot: SlotId, by: SessionId) -> None:
        reason = ReleaseReason.ABANDONED if by == session else ReleaseReason.RETRIEVED
        record = Release(
            author=self.worker,
            at_ms=0,
            account=ACCOUNT,
            slot=slot,
            holder=session,
            by=by,
            reason=reason,
        )
        await self.turn()
        self.invoke("release", by, holder=session, slot=slot)
        self.replica.append(record)

    # ---- calls ----------------------------------------------------------------------------------

    def a_slot(self) -> SlotId:
        return SlotId(str(101 + self.random.randrange(self.load.slots)))

    async def call(self) -> None:
        session = SessionId(f"{self.worker}-{secrets.token_hex(5)}")
        task = asyncio.current_task()
        if task is not None:
            self.calls[session] = task
        try:
            if self.random.random() < 0.6:
                await self.park(session)
            else:
                await self.fetch(session)
            await self.close(session)
        finally:
            self.calls.pop(session, None)

    async def park(self, session: SessionId) -> None:
        slot = SlotId("") if self.random.random() < 0.2 else self.a_slot()
        entry = SlotEntry(
            account=ACCOUNT, slot=slot, session=session, call_id=CallId(session), parked_at_ms=1
        )
        record = Claim(author=self.worker, at_ms=0, entry=entry, facts="{}")
        decided = await self.ask("claim", session, record, attempt=1, slot=slot)
        if isinstance(decided, ClaimDecided) and decided.outcome is ClaimOutcome.WON:
            long = self.random.random() < 0.3
            await self.hold(session, LONG_PARKED_S if long else PARKED_S)

    async def hold(self, session: SessionId, for_s: float) -> None:
        """Wait to be retrieved; leave when nobody comes."""
        freed = self.freed.setdefault(session, asyncio.get_running_loop().create_future())
        try:
            if self.table.entry_of(session) is None:
                return
            await asyncio.wait({freed}, timeout=for_s)
            entry = self.table.entry_of(session)
            if entry is not None and not freed.done():
                await self.release(session, entry.slot, session)
                await freed
        finally:
            self.freed.pop(session, None)

    async def fetch(self, session: SessionId) -> None:
        slot = self.a_slot()
        record = Retrieve(
            author=self.worker, at_ms=0, session=session, account=ACCOUNT, slot=slot, facts="{}"
        )
        decided = await self.ask("retrieve", session, record, attempt=1, slot=slot)
        if isinstance(decided, RetrieveDecided) and decided.outcome is RetrieveOutcome.WON:
            entry = decided.entry
            if entry is not None and self.random.random() < 0.9:
                await self.release(entry.session, slot, session)

    def adopt(self, session: SessionId) -> None:
        """A dead worker's call: hold it a little, then let it go."""
        if session in self.calls or self.worker in session:
            return

        async def go_on() -> None:
            try:
                await self.hold(session, PARKED_S)
                if self.table.owner(session) == self.worker:
                    await self.close(session)
            finally:
                self.calls.pop(session, None)

        self.calls[session] = self.spawn(go_on())

    # ---- life -----------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def caller(self) -> None:
        while not self.quiet and self.begun < self.load.operations:
            await self.call_or_lose()

    async def call_or_lose(self) -> None:
        """A call whose session was given to another worker just ends here."""
        call = self.spawn(self.call())
        await asyncio.wait({call})

    async def connect_forever(self) -> None:
        delay_s = 0.1
        while not self.stopping.is_set():
            try:
                self.link = await open_link(self.load.url, name=self.worker)
                await self.link.declare_queue(
                    f"{self.load.prefix}.inbox.{self.worker}", exclusive=True, auto_delete=True
                )
                await self.link.consume(
                    f"{self.load.prefix}.inbox.{self.worker}", lambda _: None, no_ack=True
                )
                await self.replica.attach(self.link)
                self.regain()
                delay_s = 0.1
                self.note("attached", "info", {})
                await asyncio.wait({self.link.closed})
            except BrokerError as error:
                self.note("broker trouble", "warning", {"reason": str(error)})
            finally:
                await self.replica.detach()
                if self.link is not None:
                    await self.link.close()
            await asyncio.sleep(delay_s * self.random.uniform(0.5, 1.5))
            delay_s = min(delay_s * 2, 2.0)

    def regain(self) -> None:
        """After an outage: drop what others have, take what the log gives us."""
        mine = set(self.table.sessions_of(self.worker))
        for session in list(self.calls):
            if self.table.session(session) is not None and session not in mine:
                self.calls.pop(session).cancel()
        for session in mine:
            self.adopt(session)

    async def orders(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).strip():
            match line:
                case b"quiet":
                    self.quiet = True
                case b"final":
                    self.final()
                case b"drop" if self.link is not None:
                    await self.link.close()
                case b"stop":
                    break
                case _:
                    pass
        self.stopping.set()

    def final(self) -> None:
        held = {entry.slot: entry.session for entry in self.table.entries(ACCOUNT)}
        self.recorder.write(
            "final",
            log=self.table.birth,
            o=self.table.offset,
            held=held,
            sessions=self.table.session_count,
            counters=asdict(self.replica.counters),
        )
        say("final")

    async def run(self) -> None:
        self.recorder.write("start", worker=self.worker)
        connecting = self.spawn(self.connect_forever())
        callers = [self.spawn(self.caller()) for _ in range(self.load.calls)]
        orders = self.spawn(self.orders())
        finished = asyncio.gather(*callers)
        ended: set[asyncio.Future[Any]] = {finished, orders, connecting}
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()  # only ever a bug
        say(f"progress {self.begun}")
        say("done")
        await self.stopping.wait()
        await self.replica.leave()
        connecting.cancel()
        if self.link is not None:
            await self.link.close()
        with contextlib.suppress(asyncio.CancelledError):
            await connecting


def outcome_of(change: Change) -> tuple[str, str]:
    match change:
        case ClaimDecided() | RetrieveDecided():
            return change.outcome.value, change.entry.slot if change.entry else ""
        case _:
            return "", ""


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--prefix", default="kzlin")
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=50)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--sabotage", action="store_true")
    parser.add_argument("--history", type=Path, required=True)
    given = parser.parse_args()
    load = Load(
        url=given.url,
        prefix=given.prefix,
        operations=given.operations,
        slots=given.slots,
        calls=given.calls,
        rate=given.rate,
        sabotage=given.sabotage,
    )
    uvloop.run(Client(load, Recorder(given.history)).run())


if __name__ == "__main__":
    main()
