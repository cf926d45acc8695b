"""The replica on the in-memory broker: catching up, faults, hand-over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from worker.broker.memory import MemoryBroker
from worker.broker.port import Link
from worker.errors import BrokerLostError
from worker.parking.changes import Change, ClaimDecided, ClaimOutcome, SessionMoved
from worker.parking.model import AccountId, CallId, SessionId, SlotEntry, SlotId, WorkerId
from worker.parking.records import Alive, Checkpoint, Claim, Close, Dead, Record
from worker.parking.slots import SlotTable
from worker.replica.codec import decode, encode
from worker.replica.follower import Replica
from worker.replica.vitals import Timing

ACME = AccountId("acme")
S1, S2 = SessionId("s1"), SessionId("s2")
QUICK = Timing(
    beat_ms=40,
    lease_ms=400,
    silent_ms=800,
    suspect_ms=150,
    probe_again_ms=50,
    grace_ms=300,
    settle_ms=60,
    opening_ms=400,
    snapshot_ms=100_000,
)


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Worker:
    """A replica with the least of a shell around it."""

    def __init__(self, broker: MemoryBroker, name: str, timing: Timing = QUICK) -> None:
        self.broker = broker
        self.worker = WorkerId(name)
        self.table = SlotTable(loads=orjson.loads)
        self.changes: list[Change] = []
        self.records: list[tuple[int, Record]] = []
        self.lines: list[str] = []
        self.replica = Replica(
            table=self.table,
            worker=self.worker,
            on_changes=self.saw,
            now_ms=now_ms,
            timing=timing,
            write_log=lambda event, level, fields: self.lines.append(event),
            on_record=lambda offset, record, _: self.records.append((offset, record)),
        )
        self.link: Link | None = None

    def saw(self, changes: Sequence[Change]) -> None:
        self.changes += changes

    async def connect(self) -> None:
        self.link = await self.broker.open_link(name=self.worker)
        await self.link.declare_queue(
            f"kzpark.inbox.{self.worker}", exclusive=True, auto_delete=True
        )
        await self.link.consume(f"kzpark.inbox.{self.worker}", lambda delivery: None, no_ack=True)
        await self.replica.attach(self.link)

    async def disconnect(self) -> None:
        await self.replica.detach()
        if self.link is not None:
            await self.link.close()

    def claim(self, session: SessionId, slot: str = "", **more: Any) -> None:
        self.replica.append(claim(self.worker, session, slot, **more))

    def decisions(self, session: SessionId) -> list[ClaimOutcome]:
        return [
            change.outcome
            for change in self.changes
            if isinstance(change, ClaimDecided) and change.session == session
        ]

    def holds(self, session: SessionId) -> str | None:
        entry = self.table.entry_of(session)
        return None if entry is None else entry.slot


def claim(worker: WorkerId, session: SessionId, slot: str = "", **more: Any) -> Claim:
    entry = SlotEntry(
        account=ACME, slot=SlotId(slot), session=session, call_id=CallId(f"call-{session}")
    )
    return replace(Claim(author=worker, at_ms=0, entry=entry, facts="{}"), **more)


async def until(true: Callable[[], object], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def short_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    """The in-memory broker answers at once."""
    monkeypatch.setattr("worker.replica.streams.PEEK_FIRST_S", 0.03)
    monkeypatch.setattr("worker.replica.streams.PEEK_MORE_S", 0.02)
    monkeypatch.setattr("worker.replica.follower.QUIET_S", 0.5)


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    broker = MemoryBroker()
    started: list[Worker] = []

    async def start_worker(name: str, timing: Timing = QUICK) -> Worker:
        worker = Worker(broker, name, timing)
        started.append(worker)
        await worker.connect()
        return worker

    yield start_worker
    for worker in started:
        await worker.disconnect()


Start = Callable[..., Any]


async def test_a_first_worker_makes_the_log_joins_and_settles(start: Start) -> None:
    one = await start("w1")
    assert one.table.settled
    assert list(one.table.workers) == ["w1"]
    assert one.replica.lease_ok()
    one.claim(S1)
    await until(lambda: one.holds(S1) == "101")
    assert one.decisions(S1) == [ClaimOutcome.WON]
    assert one.replica.pending == 0


async def test_two_workers_decide_alike(start: Start) -> None:
    one, two = await start("w1"), await start("w2")
    for number in range(20):
        one.claim(SessionId(f"a{number}"))
        two.claim(SessionId(f"b{number}"))
        one.claim(SessionId(f"c{number}"), f"x{number}")
        two.claim(SessionId(f"d{number}"), f"x{number}")
    await until(lambda: one.table.session_count == 80 and two.table.session_count == 80)
    await until(lambda: one.table.offset == two.table.offset)
    assert one.table.digest() == two.table.digest()
    assert len(one.table.entries(ACME)) == 60
    assert len({entry.slot for entry in one.table.entries(ACME)}) == 60


async def test_a_late_worker_learns_everything_and_is_told_nothing_old(start: Start) -> None:
    one = await start("w1")
    one.claim(S1)
    await until(lambda: one.holds(S1))
    two = await start("w2")
    assert two.table.entry_of(S1) == one.table.entry_of(S1)
    assert two.decisions(S1) == []


async def test_a_late_worker_starts_from_a_snapshot(start: Start) -> None:
    one = await start("w1", replace(QUICK, snapshot_records=50))
    for number in range(60):
        one.claim(SessionId(f"a{number}"))
    await until(lambda: one.replica.counters.snapshots)
    two = await start("w2")
    assert two.replica.counters.applied < 60
    assert len(two.table.entries(ACME)) == 60
    await until(lambda: one.table.offset == two.table.offset)
    assert one.table.digest() == two.table.digest()


async def test_a_snapshot_of_another_log_is_not_believed(start: Start) -> None:
    one = await start("w1", replace(QUICK, snapshot_records=20))
    for number in range(30):
        one.claim(SessionId(f"a{number}"))
    await until(lambda: one.replica.counters.snapshots)
    await one.disconnect()
    one.broker.delete_queue("kzpark.log")
    two = await start("w2")
    assert two.table.entries(ACME) == []
    assert two.replica.counters.rebuilt == 1
    assert two.table.settled


async def test_only_the_lowest_worker_takes_snapshots(start: Start) -> None:
    timing = replace(QUICK, snapshot_records=20)
    one, two = await start("w1", timing), await start("w2", timing)
    for number in range(30):
        two.claim(SessionId(f"a{number}"))
    await until(lambda: one.replica.counters.snapshots)
    assert two.replica.counters.snapshots == 0


async def test_what_is_appended_without_a_link_is_sent_later_in_order_and_once(
    start: Start,
) -> None:
    one, two = await start("w1"), await start("w2")
    one.broker.break_all_links()
    assert not one.replica.lease_ok()
    one.claim(S1, "101")
    one.replica.append(Checkpoint(author=one.worker, at_ms=0, session=S1, state="one"))
    one.replica.append(Checkpoint(author=one.worker, at_ms=0, session=S1, state="two"))
    await one.connect()
    await two.connect()
    await until(lambda: two.holds(S1) and one.replica.pending == 0)
    assert one.decisions(S1) == [ClaimOutcome.WON]
    row = two.table.session(S1)
    assert row is not None
    assert row.state == "two"
    assert one.table.owner(S1) == "w1"


async def test_a_record_that_landed_unnoticed_is_not_sent_again(start: Start) -> None:
    """Published and stored, but the link dies before it is read back."""
    one = await start("w1")
    one.claim(S1, "101")
    one.broker.break_all_links()
    two = await start("w2")
    assert two.holds(S1) == "101"
    await one.connect()
    await until(lambda: one.replica.pending == 0)
    claims = [record for _, record in two.records if isinstance(record, Claim)]
    assert len(claims) == 1
    assert one.decisions(S1) == [ClaimOutcome.WON]


async def test_an_outage_is_made_up_for_and_told(start: Start) -> None:
    one, two = await start("w1"), await start("w2")
    assert one.link is not None
    await one.link.close()
    two.claim(S1, "101")
    await until(lambda: two.holds(S1))
    await one.connect()
    assert one.holds(S1) == "101"
    assert one.decisions(S1) == [ClaimOutcome.WON]
    assert one.replica.counters.rebuilt == 0


async def test_a_worker_whose_connection_dies_is_replaced(start: Start) -> None:
    one, two = await start("w1"), await start("w2")
    one.claim(S1, "101")
    await until(lambda: two.holds(S1))
    before = time.monotonic()
    assert one.link is not None
    await one.link.close()
    await until(lambda: two.table.owner(S1) == "w2")
    assert time.monotonic() - before < QUICK.silent_ms / 1000
    assert SessionMoved(session=S1, owner=two.worker, previous=one.worker) in two.changes
    one.replica.append(Close(author=one.worker, at_ms=0, session=S1))
    await one.connect()
    assert one.replica.lease_ok()
    assert one.table.owner(S1) == "w2"
    await until(lambda: one.replica.pending == 0)
    assert two.holds(S1) == "101"


async def test_a_restarted_single_worker_adopts_at_once(start: Start) -> None:
    one = await start("w1")
    one.claim(S1)
    await until(lambda: one.holds(S1))
    await one.disconnect()
    before = time.monotonic()
    two = await start("w2")
    await until(lambda: two.table.owner(S1) == "w2")
    assert time.monotonic() - before < 0.5


async def test_leaving_hands_over(start: Start) -> None:
    one, two = await start("w1"), await start("w2")
    one.claim(S1)
    await until(lambda: two.holds(S1))
    await one.replica.leave()
    assert not one.replica.lease_ok()
    await until(lambda: two.table.owner(S1) == "w2")
    assert list(two.table.workers) == ["w2"]


async def test_a_broker_that_comes_back_empty_is_seeded(start: Start) -> None:
    one, two = await start("w1"), await start("w2")
    for number in range(5):
        one.claim(SessionId(f"a{number}"))
        two.claim(SessionId(f"b{number}"))
    one.replica.append(Close(author=one.worker, at_ms=0, session=SessionId("a0")))
    await until(lambda: one.table.is_closed(SessionId("a0")))
    await until(lambda: one.table.offset == two.table.offset)
    held = one.table.entries(ACME)
    assert len(held) == 9
    one.broker.wipe()
    two.claim(SessionId("new"))
    await asyncio.gather(one.connect(), two.connect())
    await until(lambda: two.holds(SessionId("new")))
    await until(lambda: one.table.offset == two.table.offset)
    assert one.table.digest() == two.table.digest()
    assert {entry.session for entry in held} < {e.session for e in one.table.entries(ACME)}
    assert one.table.is_closed(SessionId("a0"))
    assert one.table.owner(SessionId("a1")) == "w1"
    assert one.table.owner(SessionId("b1")) == "w2"
    assert one.table.era == 1


async def test_a_worker_that_comes_late_to_a_wiped_log_adds_what_it_knows(start: Start) -> None:
    one = await start("w1")
    one.claim(S1, "101")
    await until(lambda: one.holds(S1))
    one.broker.wipe()
    two = await start("w2")
    two.claim(S2, "101")
    await until(lambda: two.holds(S2))
    await one.connect()
    await until(lambda: one.table.is_known(S1) and two.table.is_known(S1))
    assert two.holds(S2) == "101"
    assert two.holds(S1) is None
    assert one.table.offset == two.table.offset
    assert one.table.digest() == two.table.digest()


async def test_a_wiped_log_that_has_grown_past_our_last_offset_is_noticed(start: Start) -> None:
    one = await start("w1")
    one.claim(S1, "101")
    await until(lambda: one.holds(S1))
    known = one.table.offset
    one.broker.wipe()
    two = await start("w2")
    for number in range(known + 20):
        two.claim(SessionId(f"b{number}"))
    await until(lambda: two.table.session_count == known + 20)
    await one.connect()
    await until(lambda: one.holds(SessionId("b1")) and two.table.is_known(S1))
    await until(lambda: one.table.offset == two.table.offset)
    assert one.table.digest() == two.table.digest()


async def test_junk_is_skipped_and_counted(start: Start) -> None:
    one, two = await start("w1"), await start("w2")
    for body in (b"", b"{", b"[]", b'{"v":1}', b'{"v":1,"t":"claim"}', b"x\x9c123", b'{"t":3}'):
        assert one.link is not None
        assert await one.link.publish("", "kzpark.log", body, mandatory=True)
    one.claim(S1)
    await until(lambda: two.holds(S1))
    assert one.replica.counters.junk == two.replica.counters.junk == 7
    assert one.table.digest() == two.table.digest()


async def test_an_exception_in_the_engine_does_not_stop_the_replica(start: Start) -> None:
    one = await start("w1")

    def fail(changes: Sequence[Change]) -> None:
        raise RuntimeError("a bug")

    one.replica._on_changes = fail
    one.claim(S1)
    one.claim(S2)
    await until(lambda: one.holds(S2))


async def test_a_returned_record_opens_a_new_epoch_and_keeps_the_order(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await start("w1")
    assert one.link is not None
    publish: Any = one.link.publish
    lost: list[bytes] = []

    def lose_one(exchange: str, key: str, body: bytes, **more: Any) -> asyncio.Future[bool]:
        if isinstance(decode(body), Claim) and not lost:
            lost.append(body)
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            answer.set_result(False)
            return answer
        confirm: asyncio.Future[bool] = publish(exchange, key, body, **more)
        return confirm

    monkeypatch.setattr(one.link, "publish", lose_one)
    one.claim(S1, "101")
    one.replica.append(Checkpoint(author=one.worker, at_ms=0, session=S1, state="after"))
    await until(lambda: one.replica.pending == 0 and one.holds(S1))
    row = one.table.session(S1)
    assert row is not None
    assert row.state == "after"
    assert lost
    assert one.replica.counters.returned == 1


async def test_a_worker_declared_dead_joins_again_and_has_lost_its_sessions(
    start: Start,
) -> None:
    one, two = await start("w1"), await start("w2")
    one.claim(S1, "101")
    await until(lambda: two.holds(S1))
    beat = two.table.workers[one.worker].beat
    two.replica.append(Dead(author=two.worker, at_ms=0, victim=one.worker, beat=beat + 1000))
    one.replica.append(Checkpoint(author=one.worker, at_ms=0, session=S1, state="late"))
    one.claim(S2, "102")
    await until(lambda: one.table.owner(S1) == "w2")
    await until(lambda: one.replica.lease_ok() and one.replica.pending == 0)
    assert one.holds(S2) == "102"
    assert one.table.owner(S2) == "w1"
    assert one.worker in two.table.workers


async def test_a_frozen_worker_may_not_act(start: Start) -> None:
    one = await start("w1")
    await until(one.replica.lease_ok)
    later = now_ms() + QUICK.lease_ms + QUICK.beat_ms
    assert not one.replica.lease_ok(later)


async def test_a_deaf_replica_gives_its_connection_up(start: Start) -> None:
    one = await start("w1")
    one.broker.delete_queue("kzpark.log")
    link = one.link
    assert link is not None
    await until(link.closed.done)
    await one.connect()
    assert one.replica.lease_ok()


async def test_attaching_fails_with_the_link(start: Start) -> None:
    one = await start("w1")
    await one.disconnect()
    link = await one.broker.open_link(name="x")
    attaching = asyncio.ensure_future(one.replica.attach(link))
    await asyncio.sleep(0)
    await link.close()
    with pytest.raises(BrokerLostError):
        await attaching


async def test_a_log_without_its_beginning_is_not_believed_while_others_know(
    start: Start,
) -> None:
    one = await start("w1")
    one.claim(S1, "101")
    await until(lambda: one.holds(S1))
    stream: Any = one.broker.queues["kzpark.log"]
    del stream._records[:3]
    stream._first += 3
    beat = Alive(author=one.worker, at_ms=now_ms(), beat=10_000)
    assert one.link is not None
    await one.link.publish("", "kzpark.log", encode(beat), mandatory=True)
    with pytest.raises(BrokerLostError, match="snapshot"):
        await start("w2")
