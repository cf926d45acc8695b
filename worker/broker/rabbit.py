"""The RabbitMQ adapter of the port: `open_link`.

aio-pika opens the connection; the channels on it are ours (`channel`), because the stock ones cost
most of the worker's CPU. One channel publishes (order is kept per channel only), one declares and
binds and is opened again when the broker closes it, each consumer has its own (its own prefetch).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Final

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractConnection as WireConnection
from pamqp import commands as spec
from pamqp.base import Frame
from pamqp.frame import marshal

from ..errors import BrokerError, BrokerLostError, BrokerUnreachableError
from .channel import Channel, Outbox, forget
from .confirms import Confirms
from .decoding import harden_pamqp
from .endpoint import connect, connected, in_turn, server_version, wire_of
from .frames import ack_frame, publish_frames, requeue_frame
from .inbox import Inbox
from .port import Link, OnDelivery

log = logging.getLogger(__name__)

CALL_TIMEOUT_S: Final = 10.0
"""For one declare, bind or consume. A stream's coordinator may take seconds in a cluster."""
CLOSE_TIMEOUT_S: Final = 2.0


async def open_link(url: str, *, name: str, timeout_s: float = 3.0) -> Link:
    """Connect to the first host of ``url`` (a comma-separated list) that answers.

    ``name`` is shown in the broker's list of connections. ``timeout_s`` holds for each host.
    Raises BrokerUnreachableError (one line; with several hosts the reason of each),
    BrokerTooOldError, UsageError.
    """
    harden_pamqp()
    reasons: list[str] = []
    for index, host in in_turn(url):
        try:
            link = await _open(await connect(host, name=name, timeout_s=timeout_s), timeout_s)
        except BrokerUnreachableError as error:
            reasons.append(str(error))
        else:
            connected(url, index)
            return link
    raise BrokerUnreachableError("cannot reach the broker at " + "; ".join(reasons))


async def _open(connection: AbstractConnection, timeout_s: float) -> Link:
    try:
        wire = wire_of(connection)
        link = RabbitLink(connection, wire, server_version(wire))
        await link.start(timeout_s)
    except BaseException:
        await _close_quietly(connection)
        raise
    return link


async def _close_quietly(connection: AbstractConnection) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()
    except Exception as error:
        log.debug("closing a connection: %r", error)


