"""The in-memory adapter of the port, for tests and for the demo where RabbitMQ is not at hand.

It keeps RabbitMQ's rules where the worker depends on them (the contract suite holds both adapters
to the same cases): order, returns, redelivery, prefetch, exclusive and auto-delete queues, streams
with offsets, passive declares, conflicts. Nothing is kept on disk, so "durable" only has to agree.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

from ..errors import BrokerConflictError, BrokerError, BrokerLostError, QueueGoneError
from .channel import forget
from .decoding import text_values, timestamp_ms
from .frames import SHORT_STR_MAX
from .memory_queues import Consumer, Exchange, Message, Queue, make_queue
from .port import Delivery, Link, OnDelivery

SERVER_VERSION = (3, 10, 0)
"""What it claims to be: a broker with streams."""


class MemoryBroker:
    """Exchanges, queues and streams that live as long as this object. One event loop only."""

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, Queue] = {}
        self._links: list[MemoryLink] = []

    async def open_link(self, *, name: str = "") -> Link:
        """A new connection; ``name`` is for whoever looks."""
        await asyncio.sleep(0)
        link = MemoryLink(self, name)
        self._links.append(link)
        return link

    @property
    def link_names(self) -> list[str]:
        """Who is connected."""
        return [link.name for link in self._links]

    def break_all_links(self, reason: str = "connection closed by the test") -> None:
        """Every link is lost, as when the broker closes all connections."""
        for link in list(self._links):
            link.lose(BrokerLostError(reason))

    def wipe(self) -> None:
        """The broker comes back empty: links lost, every exchange, queue and stream gone."""
        self.break_all_links("the broker was wiped")
        self.exchanges.clear()
        self.queues.clear()

    def forget_link(self, link: MemoryLink) -> None:
        """Its exclusive queues go with it."""
        self._links.remove(link)
        for queue in [queue for queue in self.queues.values() if queue.owner is link]:
            self.delete_queue(queue.name)

    def delete_queue(self, name: str) -> None:
        """Remove a queue and its bindings."""
        self.queues.pop(name, None)
        for exchange in self.exchanges.values():
            for binding in [each for each in exchange.bindings if each[0] == name]:
                del exchange.bindings[binding]

    def queue(self, name: str, asker: MemoryLink) -> Queue:
        """Raises QueueGoneError, or BrokerConflictError when it is another link's own."""
        queue = self.queues.get(name)
        if queue is None:
            raise QueueGoneError(f"404 NOT_FOUND - no queue {name!r}")
        if queue.owner is not None and queue.owner is not asker:
            raise BrokerConflictError(f"405 RESOURCE_LOCKED - queue {name!r} is another link's")
        return queue

    def exchange(self, name: str) -> Exchange:
        """Raises QueueGoneError."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise QueueGoneError(f"404 NOT_FOUND - no exchange {name!r}")
        return exchange

    def route(self, exchange: str, delivery: Delivery) -> bool:
        """Put the message into its queues; whether there was one. Raises QueueGoneError."""
        key = delivery.routing_key
        names = self.exchange(exchange).queues_of(key) if exchange else [key]
        queues = [self.queues[name] for name in names if name in self.queues]
        for queue in queues:
            queue.add(delivery)
        return bool(queues)


class MemoryLink:
    """One connection to a `MemoryBroker`; see `port.Link`."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.closed.add_done_callback(forget)
        self.server_version: tuple[int, ...] = SERVER_VERSION
        self.name = name
        self._broker = broker
        self._tags = itertools.count(1)
        self._consumers: dict[str, tuple[Queue, Consumer]] = {}
        self._unconfirmed: dict[asyncio.Future[bool], None] = {}

    async def declare_exchange(
        self, name: str, kind: str, *, durable: bool = False, auto_delete: bool = False
    ) -> None:
        """Declare; raises BrokerConflictError when it exists with other flags."""
        await self._turn()
        flags = (kind, durable, auto_delete)
        exchange = self._broker.exchanges.get(name)
        if exchange is None:
            self._broker.exchanges[name] = Exchange(kind, flags)
        elif exchange.flags != flags:
            raise BrokerConflictError(f"406 PRECONDITION_FAILED - exchange {name!r} differs")

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
        """Declare; raises QueueGoneError (passive and absent) or BrokerConflictError."""
        await self._turn()
        if passive or name in self._broker.queues:
            queue = self._broker.queue(name, self)
            flags = (durable, exclusive, auto_delete, dict(arguments or {}))
            if not passive and queue.flags != flags:
                raise BrokerConflictError(f"406 PRECONDITION_FAILED - queue {name!r} differs")
            return
        self._broker.queues[name] = make_queue(
            name,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=dict(arguments or {}),
            owner=self,
        )

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind; raises QueueGoneError when the queue or the exchange does not exist."""
        await self._turn()
        self._broker.queue(queue, self)
        self._broker.exchange(exchange).bindings[queue, key] = None

    def bind_in_order(self, queue: str, exchange: str, key: str) -> None:
        """Bind before anything published later is routed; see `port.Link.bind_in_order`."""
        found = self._broker.exchanges.get(exchange)
        if found is None or queue not in self._broker.queues:
            self.lose(BrokerLostError(f"no exchange {exchange!r} or queue {queue!r}"))
        else:
            found.bindings[queue, key] = None

    async def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Remove a binding; one that does not exist is no error."""
        await self._turn()
        found = self._broker.exchanges.get(exchange)
        if found is not None:
            found.bindings.pop((queue, key), None)

    async def delete_queue(self, name: str) -> None:
        """Remove a queue or stream and what is in it; one that does not exist is no error."""
        await self._turn()
        self._broker.delete_queue(name)

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        no_ack: bool = False,
        prefetch: int = 0,
        arguments: Mapping[str, object] | None = None,
    ) -> str:
        """Start a consumer; raises QueueGoneError, BrokerConflictError, BrokerError."""
        await self._turn()
        found = self._broker.queue(queue, self)
        tag = f"memory.{next(self._tags)}"
        consumer = Consumer(tag=tag, on_delivery=on_delivery, no_ack=no_ack, prefetch=prefetch)
        self._consumers[tag] = (found, consumer)
        try:
            found.attach(consumer, arguments or {})
        except BrokerError as error:
            self.lose(BrokerLostError(str(error)))  # as RabbitMQ: the whole connection
            raise
        return tag

    async def cancel(self, consumer: str) -> None:
        """Stop a consumer; what it had not acknowledged goes back to the queue."""
        await asyncio.sleep(0)
        if consumer in self._consumers:
            self._detach(consumer)

    def ack(self, consumer: str, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge; nothing happens once the consumer or the link is gone."""
        self._settle(consumer, tag, multiple)

    def requeue(self, consumer: str, tag: int) -> None:
        """Give a message back. For a stream the link is lost, as RabbitMQ does."""
        queue, messages = self._settle(consumer, tag, False)
        if queue is not None:
            try:
                queue.give_back(messages)
            except BrokerError as error:
                self.lose(BrokerLostError(str(error)))

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
        """Send; see `port.Link.publish`."""
        confirm: asyncio.Future[bool] = self._loop.create_future()
        confirm.add_done_callback(forget)
        if self.closed.done():
            confirm.set_exception(self._lost_error())
            return confirm
        if max(len(exchange.encode()), len(routing_key.encode())) > SHORT_STR_MAX:
            confirm.set_exception(BrokerError(f"message to {exchange!r} cannot be sent: too long"))
            return confirm
        delivery = Delivery(
            queue="",
            exchange=exchange,
            routing_key=routing_key,
            body=bytes(body),
            content_type=content_type,
            sent_at_ms=None if timestamp is None else timestamp_ms(timestamp),
            headers={key: text_values(value) for key, value in (headers or {}).items()},
        )
        self._unconfirmed[confirm] = None
        try:
            routed = self._broker.route(exchange, delivery)
        except QueueGoneError as error:
            self.lose(BrokerLostError(str(error)))
            return confirm
        self._loop.call_soon(self._confirm, confirm, routed or not mandatory)
        return confirm

    async def close(self) -> None:
        """Give unacknowledged messages back and end."""
        await asyncio.sleep(0)
        self._end(None)

    def lose(self, error: BrokerLostError) -> None:
        """The link dies, as if the connection broke."""
        self._end(error)

    def _end(self, error: BrokerLostError | None) -> None:
        if self.closed.done():
            return
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)
        for tag in list(self._consumers):
            self._detach(tag)
        self._broker.forget_link(self)
        for confirm in self._unconfirmed:
            if not confirm.done():
                confirm.set_exception(error or BrokerLostError("the link was closed"))
        self._unconfirmed.clear()

    def _detach(self, tag: str) -> None:
        queue, consumer = self._consumers.pop(tag)
        if consumer in queue.consumers:
            queue.detach(consumer)
        consumer.active = False
        if queue.auto_delete and not queue.consumers:
            self._broker.delete_queue(queue.name)

    def _settle(
        self, tag: str, delivery_tag: int, multiple: bool
    ) -> tuple[Queue | None, list[Message]]:
        queue, consumer = self._consumers.get(tag, (None, None))
        if queue is None or consumer is None:
            return None, []
        messages = consumer.settle(delivery_tag, multiple)
        if messages is None:
            self.lose(BrokerLostError(f"406 PRECONDITION_FAILED - unknown tag {delivery_tag}"))
            return None, []
        self._loop.call_soon(queue.pump)
        return queue, messages

    def _confirm(self, confirm: asyncio.Future[bool], result: bool) -> None:
        self._unconfirmed.pop(confirm, None)
        if not confirm.done():
            confirm.set_result(result)

    def _lost_error(self) -> BrokerLostError:
        error = self.closed.exception()
        return error if isinstance(error, BrokerLostError) else BrokerLostError("link closed")

    async def _turn(self) -> None:
        """An answer takes at least a turn of the loop. Raises BrokerLostError."""
        await asyncio.sleep(0)
        if self.closed.done():
            raise self._lost_error()
