"""What many calls and a long log cost: start-up time and memory. Figures are printed."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator

import orjson
import pika
import pytest

from benchmarks.load import LoadCall, LoadPeer, in_flight
from tests.process.zone import Scene, SteadyPeer, Zone, await_parked, eventually
from worker.broker.rabbit import open_link
from worker.parking.model import (
    AccountId,
    CallId,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.records import (
    Alive,
    Checkpoint,
    Claim,
    Close,
    Join,
    Leave,
    Record,
    Release,
    Settled,
)
from worker.replica.codec import encode
from worker.replica.streams import LOG_ARGUMENTS, Names, peek

RECORDS = 100_000
READY_S = 2.0
PARKED = 1_000
BYTES_PER_CALL = 60_000
REMEMBERED = 8_192
BYTES_PER_ID = 2_000
LANES = 32


# ---- a long log ----------------------------------------------------------------------------------


def facts() -> str:
    """About what the log keeps of an execute."""
    call = {"Call": {f"Field-{number}": "x" * 24 for number in range(30)}, "Data": {"slot": "101"}}
    return orjson.dumps(call).decode()


def history(count: int) -> Iterator[Record]:
    """About ``count`` records of a zone's past: calls parked, saved, freed, over; heartbeats."""
    author = WorkerId("00past00")
    said = facts()
    at_ms = int(time.time() * 1000)
    yield Join(author=author, at_ms=at_ms)
    yield Settled(author=author, at_ms=at_ms)
    made = 2
    beat = 0
    while made < count - 1:
        number = made
        session, account = SessionId(f"{number:032x}"), AccountId(f"{number % 500:032x}")
        entry = SlotEntry(
            account=account,
            slot=SlotId(""),
            session=session,
            call_id=CallId(f"call-{number}@10.0.0.1"),
            presence_user="*3{slot}",
            presence_realm="acme.example.com",
            caller_name="Caller One",
            caller_number="+15550001001",
        )
        beat += 1
        story: list[Record] = [
            Claim(author=author, at_ms=at_ms, entry=entry, facts=said),
            Checkpoint(author=author, at_ms=at_ms, session=session, state='{"state":"holding"}'),
            Release(
                author=author,
                at_ms=at_ms,
                account=account,
                slot=SlotId("101"),
                holder=session,
                by=session,
                reason=ReleaseReason.ABANDONED,
            ),
            Close(author=author, at_ms=at_ms, session=session),
            Alive(author=author, at_ms=at_ms, beat=beat),
        ]
        yield from story
        made += len(story)
    yield Leave(author=author, at_ms=at_ms)


def write_history(zone: Zone, count: int) -> int:
    """Put it into the zone's log before any worker lives; its bytes."""
    log = Names.of(zone.prefix).log
    size = 0
    with pika.BlockingConnection(pika.URLParameters(zone.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(log, durable=True, arguments=dict(LOG_ARGUMENTS))
        properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        for record in history(count):
            body = encode(record)
            size += len(body)
            channel.basic_publish("", log, body, properties)
        channel.confirm_delivery()
        channel.basic_publish("", log, encode(Join(author=WorkerId("x"), at_ms=0)), properties)
    return size


def started_s(zone: Zone, name: str) -> float:
    """From the start of the process until it consumes."""
    began = time.monotonic()
    zone.start(name)
    return time.monotonic() - began


@pytest.mark.timeout(180)
def test_a_late_worker_with_100000_records_in_the_log_is_ready_in_under_two_seconds(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    size = write_history(zone, RECORDS)
    replay_s = started_s(zone, "w1")  # nobody has taken a snapshot yet: everything is read
    eventually(lambda: has_snapshot(zone), 20, "a snapshot")
    late_s = min(started_s(zone, "w2"), started_s(zone, "w3"))
    print(
        f"{RECORDS} records, {size / 1e6:.1f} MB: ready after {late_s:.2f} s with a snapshot, "
        f"after {replay_s:.2f} s by reading all"
    )
    assert late_s < READY_S
    calls = [scene.valet(f"v{number}") for number in range(6)]
    for call in calls:
        await_parked(call)


def has_snapshot(zone: Zone) -> bool:
    """Whether the snapshot stream has a record."""

    async def look() -> bool:
        link = await open_link(zone.url, name="look")
        try:
            return bool(await peek(link, Names.of(zone.prefix).snapshots))
        finally:
            await link.close()

    return asyncio.run(look())


# ---- memory --------------------------------------------------------------------------------------


def with_load(zone: Zone, work: Callable[[LoadPeer], Awaitable[None]]) -> None:
    async def main() -> None:
        link = await open_link(zone.url, name="load")
        await work(await LoadPeer.open(link))
        await link.close()

    asyncio.run(main())


@pytest.mark.timeout(180)
def test_memory_per_parked_call_is_bounded(live_peer: SteadyPeer, vhost_url: str) -> None:
    """Of the owner, and of a worker that only follows the log."""
    zone = Zone(vhost_url, live_peer, {"KZPARK_RECONCILE_S": "600"})
    try:
        zone.start("w1")
        figures: list[str] = []

        async def load(peer: LoadPeer) -> None:
            calls: list[LoadCall] = []

            async def park(_number: int) -> None:
                calls.append(await peer.park(secrets.token_hex(16)))

            await in_flight(LANES, 200, park)
            before = zone.rss_kb("w1")
            await in_flight(LANES, PARKED, park)
            owner = (zone.rss_kb("w1") - before) * 1024 / PARKED
            figures.append(f"owner {owner / 1000:.1f} KB per parked call")
            assert owner < BYTES_PER_CALL
            await asyncio.to_thread(zone.start, "w2")
            follower = zone.rss_kb("w2")
            figures.append(f"a follower of {len(calls)} calls {follower / 1000:.0f} MB in all")
            await in_flight(LANES, len(calls), lambda number: peer.hang_up(calls[number]))

        with_load(zone, load)
        print("; ".join(figures))
    finally:
        zone.close()


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_memory_of_remembered_ids_is_bounded(live_peer: SteadyPeer, vhost_url: str) -> None:
    """Calls that are over: memory grows up to a number of ids, and then no more."""
    zone = Zone(vhost_url, live_peer, {"KZPARK_RECONCILE_S": "600"})
    try:
        zone.start("w1")
        sizes: list[int] = []

        async def load(peer: LoadPeer) -> None:
            account = secrets.token_hex(16)

            async def pass_through(_number: int) -> None:
                await peer.hang_up(await peer.park(account))

            await in_flight(LANES, 500, pass_through)
            sizes.append(zone.rss_kb("w1"))
            for _ in range(4):
                await in_flight(LANES, REMEMBERED, pass_through)
                sizes.append(zone.rss_kb("w1"))

        with_load(zone, load)
        growth = [(new - old) * 1024 / REMEMBERED for old, new in itertools.pairwise(sizes)]
        print(f"bytes per call that is over, each {REMEMBERED}: {[round(one) for one in growth]}")
        assert growth[0] < BYTES_PER_ID * 4
        assert growth[-1] < BYTES_PER_ID / 4
    finally:
        zone.close()
