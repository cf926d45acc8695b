"""The two streams, slot log and snapshots: their names and arguments, and looking into them.

The arguments and the order of steps come from measurements (docs/replication.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from worker.broker.port import Delivery, Link
from worker.errors import MalformedMessageError, QueueGoneError
from worker.parking.model import WorkerId
from worker.replica.codec import Snapshot, decode_snapshot

MIB = 2**20
LOG_ARGUMENTS: Mapping[str, object] = {
    "x-queue-type": "stream",
    "x-max-length-bytes": 64 * MIB,
    "x-stream-max-segment-size-bytes": 4 * MIB,
}
"""By bytes only: by age, one segment roll after a quiet night would drop live calls' claims."""
SNAPSHOT_ARGUMENTS: Mapping[str, object] = {
    "x-queue-type": "stream",
    "x-max-length-bytes": 8 * MIB,
    "x-stream-max-segment-size-bytes": 1 * MIB,
}
LOG_PREFETCH = 500
PEEK_PREFETCH = 100
PEEK_FIRST_S = 0.3
"""A stream has no end marker: an empty one is known by its silence."""
PEEK_MORE_S = 0.05
PEEK_MOST = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Of the log, the snapshots and the workers' inboxes."""

    log: str
    snapshots: str
    inbox_prefix: str

    @classmethod
    def of(cls, prefix: str) -> Names:
        return cls(log=f"{prefix}.log", snapshots=f"{prefix}.snap", inbox_prefix=f"{prefix}.inbox.")

    def inbox(self, worker: WorkerId) -> str:
        """The exclusive queue whose absence proves the worker's connection is gone."""
        return f"{self.inbox_prefix}{worker}"


def offset_of(delivery: Delivery) -> int:
    """A record's place in its stream."""
    offset = delivery.headers.get("x-stream-offset")
    if not isinstance(offset, int):
        raise MalformedMessageError("a delivery without an offset")
    return offset


async def ensure(link: Link, name: str, arguments: Mapping[str, object]) -> bool:
    """Declare the stream when it is not there; returns whether it had to be."""
    try:
        await link.declare_queue(name, durable=True, passive=True)
    except QueueGoneError:
        await link.declare_queue(name, durable=True, arguments=arguments)
        return True
    return False


async def peek(link: Link, name: str, enough: int | None = None) -> list[Delivery]:
    """The last records of a stream (from the start of its last chunk); none when it is empty.

    Ends when the stream falls silent, or with a record at offset ``enough`` or beyond."""
    found: list[Delivery] = []
    more = asyncio.Event()

    def take(delivery: Delivery) -> None:
        found.append(delivery)
        more.set()

    consumer = await link.consume(
        name, take, prefetch=PEEK_PREFETCH, arguments={"x-stream-offset": "last"}
    )
    try:
        patience_s = PEEK_FIRST_S
        while len(found) < PEEK_MOST:
            async with asyncio.timeout(patience_s):
                await more.wait()
            more.clear()
            link.ack(consumer, found[-1].tag, multiple=True)
            if enough is not None and offset_of(found[-1]) >= enough:
                break
            patience_s = PEEK_MORE_S
    except TimeoutError:
        pass
    finally:
        if not link.closed.done():
            await link.cancel(consumer)
    return found


async def newest_snapshot(link: Link, name: str) -> Snapshot | None:
    """The snapshot with the highest offset among the last ones; junk is passed over."""
    newest: Snapshot | None = None
    for delivery in await peek(link, name):
        try:
            snapshot = decode_snapshot(delivery.body)
        except MalformedMessageError:
            continue
        if newest is None or snapshot.at > newest.at:
            newest = snapshot
    return newest
