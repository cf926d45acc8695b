"""Everything the worker declares on the broker, again after every connect (contract §1.1, §2.6).

The names of our own queues are derived from a prefix, ``kzpark`` unless set otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.broker.port import Link
from worker.kapi import keys
from worker.kapi.exchanges import EXCHANGE_TYPES, Exchange
from worker.parking.model import WorkerId

DEAD_LETTERS_MAX = 10_000
DEAD_LETTERS_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """Our own queues."""

    work: str
    """Executes: durable, shared by all workers, there even when no worker is."""
    dead: str
    """Messages nobody could use, with the reason in their headers."""
    inbox: str
    """This worker's own: replies, call events, probes. Gone with its connection."""
    work_key: str = keys.WORK
    """Which executes are ours (contract §2.2)."""

    @classmethod
    def of(cls, prefix: str, worker: WorkerId, *, module: str = "park") -> Queues:
        return cls(
            work=f"{prefix}.work",
            dead=f"{prefix}.dead",
            inbox=f"{prefix}.inbox.{worker}",
            work_key=f"{keys.WORK_PREFIX}{module}",
        )


INBOX_BINDINGS: tuple[tuple[Exchange, str], ...] = (
    (Exchange.PRESENCE, keys.PROBES),
    (Exchange.PRESENCE, keys.PRESENCE_RESETS),
    (Exchange.NODES, keys.NODES),
    (Exchange.CONFIGURATION, keys.PARKING_CONFIG_CHANGES),
    (Exchange.CONFIGURATION, keys.MEDIA_CONFIG_CHANGES),
)


async def declare(link: Link, queues: Queues) -> None:
    """Kazoo's exchanges with its exact flags, then our queues and bindings.

    Raises BrokerConflictError when something exists with other arguments, BrokerLostError.
    """
    for exchange, kind in EXCHANGE_TYPES.items():
        await link.declare_exchange(exchange.value, kind)
    await link.declare_queue(
        queues.dead,
        durable=True,
        arguments={
            "x-max-length": DEAD_LETTERS_MAX,
            "x-max-length-bytes": DEAD_LETTERS_MAX_BYTES,
        },
    )
    await link.declare_queue(queues.work, durable=True)
    await link.bind(queues.work, Exchange.KAPPS.value, queues.work_key)
    await link.declare_queue(queues.inbox, exclusive=True, auto_delete=True)
    await link.bind(queues.inbox, Exchange.TARGETED.value, queues.inbox)
    for exchange, key in INBOX_BINDINGS:
        await link.bind(queues.inbox, exchange.value, key)
