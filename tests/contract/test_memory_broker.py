"""The in-memory broker keeps the contract, and breaks on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.broker_contract import BrokerContract, Names, OpenLink, bodies, done, until
from worker.broker.memory import MemoryBroker
from worker.broker.port import Delivery, Link
from worker.errors import BrokerLostError, QueueGoneError


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def open_link(broker: MemoryBroker) -> AsyncIterator[OpenLink]:
    links: list[Link] = []

    async def open_one() -> Link:
        links.append(await broker.open_link(name="test"))
        return links[-1]

    yield open_one
    for link in links:
        await link.close()


class TestMemoryBroker(BrokerContract):
    async def test_broken_links_lose_their_publishes_and_give_work_back(
        self, broker: MemoryBroker, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"))
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, prefetch=5)
        assert await done(link.publish("", name("q"), b"1"))
        await until(lambda: len(got) == 1)
        future = link.publish("", name("q"), b"2")
        broker.break_all_links()
        with pytest.raises(BrokerLostError):
            await done(future)
        assert isinstance(link.closed.exception(), BrokerLostError)
        assert broker.link_names == []
        link = await open_link()
        again: list[Delivery] = []
        await link.consume(name("q"), again.append, no_ack=True)
        await until(lambda: len(again) == 2)
        assert bodies(again) == [b"1", b"2"]
        assert again[0].redelivered

    async def test_a_wiped_broker_has_nothing_left(
        self, broker: MemoryBroker, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_exchange(name("x"), "topic")
        log = await self.stream(link, name, 3)
        broker.wipe()
        assert link.closed.done()
        link = await open_link()
        with pytest.raises(QueueGoneError):
            await link.declare_queue(log, passive=True)
        with pytest.raises(BrokerLostError, match="404"):
            await done(link.publish(name("x"), "k", b""))

    async def test_a_stream_drops_whole_segments_by_bytes_and_keeps_its_offsets(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        arguments = {
            "x-queue-type": "stream",
            "x-max-length-bytes": 1000,
            "x-stream-max-segment-size-bytes": 500,
        }
        await link.declare_queue(name("log"), durable=True, arguments=arguments)
        for _ in range(16):
            assert await done(link.publish("", name("log"), b"x" * 100, mandatory=True))
        got: list[Delivery] = []
        await link.consume(name("log"), got.append, prefetch=99, arguments={"x-stream-offset": 0})
        await until(lambda: bool(got) and got[-1].headers["x-stream-offset"] == 15)
        assert got[0].headers["x-stream-offset"] == 6