class RabbitLink:
    """One live connection to RabbitMQ; see `port.Link`. Made by `open_link`."""

    def __init__(
        self, connection: AbstractConnection, wire: WireConnection, version: tuple[int, ...]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.closed.add_done_callback(forget)
        self.server_version = version
        self._connection = connection
        self._wire = wire
        self._frame_max = int(wire.connection_tune.frame_max or 0)
        self._outbox = Outbox(wire)
        self._confirms = Confirms(self._loop)
        self._id_prefix = secrets.token_hex(8)
        self._sequence = 0
        self._consumers: dict[str, Channel] = {}
        self._control: Channel | None = None
        self._control_turn = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._publisher = Channel(
            wire,
            self._outbox,
            on_closed=self._lose,
            on_return=self._confirms.returned,
            on_confirm=self._confirms.settle,
        )
        wire.closing.add_done_callback(self._on_connection_closed)
        # The reader ends first; waiting for the connection's whole clean-up would be late news.
        reader = getattr(wire, "_reader_task", None)
        if reader is not None:
            reader.add_done_callback(self._on_connection_closed)

    async def start(self, timeout_s: float) -> None:
        """Open the publishing channel. Raises BrokerError."""
        await self._answers(
            timeout_s,
            self._publisher.call(spec.Channel.Open()),
            self._publisher.call(spec.Confirm.Select()),
        )

    # topology

    async def declare_exchange(
        self, name: str, kind: str, *, durable: bool = False, auto_delete: bool = False
    ) -> None:
        """Declare; raises BrokerConflictError when it exists with other flags."""
        await self._ask(
            spec.Exchange.Declare(
                exchange=name,
                exchange_type=kind,
                passive=False,
                durable=durable,
                auto_delete=auto_delete,
                internal=False,
                nowait=False,
                arguments={},
            )
        )

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
        await self._ask(
            spec.Queue.Declare(
                queue=name,
                passive=passive,
                durable=durable,
                exclusive=exclusive,
                auto_delete=auto_delete,
                nowait=False,
                arguments=dict(arguments or {}),  # type: ignore[arg-type]
            )
        )

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind; raises QueueGoneError when the queue or the exchange does not exist."""
        await self._ask(
            spec.Queue.Bind(
                queue=queue, exchange=exchange, routing_key=key, nowait=False, arguments={}
            )
        )

    def bind_in_order(self, queue: str, exchange: str, key: str) -> None:
        """Bind before anything published later is routed; see `port.Link.bind_in_order`."""
        if self.closed.done():
            return
        bind = spec.Queue.Bind(
            queue=queue, exchange=exchange, routing_key=key, nowait=True, arguments={}
        )
        self._publisher.send(marshal(bind, self._publisher.number))

    async def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Remove a binding; one that does not exist is no error."""
        await self._ask(
            spec.Queue.Unbind(queue=queue, exchange=exchange, routing_key=key, arguments={})
        )

    async def delete_queue(self, name: str) -> None:
        """Remove a queue or stream and what is in it; one that does not exist is no error."""
        await self._ask(
            spec.Queue.Delete(queue=name, if_unused=False, if_empty=False, nowait=False)
        )

    # consuming

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
        self._check_open()
        self._sequence += 1
        tag = f"kzpark.{self._sequence}"
        inbox = Inbox(queue, tag, on_delivery)
        channel = Channel(self._wire, self._outbox, on_closed=self._lose, on_message=inbox.take)
        requests: list[Frame] = [spec.Channel.Open()]
        if prefetch:
            requests.append(spec.Basic.Qos(prefetch_count=prefetch))
        requests.append(
            spec.Basic.Consume(
                queue=queue,
                consumer_tag=tag,
                no_ack=no_ack,
                arguments=dict(arguments or {}),  # type: ignore[arg-type]
            )
        )
        self._consumers[tag] = channel
        try:
            await self._answers(CALL_TIMEOUT_S, *[channel.call(request) for request in requests])
        except BaseException:
            self._consumers.pop(tag, None)
            inbox.stop()
            channel.close()
            raise
        # Not before the caller knows the tag: it may want it in its first delivery.
        self._loop.call_soon(inbox.open)
        return tag

    async def cancel(self, consumer: str) -> None:
        """Stop a consumer; what it had not acknowledged goes back to the queue."""
        channel = self._consumers.pop(consumer, None)
        if channel is None:
            return
        channel.mute()
        with contextlib.suppress(BrokerError):  # closed by the broker at the same moment
            await self._answers(CALL_TIMEOUT_S, channel.close())

    def ack(self, consumer: str, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge; nothing happens once the consumer or the link is gone."""
        channel = self._consumers.get(consumer)
        if channel is not None:
            channel.send(ack_frame(channel.number, tag, multiple))

    def requeue(self, consumer: str, tag: int) -> None:
        """Give a message back. Never for a stream: the broker would close the connection."""
        channel = self._consumers.get(consumer)
        if channel is not None:
            channel.send(requeue_frame(channel.number, tag))

    # publishing

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
        if self.closed.done():
            return self._failed(self._lost_error())
        self._sequence += 1
        message_id = f"{self._id_prefix}{self._sequence:x}"
        try:
            data = publish_frames(
                self._publisher.number,
                self._frame_max,
                exchange,
                routing_key,
                body,
                headers=headers,
                mandatory=mandatory,
                persistent=persistent,
                content_type=content_type,
                message_id=message_id,
                timestamp=timestamp,
            )
        except (ValueError, TypeError, AttributeError) as error:
            return self._failed(BrokerError(f"message to {exchange!r} cannot be sent: {error}"))
        future = self._confirms.add(message_id if mandatory else "")
        self._publisher.send(data)
        return future

    # the end

    async def close(self) -> None:
        """Let the broker answer what was sent, give work back and end.

        Takes at most twice CLOSE_TIMEOUT_S, whatever the broker does.
        """
        if self._ending is None:
            self._ending = self._loop.create_task(self._close_gently())
        await asyncio.shield(self._ending)

    async def _close_gently(self) -> None:
        # A socket closed with unread answers in it is reset, and takes what was sent along.
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for channel in self._consumers.values():
                    channel.mute()
                answers: list[asyncio.Future[Any]] = [
                    channel.close() for channel in self._consumers.values()
                ]
                await self._outbox.flushed()
                answers += self._confirms.pending
                if answers:
                    await asyncio.wait(answers)
        except TimeoutError:
            log.debug("the broker does not answer: closing anyway")
        self._end(None)
        await _close_quietly(self._connection)

    def _lose(self, error: BrokerError) -> None:
        """Something is wrong that only a new link can repair."""
        if self.closed.done():
            return
        self._end(error if isinstance(error, BrokerLostError) else BrokerLostError(str(error)))
        if self._ending is None:
            self._ending = self._loop.create_task(_close_quietly(self._connection))

    def _end(self, error: BrokerLostError | None) -> None:
        if self.closed.done():
            return
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)
        reason = error or BrokerLostError("the link was closed")
        self._outbox.drop()
        self._confirms.fail(reason)
        for channel in (self._publisher, self._control, *self._consumers.values()):
            if channel is not None:
                channel.fail(reason)
        self._consumers.clear()

    def _on_connection_closed(self, ended: asyncio.Future[Any]) -> None:
        cause = None if ended.cancelled() else ended.exception()
        text = " ".join(str(part) for part in getattr(cause, "args", ()) if part is not None)
        self._lose(BrokerLostError(f"connection lost: {text or 'closed by the broker'}"))

    def _lost_error(self) -> BrokerLostError:
        error = None if self.closed.cancelled() else self.closed.exception()
        return error if isinstance(error, BrokerLostError) else BrokerLostError("link closed")

    def _check_open(self) -> None:
        if self.closed.done():
            raise self._lost_error()

    def _failed(self, error: BrokerError) -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self._loop.create_future()
        future.set_exception(error)
        forget(future)
        return future

    # calls

    async def _ask(self, request: Frame) -> None:
        """One request on the control channel, which is opened when it is not."""
        self._check_open()
        async with self._control_turn:
            self._check_open()
            pending: list[asyncio.Future[Frame]] = []
            if self._control is None or not self._control.is_open:
                self._control = Channel(self._wire, self._outbox, on_closed=_only_control)
                pending.append(self._control.call(spec.Channel.Open()))
            pending.append(self._control.call(request))
            try:
                await self._answers(CALL_TIMEOUT_S, *pending)
            except BaseException:
                # Given up half-way: its answer must not meet the next request.
                self._control.close()
                self._control = None
                raise

    async def _answers(self, timeout_s: float, *pending: asyncio.Future[Frame]) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                for answer in pending:
                    await answer
        except TimeoutError as error:
            lost = BrokerLostError(f"no answer from the broker in {timeout_s:g} s")
            self._lose(lost)
            raise lost from error


def _only_control(error: BrokerError) -> None:
    log.debug("control channel closed: %s", error)
