"""Parks and retrieves on a real broker, beside plain aio-pika in the same run.

Run: python -m benchmarks.park [--parks 600] [--rounds 3] [--workers 1,2,3] [--json]

A private RabbitMQ, real ``python -m worker run`` processes and a load peer (`benchmarks.load`)
share the machine. The floor is aio-pika's publish and consume of one message of 2 KB. Rounds of the
floor and of each number of workers take turns; the median round counts.
``hold`` is the time from publishing the execute until the hold command is consumed. The ratios
matter: absolute figures depend on the machine. The last rows have 1,000 calls parked in one account
while more are parked there (the reference took 52 ms for each).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.load import LoadCall, LoadPeer, in_flight
from worker.broker.private_node import PrivateNode
from worker.broker.rabbit import open_link

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = (1, 8, 64)
CROWD = 1_000
TICKS = os.sysconf("SC_CLK_TCK")
READY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement: latencies in milliseconds, CPU in microseconds per operation."""

    what: str
    workers: int
    window: int
    p50_ms: float
    p99_ms: float
    per_s: float
    worker_cpu_us: float = 0.0
    """Of all workers together."""
    broker_cpu_us: float = 0.0


# ---- processes ---------------------------------------------------------------------------------


@contextlib.contextmanager
def broker() -> Iterator[PrivateNode]:
    with tempfile.TemporaryDirectory(prefix="kzpark-bench-") as folder:
        node = PrivateNode(Path(folder))
        try:
            node.start()
            yield node
        finally:
            node.close()


@contextlib.contextmanager
def workers(url: str, count: int, *, profile: str = "") -> Iterator[list[int]]:
    """Process ids of ``count`` workers that consume, in a zone of their own."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("KZPARK_")
    } | {"KZPARK_AMQP_URL": url, "KZPARK_PREFIX": f"b{secrets.token_hex(4)}"}
    command = [sys.executable, "-m", "worker", "run"]
    if profile:
        command = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "worker", "run"]
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="kzpark-bench-log-") as folder:
        try:
            for number in range(count):
                # A file: a thread of ours that reads a pipe would take part in the measurement.
                with Path(folder, f"{number}.log").open("wb") as stderr:
                    started.append(
                        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stderr)
                    )
            for number in range(count):
                _await_ready(Path(folder, f"{number}.log"))
            yield [process.pid for process in started]
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(30)


def _await_ready(log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while b'"event":"ready"' not in log.read_bytes():
        if time.monotonic() > deadline:
            raise RuntimeError(f"a worker did not get ready: {log.read_text()[-400:]}")
        time.sleep(0.05)


def cpu_s(pid: int) -> float:
    """User and system time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def group_cpu_s(leader: int | None) -> float:
    """The same for a process group: RabbitMQ and its helpers."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader:
                total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


# ---- measurements ------------------------------------------------------------------------------


async def floor(url: str, window: int, count: int) -> Row:
    """Plain aio-pika: publish with confirm to a queue, consume it in the same process."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=500)
        queue = await channel.declare_queue(exclusive=True)
        arrived: dict[bytes, asyncio.Future[None]] = {}

        async def consume(message: AbstractIncomingMessage) -> None:
            arrived.pop(message.body[:8]).set_result(None)

        await queue.consume(consume, no_ack=True)
        latencies: list[float] = []
        padding = b"x" * 2_000

        async def one(number: int) -> None:
            body = b"%08d" % number + padding
            here = arrived[body[:8]] = asyncio.get_running_loop().create_future()
            began = time.perf_counter()
            await channel.default_exchange.publish(
                aio_pika.Message(body, content_type="application/json"), queue.name
            )
            await here
            latencies.append(time.perf_counter() - began)

        took_s = await in_flight(window, count, one)
    return _row("aio-pika round trip", 0, window, latencies, count / took_s)


def _row(what: str, count: int, window: int, latencies: list[float], per_s: float) -> Row:
    ordered = sorted(latencies)
    return Row(
        what=what,
        workers=count,
        window=window,
        p50_ms=statistics.median(ordered) * 1000,
        p99_ms=ordered[int(len(ordered) * 0.99)] * 1000,
        per_s=per_s,
    )


