"""The broker as the worker sees it: a port with two adapters, RabbitMQ and in-memory.

A `Link` is one live connection. It does not reconnect: when it is lost, `closed` says why and every
call raises BrokerLostError; the caller opens a new link and declares its topology again
(Kazoo's exchanges are not durable, contract §1.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One consumed message.

    ``sent_at_ms``: the AMQP timestamp as Unix milliseconds (Kazoo's gregorian microseconds
    converted, contract §1.3), None when absent or senseless. Header values that are byte arrays
    arrive as str. ``consumer`` and ``tag`` are what `Link.ack` wants.
    """

    queue: str
    exchange: str
    routing_key: str
    body: bytes
    consumer: str = ""
    tag: int = 0
    redelivered: bool = False
    content_type: str = ""
    sent_at_ms: int | None = None
    headers: Mapping[str, object] = field(default_factory=dict)


OnDelivery = Callable[[Delivery], None]
"""Called in delivery order, synchronously. An exception is logged and swallowed."""


class Link(Protocol):
    """One live connection to the broker."""

    closed: asyncio.Future[None]
    """Done when the connection is lost or closed; the exception, if any, says why."""
    server_version: tuple[int, ...]

    async def declare_exchange(
        self, name: str, kind: str, *, durable: bool = False, auto_delete: bool = False
    ) -> None: ...

    async def declare_queue(
        self,
        name: str,
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        """Raises QueueGoneError (passive and absent) or BrokerConflictError (other arguments).

        Plain BrokerError means it exists but has no leader at the moment: try again soon."""

    async def bind(self, queue: str, exchange: str, key: str) -> None: ...

    def bind_in_order(self, queue: str, exchange: str, key: str) -> None:
        """Bind without waiting: whatever is published later is routed with the binding in place
        (both travel on the publishing channel). A bind that fails ends the link."""

    async def unbind(self, queue: str, exchange: str, key: str) -> None: ...

    async def delete_queue(self, name: str) -> None:
        """Remove a queue or stream and what is in it; one that does not exist is no error."""

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        no_ack: bool = False,
        prefetch: int = 0,
        arguments: Mapping[str, object] | None = None,
    ) -> str:
        """Start a consumer on a channel of its own; returns its tag. A stream needs prefetch and
        acks, and ``{"x-stream-offset": n | "first" | "last" | "next"}``; the offset of a delivery
        is in its headers."""

    async def cancel(self, consumer: str) -> None: ...

    def ack(self, consumer: str, tag: int, *, multiple: bool = False) -> None: ...

    def requeue(self, consumer: str, tag: int) -> None:
        """Give a work message back. Never for a stream."""

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, object] | None = None,
        mandatory: bool = False,
        persistent: bool = False,
        content_type: str = "application/json",
        timestamp: int | None = None,
    ) -> asyncio.Future[bool]:
        """Send in call order on the link's one publishing channel.

        The future is True when the broker confirmed it, False when it was returned as unroutable
        (``mandatory``) or refused by the broker, and raises BrokerLostError when the link died
        first, BrokerError when the message cannot be sent at all (a routing key over 255 bytes, a
        header without AMQP type). Never raises itself; a future nobody awaits is no warning.
        ``timestamp`` is the AMQP property as the raw 64-bit number (Kazoo: gregorian us)."""

    async def close(self) -> None: ...
