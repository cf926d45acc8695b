"""A worker that comes late: how long until it may act."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

import orjson
import pytest

from tests.rabbit import fresh_vhost
from worker.broker.port import Link
from worker.broker.rabbit import open_link
from worker.parking.changes import Change
from worker.parking.model import AccountId, CallId, SessionId, SlotEntry, SlotId, WorkerId
from worker.parking.records import Claim, Close, Record
from worker.parking.slots import SlotTable
from worker.replica.codec import encode
from worker.replica.follower import Replica
from worker.run.clock import Clock

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]
RECORDS = 100_000
PARKED = 500
READY_S = 2.0
IN_FLIGHT = 500


def ignore(changes: Sequence[Change]) -> None:
    """What changed is no matter here."""


async def start(url: str, prefix: str, name: str) -> tuple[Replica, Link]:
    link = await open_link(url, name=name)
    await link.declare_queue(f"{prefix}.inbox.{name}", exclusive=True, auto_delete=True)
    replica = Replica(
        table=SlotTable(loads=orjson.loads),
        worker=WorkerId(name),
        prefix=prefix,
        on_changes=ignore,
        now_ms=Clock().now_ms,
    )
    await replica.attach(link)
    return replica, link


def history(author: WorkerId) -> list[Record]:
    """Calls that come and go, the last of them still parked."""
    records: list[Record] = []
    number = 0
    while len(records) < RECORDS - PARKED:
        number += 1
        records.append(claim(author, number))
        records.append(Close(author=author, at_ms=0, session=SessionId(f"s{number}")))
    return records + [claim(author, number + index) for index in range(1, PARKED + 1)]


def claim(author: WorkerId, number: int) -> Claim:
    session = SessionId(f"s{number}")
    entry = SlotEntry(
        account=AccountId("a"),
        slot=SlotId(""),
        session=session,
        call_id=CallId(f"call-{number}@10.0.0.1"),
        switch_uri="sip:10.0.0.1:11000",
        presence_user="*3{slot}",
        presence_realm="acme.example.com",
    )
    return Claim(author=author, at_ms=0, entry=entry, facts="{}" * 100)


async def test_a_late_worker_is_ready_soon_however_long_the_log(amqp_url: str) -> None:
    prefix = f"kzlate-{secrets.token_hex(4)}"
    with fresh_vhost(amqp_url) as url:
        first, link = await start(url, prefix, "w1")
        window: list[asyncio.Future[bool]] = []
        for record in history(first.worker):
            body = encode(record)
            window.append(link.publish("", f"{prefix}.log", body, mandatory=True, persistent=True))
            if len(window) >= IN_FLIGHT:
                assert all(await asyncio.gather(*window))
                window.clear()
        assert all(await asyncio.gather(*window))
        while first.counters.applied < RECORDS:  # noqa: ASYNC110 - it reads at its own pace
            await asyncio.sleep(0.05)
        before = time.monotonic()
        late, late_link = await start(url, prefix, "w2")
        took_s = time.monotonic() - before
        assert late.table.session_count == PARKED
        assert late.lease_ok()
        assert late.counters.applied < RECORDS / 10
        print(f"ready after {took_s:.2f} s, {first.counters.snapshots} snapshots")
        assert took_s < READY_S
        for replica, used in ((first, link), (late, late_link)):
            await replica.detach()
            await used.close()