class Measured:
    """One number of workers under load."""

    def __init__(self, peer: LoadPeer, pids: list[int], node: PrivateNode) -> None:
        self.peer = peer
        self.pids = pids
        self.node = node

    def _cpu(self) -> tuple[float, float]:
        return sum(cpu_s(pid) for pid in self.pids), group_cpu_s(self.node.pid)

    async def parks(self, what: str, window: int, count: int, account: str) -> Row:
        """Automatic slots in one account; afterwards all hang up."""
        calls: list[LoadCall] = []

        async def one(_number: int) -> None:
            calls.append(await self.peer.park(account))

        before = self._cpu()
        took_s = await in_flight(window, count, one)
        after = self._cpu()
        await in_flight(32, count, lambda number: self.peer.hang_up(calls[number]))
        latencies = [call.held_at - call.sent_at for call in calls]
        row = _row(what, len(self.pids), window, latencies, count / took_s)
        return _with_cpu(row, before, after, count)

    async def cycles(self, window: int, count: int, account: str) -> Row:
        """Park, then retrieve."""
        latencies: list[float] = []

        async def one(_number: int) -> None:
            began = time.perf_counter()
            call = await self.peer.park(account)
            await call.announced.wait()
            await self.peer.retrieve(call)
            latencies.append(time.perf_counter() - began)

        before = self._cpu()
        took_s = await in_flight(window, count, one)
        after = self._cpu()
        row = _row("park + retrieve", len(self.pids), window, latencies, count / took_s)
        return _with_cpu(row, before, after, count)

    async def crowded(self, count: int) -> Row:
        """Parks one after another in an account that has `CROWD` parked calls."""
        account = secrets.token_hex(16)
        crowd: list[LoadCall] = []

        async def fill(_number: int) -> None:
            crowd.append(await self.peer.park(account))

        await in_flight(32, CROWD, fill)
        row = await self.parks(f"park beside {CROWD}", 1, count, account)
        await in_flight(32, CROWD, lambda number: self.peer.hang_up(crowd[number]))
        return row


def _with_cpu(row: Row, before: tuple[float, float], after: tuple[float, float], count: int) -> Row:
    worker_s, broker_s = (new - old for old, new in zip(before, after, strict=True))
    return Row(
        **{
            **asdict(row),
            "worker_cpu_us": worker_s / count * 1e6,
            "broker_cpu_us": broker_s / count * 1e6,
        }
    )


async def one_round(node: PrivateNode, counts: list[int], parks: int) -> list[Row]:
    rows = [await floor(node.url, window, max(parks, 400)) for window in WINDOWS]
    for count in counts:
        with workers(node.url, count) as pids:
            link = await open_link(node.url, name="load")
            measured = Measured(await LoadPeer.open(link), pids, node)
            account = secrets.token_hex(16)
            await measured.parks("warm-up", 8, 100, account)
            for window in WINDOWS:
                rows.append(await measured.parks("park", window, parks, account))
            for window in WINDOWS:
                rows.append(await measured.cycles(window, parks // 2, account))
            rows.append(await measured.crowded(parks // 4))
            await link.close()
    return rows


async def profiled(node: PrivateNode, parks: int, output: str) -> None:
    with workers(node.url, 1, profile=output) as _:
        link = await open_link(node.url, name="load")
        measured = Measured(await LoadPeer.open(link), [], node)
        await measured.parks("park", 8, parks, secrets.token_hex(16))
        await measured.cycles(8, parks, secrets.token_hex(16))
        await link.close()


# ---- report ------------------------------------------------------------------------------------


def medians(rounds: list[list[Row]]) -> list[Row]:
    """Field by field, of the same row in each round."""
    result = []
    for same in zip(*rounds, strict=True):
        first = asdict(same[0])
        values = {
            name: statistics.median(getattr(row, name) for row in same)
            for name, value in first.items()
            if isinstance(value, float)
        }
        result.append(Row(**{**first, **values}))
    return result


def table(rows: list[Row]) -> str:
    floors: Mapping[int, Row] = {row.window: row for row in rows if row.workers == 0}
    lines = [
        "| what | workers | in flight | p50 ms | p99 ms | per second | p50 : floor | "
        "rate : floor | worker CPU us | broker CPU us |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = floors[row.window]
        lines.append(
            f"| {row.what} | {row.workers or '-'} | {row.window} | {row.p50_ms:.2f} | "
            f"{row.p99_ms:.2f} | {row.per_s:.0f} | {row.p50_ms / base.p50_ms:.1f} | "
            f"{row.per_s / base.per_s:.2f} | {row.worker_cpu_us:.0f} | {row.broker_cpu_us:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Print the table, or with ``--json`` one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parks", type=int, default=600, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="1,2,3", help="numbers of workers, by commas")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--profile", metavar="FILE", help="only run one worker under cProfile")
    options = parser.parse_args()
    counts = [int(number) for number in options.workers.split(",")]

    async def measure(node: PrivateNode) -> list[Row]:
        rounds = []
        for number in range(options.rounds):
            rounds.append(await one_round(node, counts, options.parks))
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
        return medians(rounds)

    with broker() as node:
        if options.profile:
            uvloop.run(profiled(node, options.parks, options.profile))
            return 0
        rows = uvloop.run(measure(node))
    print(json.dumps([asdict(row) for row in rows]) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
