"""The log reader on a link that the test plays: proof, acknowledgements, junk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from worker.broker.port import Delivery, Link, OnDelivery
from worker.parking.model import WorkerId
from worker.parking.records import Alive, Record
from worker.replica import reader as module
from worker.replica.codec import encode, mark_of
from worker.replica.counters import Counters
from worker.replica.reader import LogReader

W = WorkerId("w")


class PlayedLink:
    """Records what is asked of it; `deliver` plays the broker."""

    def __init__(self) -> None:
        self.starts: list[object] = []
        self.acks: list[tuple[int, bool]] = []
        self.cancelled: list[str] = []
        self._take: OnDelivery | None = None

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        prefetch: int,
        arguments: Mapping[str, object],
    ) -> str:
        assert prefetch > module.ACK_EACH
        self.starts.append(arguments["x-stream-offset"])
        self._take = on_delivery
        return f"tag{len(self.starts)}"

    async def cancel(self, consumer: str) -> None:
        self.cancelled.append(consumer)

    def ack(self, consumer: str, tag: int, *, multiple: bool = False) -> None:
        self.acks.append((tag, multiple))

    def deliver(self, offset: Any, body: bytes, consumer: str = "", tag: int = 0) -> None:
        assert self._take is not None
        self._take(
            Delivery(
                queue="log",
                exchange="",
                routing_key="log",
                body=body,
                consumer=consumer or f"tag{len(self.starts)}",
                tag=tag or (offset + 1 if isinstance(offset, int) else 1),
                headers={} if offset is None else {"x-stream-offset": offset},
            )
        )


class Reading:
    def __init__(self) -> None:
        self.taken: list[tuple[int, Record]] = []
        self.wrong: list[str] = []
        self.counters = Counters()
        self.played = PlayedLink()
        self.reader = LogReader(
            "log",
            take=lambda offset, record: self.taken.append((offset, record)),
            wrong=self.wrong.append,
            counters=self.counters,
            write_log=lambda event, level, fields: None,
        )

    async def start(self) -> None:
        await self.reader.start(cast("Link", self.played))

    @property
    def offsets(self) -> list[int]:
        return [offset for offset, _ in self.taken]


def beat(number: int) -> bytes:
    return encode(Alive(author=W, at_ms=0, beat=number))


@pytest.fixture
async def reading() -> Reading:
    reading = Reading()
    await reading.start()
    return reading


async def test_an_unknown_log_is_read_from_its_first_record(reading: Reading) -> None:
    assert reading.played.starts == ["first"]
    for offset in range(3):
        reading.played.deliver(offset, beat(offset))
    assert reading.offsets == [0, 1, 2]
    assert reading.taken[2][1] == Alive(author=W, at_ms=0, beat=2)
    assert not reading.reader.starts_late


async def test_holes_and_repeats_in_the_offsets_do_not_matter(reading: Reading) -> None:
    for offset in (0, 1, 5, 4, 5, 9):
        reading.played.deliver(offset, beat(offset))
    assert reading.offsets == [0, 1, 5, 9]


async def test_reading_goes_on_at_the_last_record_and_demands_to_see_it(
    reading: Reading,
) -> None:
    for offset in range(3):
        reading.played.deliver(offset, beat(offset))
    reading.reader.cut()
    await reading.start()
    assert reading.played.starts == ["first", 2]
    reading.played.deliver(2, beat(2))
    reading.played.deliver(3, beat(3))
    assert reading.offsets == [0, 1, 2, 3]
    assert reading.wrong == []


@pytest.mark.parametrize(("offset", "number"), [(2, 99), (7, 2), (0, 2)])
async def test_another_record_there_means_another_log_and_nothing_of_it_is_taken(
    reading: Reading, offset: int, number: int
) -> None:
    for known in range(3):
        reading.played.deliver(known, beat(known))
    reading.reader.cut()
    await reading.start()
    reading.played.deliver(offset, beat(number))
    reading.played.deliver(8, beat(8))
    assert reading.offsets == [0, 1, 2]
    assert len(reading.wrong) == 1
    await reading.reader.stop()
    assert reading.played.cancelled == ["tag2"]
    reading.reader.forget()
    await reading.start()
    assert reading.played.starts[-1] == "first"


async def test_a_snapshots_place_has_to_be_proven_too() -> None:
    reading = Reading()
    reading.reader.stand_at(40, mark_of(beat(40)))
    await reading.start()
    reading.played.deliver(40, beat(40))
    reading.played.deliver(41, beat(41))
    assert reading.offsets == [41]
    assert reading.reader.mark == mark_of(beat(41))


async def test_a_place_keeps_its_mark_when_nothing_more_was_read() -> None:
    reading = Reading()
    reading.reader.stand_at(40, mark_of(beat(40)))
    await reading.start()
    reading.reader.cut()
    await reading.start()
    reading.played.deliver(40, beat(40))
    assert reading.wrong == []
    assert reading.reader.mark == mark_of(beat(40))


async def test_a_log_whose_beginning_is_gone_is_noticed(reading: Reading) -> None:
    reading.played.deliver(17, beat(1))
    assert reading.reader.starts_late


async def test_junk_moves_the_place_and_is_counted(reading: Reading) -> None:
    reading.played.deliver(0, beat(0))
    reading.played.deliver(1, b"junk")
    reading.played.deliver(None, beat(2))
    assert reading.counters.junk == 2
    assert reading.reader.offset == 1
    assert reading.reader.mark == mark_of(b"junk")


async def test_deliveries_of_an_earlier_consumer_are_not_taken(reading: Reading) -> None:
    reading.played.deliver(0, beat(0), consumer="tag0")
    assert reading.taken == []


async def test_acks_go_out_for_every_fifty_records(reading: Reading) -> None:
    for offset in range(120):
        reading.played.deliver(offset, beat(offset))
    assert reading.played.acks == [(50, True), (100, True)]


async def test_acks_go_out_on_a_timer_too(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACK_WITHIN_S", 0.001)
    reading.played.deliver(0, beat(0))
    reading.played.deliver(1, b"junk")
    assert reading.played.acks == []
    async with asyncio.timeout(2):
        while not reading.played.acks:  # noqa: ASYNC110 - a timer of the reader
            await asyncio.sleep(0.001)
    assert reading.played.acks == [(2, True)]


async def test_nothing_is_acknowledged_once_the_link_is_gone(reading: Reading) -> None:
    reading.played.deliver(0, beat(0))
    reading.reader.cut()
    for offset in range(60):
        reading.played.deliver(offset, beat(offset))
    assert reading.played.acks == []
