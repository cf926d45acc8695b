"""Publish, confirm and consume one message: our link beside plain aio-pika, in the same run.

Run: python -m benchmarks.link [--messages 1500] [--rounds 3] [--json]

The broker is ``KZPARK_AMQP_URL``, else the one on localhost:5672. The two take turns, round after
round, and the median round counts; compare the ratios, the absolute numbers depend on the machine.
``cpu`` is what the Python process spends per message, ``p50``/``p99`` the time from the publish
until the message is consumed, ``window`` how many are under way at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from worker.broker.port import Delivery
from worker.broker.rabbit import open_link

DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
WINDOWS = (1, 100)
BODY = b"x" * 400

Publish = Callable[[bytes], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One round of one client."""

    cpu_us: float
    wall_us: float
    p50_us: float
    p99_us: float


class Arrivals:
    """When each message was sent and consumed; its body begins with its number."""

    def __init__(self, count: int) -> None:
        self.sent = [0.0] * count
        self.latencies: list[float] = []
        self.all_here = asyncio.Event()

    def take(self, body: bytes) -> None:
        number = int(body[:8])
        self.latencies.append(time.perf_counter() - self.sent[number])
        if len(self.latencies) == len(self.sent):
            self.all_here.set()


class PlainAioPika:
    """What one writes after reading aio-pika's documentation."""

    name = "aio-pika"

    def __init__(self, url: str) -> None:
        self._url = url
        self.on_body: Callable[[bytes], None] = lambda _: None

    async def __aenter__(self) -> PlainAioPika:
        self._connection = await aio_pika.connect(self._url)
        self._channel = await self._connection.channel(publisher_confirms=True)
        self._queue_name = f"kzpark-bench.{secrets.token_hex(4)}"
        consuming = await self._connection.channel()
        await consuming.set_qos(prefetch_count=500)
        queue = await consuming.declare_queue(self._queue_name, exclusive=True)
        await queue.consume(self._take)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.on_body(message.body)
        await message.ack()

    async def publish(self, body: bytes) -> object:
        return await self._channel.default_exchange.publish(
            aio_pika.Message(body, content_type="application/json"),
            self._queue_name,
            mandatory=True,
        )


class OurLink:
    """The worker's own adapter."""

    name = "kzpark link"

    def __init__(self, url: str) -> None:
        self._url = url
        self.on_body: Callable[[bytes], None] = lambda _: None

    async def __aenter__(self) -> OurLink:
        self._link = await open_link(self._url, name="kzpark benchmark")
        self._queue_name = f"kzpark-bench.{secrets.token_hex(4)}"
        await self._link.declare_queue(self._queue_name, exclusive=True)
        await self._link.consume(self._queue_name, self._take, prefetch=500)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._link.close()

    def _take(self, delivery: Delivery) -> None:
        self.on_body(delivery.body)
        self._link.ack(delivery.consumer, delivery.tag)

    def publish(self, body: bytes) -> Awaitable[object]:
        return self._link.publish("", self._queue_name, body, mandatory=True)


async def one_round(client: PlainAioPika | OurLink, messages: int, window: int) -> Figures:
    """Send ``messages``, ``window`` at a time, and wait until all are confirmed and consumed."""
    arrivals = Arrivals(messages)
    client.on_body = arrivals.take
    cpu, wall = time.process_time(), time.perf_counter()
    for start in range(0, messages, window):
        batch = range(start, min(start + window, messages))
        await asyncio.gather(*[send(client.publish, arrivals, number) for number in batch])
    await arrivals.all_here.wait()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    latencies = sorted(arrivals.latencies)
    return Figures(
        cpu_us=cpu * 1e6 / messages,
        wall_us=wall * 1e6 / messages,
        p50_us=latencies[messages // 2] * 1e6,
        p99_us=latencies[messages * 99 // 100] * 1e6,
    )


def send(publish: Publish, arrivals: Arrivals, number: int) -> Awaitable[object]:
    """Publish message ``number`` and note the time."""
    arrivals.sent[number] = time.perf_counter()
    return publish(b"%08d" % number + BODY)


async def measure(url: str, messages: int, rounds: int) -> dict[int, dict[str, Figures]]:
    """The median round of each client, per window."""
    async with PlainAioPika(url) as plain, OurLink(url) as ours:
        found: dict[int, dict[str, Figures]] = {}
        for window in WINDOWS:
            results: dict[str, list[Figures]] = {plain.name: [], ours.name: []}
            for _ in range(rounds):
                for client in (plain, ours):
                    results[client.name].append(await one_round(client, messages, window))
            found[window] = {name: median(figures) for name, figures in results.items()}
    return found


def median(rounds: list[Figures]) -> Figures:
    """Each figure's median."""
    columns = [asdict(figures) for figures in rounds]
    return Figures(**{name: statistics.median(row[name] for row in columns) for name in columns[0]})


def show(found: dict[int, dict[str, Figures]]) -> None:
    """A table, the ratio to aio-pika in brackets."""
    print(f"{'window':>6}  {'client':<12}{'cpu us':>16}{'wall us':>16}{'p50 us':>16}{'p99 us':>16}")
    for window, clients in found.items():
        floor = asdict(clients[PlainAioPika.name])
        for name, figures in clients.items():
            cells = "".join(
                f"{value:>9.0f} ({value / floor[key]:.2f})"
                for key, value in asdict(figures).items()
            )
            print(f"{window:>6}  {name:<12}{cells}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    url = os.environ.get("KZPARK_AMQP_URL") or DEFAULT_URL
    found = asyncio.run(measure(url, options.messages, options.rounds))
    if options.json:
        rows = {
            str(window): {name: asdict(figures) for name, figures in clients.items()}
            for window, clients in found.items()
        }
        print(json.dumps(rows))
    else:
        show(found)


if __name__ == "__main__":
    main()
