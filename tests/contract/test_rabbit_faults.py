"""What becomes of a link when its broker dies, comes back empty, or its own process freezes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest

from tests.contract.broker_contract import STREAM, Names, bodies, done, unique_names, until
from tests.contract.tcp_proxy import proxy_to
from worker.broker.port import Delivery, Link
from worker.broker.private_node import PrivateCluster, PrivateNode
from worker.broker.rabbit import open_link
from worker.errors import BrokerError, BrokerLostError, BrokerUnreachableError, QueueGoneError

pytestmark = pytest.mark.broker


@pytest.fixture
def name() -> Names:
    return unique_names()


@contextlib.asynccontextmanager
async def links_to(url: str, count: int) -> AsyncIterator[list[Link]]:
    links = [await open_link(url, name=f"fault test {number}") for number in range(count)]
    try:
        yield links
    finally:
        for link in links:
            await link.close()


async def again(step: Callable[[], Awaitable[object]]) -> None:
    """After a crash a stream has no leader for a moment: the broker says so, and it is not gone."""
    deadline = time.monotonic() + 20
    while True:
        try:
            await step()
        except BrokerError as error:
            if type(error) is not BrokerError or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


async def log_of(link: Link, stream: str, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    offset = {"x-stream-offset": "first"}
    await again(lambda: link.consume(stream, got.append, prefetch=20_000, arguments=offset))
    await until(lambda: len(got) >= count)
    return got


async def test_close_all_connections_ends_every_link_and_loses_no_confirmed_record(
    own_node: PrivateNode, name: Names
) -> None:
    async with links_to(own_node.url, 3) as links:
        await links[0].declare_queue(name("log"), durable=True, arguments=STREAM)
        futures: dict[bytes, asyncio.Future[bool]] = {}
        closing = asyncio.ensure_future(
            asyncio.to_thread(own_node.ctl, "close_all_connections", "fault test")
        )
        while not all(link.closed.done() for link in links):
            for link in links:
                body = b"%d" % len(futures)
                futures[body] = link.publish("", name("log"), body, mandatory=True)
            await asyncio.sleep(0.002)
        await closing
        await asyncio.wait(futures.values())
        for link in links:
            with pytest.raises(BrokerLostError, match="fault test"):
                await link.closed
    async with links_to(own_node.url, 1) as (link,):
        confirmed = {body for body, future in futures.items() if future.exception() is None}
        assert confirmed  # all of them, when the last confirms overtook the end
        records = await log_of(link, name("log"), len(confirmed))
        assert confirmed <= set(bodies(records))


async def test_kill_stop_and_wipe(own_node: PrivateNode, name: Names) -> None:
    async with links_to(own_node.url, 1) as (link,):
        await link.declare_queue(name("log"), durable=True, arguments=STREAM)
        for number in range(20):
            assert await done(link.publish("", name("log"), b"%d" % number, mandatory=True))
        # RabbitMQ 3.10 killed within a second of making its very first stream never finds a leader
        # for it again (its own register of such leaders is not written yet): not what is meant.
        await asyncio.sleep(2)
        await asyncio.to_thread(own_node.kill)
        await asyncio.wait_for(asyncio.wait([link.closed]), 2)
        assert isinstance(link.closed.exception(), BrokerLostError)
    with pytest.raises(BrokerUnreachableError, match="refused"):
        await open_link(own_node.url, name="too early")

    await asyncio.to_thread(own_node.start)
    async with links_to(own_node.url, 1) as (link,):
        await again(lambda: link.declare_queue(name("log"), durable=True, arguments=STREAM))
        records = await log_of(link, name("log"), 20)
        assert bodies(records) == [b"%d" % number for number in range(20)]
        await asyncio.to_thread(own_node.stop)
        await asyncio.wait_for(asyncio.wait([link.closed]), 2)
        with pytest.raises(BrokerLostError):
            await link.closed

    own_node.wipe()
    await asyncio.to_thread(own_node.start)
    async with links_to(own_node.url, 1) as (link,):
        with pytest.raises(QueueGoneError):
            await link.declare_queue(name("log"), passive=True)


FROZEN = """
import asyncio, sys, time
from worker.broker.rabbit import open_link

async def main(url):
    link = await open_link(url, name="frozen")
    await link.declare_queue("frozen", auto_delete=True)
    print("ready", flush=True)
    try:
        while True:
            await link.publish("", "frozen", b"")
            await asyncio.sleep(0.02)
    except Exception as error:
        print(type(error).__name__, link.closed.done(), flush=True)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_process_that_was_frozen_past_the_heartbeat_hears_at_once_that_it_lost_its_link(
    own_node: PrivateNode,
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FROZEN,
        own_node.url,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while "frozen" in await asyncio.to_thread(
            own_node.ctl, "-q", "list_connections", "name", "client_properties"
        ):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.5)
        woken = time.monotonic()
        process.send_signal(signal.SIGCONT)
        assert await process.stdout.readline() == b"BrokerLostError True\n"
        assert time.monotonic() - woken < 1
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.chaos
async def test_a_broker_that_is_silent_is_given_up_by_heartbeat(
    own_node: PrivateNode, name: Names
) -> None:
    async with proxy_to(own_node.url) as proxy, links_to(proxy.url, 1) as (link,):
        await link.declare_queue(name("q"), exclusive=True)
        proxy.freeze()
        started = time.monotonic()
        await asyncio.wait_for(asyncio.wait([link.closed]), 30)
        assert isinstance(link.closed.exception(), BrokerLostError)
        assert time.monotonic() - started < 25


@pytest.mark.chaos
async def test_of_three_nodes_each_may_die_and_the_next_takes_the_link(
    own_cluster: PrivateCluster, name: Names
) -> None:
    stream, sent = name("log"), 0
    for node in own_cluster.nodes:
        link = await open_link(own_cluster.url, name="cluster test")
        await again(partial(link.declare_queue, stream, durable=True, arguments=STREAM))
        for _ in range(20):
            assert await done(link.publish("", stream, b"%d" % sent, mandatory=True))
            sent += 1
        await asyncio.sleep(2)
        await asyncio.to_thread(node.kill)
        await link.close()
        async with links_to(own_cluster.url, 1) as (link,):
            records = await log_of(link, stream, sent)
            assert bodies(records)[-1] == b"%d" % (sent - 1)
        await asyncio.to_thread(node.start)
