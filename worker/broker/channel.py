"""One AMQP channel on an aiormq connection, without a queue, task or future per frame.

aiormq's own channel costs two queues, one reader task and one task per delivery; measured, that is
most of the worker's CPU. Its *connection* is fine: handshake, TLS, heartbeats, closing. So a
`Channel` of ours sits in the connection's channel table instead of one of aiormq's. This touches
exactly four of its attributes, the same in aiormq 6.8 and 7.2:

* ``connection.channels``: number -> object whose ``frames.put((weight, frame))`` the reader awaits
  for each frame; the reader takes the number out when the channel is closed by either side;
* ``connection.write_queue``: takes `ChannelFrame` objects, whose ``payload`` the writer sends;
* ``connection.connection_tune``: the frame size;
* ``connection.closing`` (in `rabbit`): the future that ends with the connection.

All methods run on the event loop's thread, and the reader's ``put`` never suspends, so deliveries
reach their callback in order and synchronously.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import pamqp.frame
from aiormq.abc import AbstractConnection, ChannelFrame
from pamqp import commands as spec
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from ..errors import BrokerConflictError, BrokerError, BrokerLostError, QueueGoneError

log = logging.getLogger(__name__)

_NOT_FOUND: Final = 404
_CONFLICTS: Final = (405, 406)
_NOT_YET: Final = ("down or inaccessible", "does not have a replica on the local node")
"""A durable queue or stream whose leader is not up (yet): it exists, so it is neither gone nor in
conflict, whatever the code says. Seen for a second or so after a broker's restart."""

OnMessage = Callable[[spec.Basic.Deliver, ContentHeader, bytes], None]
OnReturn = Callable[[str], None]
OnConfirm = Callable[[int, bool, bool], None]
OnClosed = Callable[[BrokerError], None]


def forget(future: asyncio.Future[Any]) -> None:
    """Mark a failed future as looked at: nobody has to await it."""
    if not future.cancelled():
        future.exception()


def error_of_close(code: int, text: str) -> BrokerError:
    """The broker's reason for closing a channel as one of our errors."""
    reason = f"{code} {text}".strip()
    if any(words in text for words in _NOT_YET):
        return BrokerError(reason)
    if code == _NOT_FOUND:
        return QueueGoneError(reason)
    if code in _CONFLICTS:
        return BrokerConflictError(reason)
    return BrokerError(reason)


class Outbox:
    """Bytes for the connection's writer, joined to one write per turn of the event loop.

    The outbox itself stands in the writer's queue, in place of a `ChannelFrame`: when its turn
    comes the writer reads ``payload`` and gets everything that was sent until then.
    """

    should_close: Final = False
    should_drain: Final = False

    def __init__(self, connection: AbstractConnection) -> None:
        self._queue = connection.write_queue
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._queued = False
        self._waiting: asyncio.Task[None] | None = None

    def send(self, data: bytes) -> None:
        """Queue ``data``; it leaves in call order."""
        self._pieces.append(data)
        if self._queued:
            return
        self._queued = True
        try:
            self._queue.put_nowait(self)
        except asyncio.QueueFull:
            self._waiting = self._loop.create_task(self._queue.put(self))

    @property
    def payload(self) -> bytes:
        """Taken by the writer."""
        self._queued = False
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def drain(self) -> None:
        """Called by the writer when it waited for the socket, which we never ask for."""

    async def flushed(self) -> None:
        """Wait until everything so far is in the socket's hands."""
        if self._waiting is not None:
            await asyncio.wait([self._waiting])
        written: asyncio.Future[None] = self._loop.create_future()
        await self._queue.put(ChannelFrame(b"", should_close=False, drain_future=written))
        await written

    def drop(self) -> None:
        """The connection is gone: nothing more can leave."""
        self._pieces.clear()
        if self._waiting is not None:
            self._waiting.cancel()


class Channel:
    """An AMQP channel: calls with answers, and callbacks for what comes unasked."""

    def __init__(
        self,
        connection: AbstractConnection,
        outbox: Outbox,
        *,
        on_closed: OnClosed,
        on_message: OnMessage | None = None,
        on_return: OnReturn | None = None,
        on_confirm: OnConfirm | None = None,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._on_closed = on_closed
        self._on_message = on_message
        self._on_return = on_return
        self._on_confirm = on_confirm
        self._answers: deque[asyncio.Future[Frame]] = deque()
        self._content: _Content | None = None
        self._error: BrokerError | None = None
        self._closing = False
        self.frames = self  # the reader calls channel.frames.put
        self.number = _free_number(connection)
        connection.channels[self.number] = self  # type: ignore[assignment]

    @property
    def is_open(self) -> bool:
        return self._error is None and not self._closing

    def call(self, request: Frame) -> asyncio.Future[Frame]:
        """Send ``request`` and give the future of its answer; calls may be pipelined.

        The future fails with the broker's reason when it closes the channel instead.
        """
        answer: asyncio.Future[Frame] = self._loop.create_future()
        answer.add_done_callback(forget)
        if not self.is_open:
            answer.set_exception(self._error or BrokerLostError("the channel is closed"))
            return answer
        try:
            data = pamqp.frame.marshal(request, self.number)
        except (ValueError, TypeError, OverflowError) as error:
            answer.set_exception(BrokerError(f"{request.name} cannot be sent: {error}"))
            return answer
        self._answers.append(answer)
        self._outbox.send(data)
        return answer

    def send(self, data: bytes) -> None:
        """Send frames that have no answer."""
        if self.is_open:
            self._outbox.send(data)

    def mute(self) -> None:
        """Deliver nothing more."""
        self._on_message = None

    def close(self) -> asyncio.Future[Frame]:
        """Close; nobody has to wait. The number is free again once the broker agreed."""
        answer = self.call(
            spec.Channel.Close(reply_code=200, reply_text="", class_id=0, method_id=0)
        )
        self._closing = True
        return answer

    def fail(self, error: BrokerError) -> None:
        """The connection is gone, or the broker closed the channel."""
        if self._error is not None:
            return
        self._error = error
        answers, self._answers = self._answers, deque()
        for answer in answers:
            if not answer.done():
                answer.set_exception(error)

    # what aiormq's reader calls

    async def put(self, item: tuple[int, object]) -> None:
        """A frame for this channel arrived. Never raises: the reader would die of it."""
        try:
            self._take(item[1])
        except Exception:
            log.exception("frame on channel %d", self.number)
            self._on_closed(BrokerLostError(f"channel {self.number}: a frame out of order"))

    def _take(self, frame: object) -> None:
        content = self._content
        if content is not None and content.feed(frame):
            if content.missing == 0:
                self._content = None
                self._finish(content)
        elif isinstance(frame, spec.Basic.Deliver | spec.Basic.Return):
            self._content = _Content(frame)
        elif isinstance(frame, spec.Basic.Ack):
            self._confirmed(frame.delivery_tag, frame.multiple, True)
        elif isinstance(frame, spec.Basic.Nack):
            self._confirmed(frame.delivery_tag, frame.multiple, False)
        elif isinstance(frame, spec.Basic.Cancel):
            self._on_closed(BrokerLostError("the broker cancelled a consumer: its queue is gone"))
        elif isinstance(frame, spec.Channel.Close):
            self._closed_by_broker(frame)
        elif isinstance(frame, Frame) and self._answers:
            self._answer(frame)
        else:
            log.warning("channel %d: unexpected %r", self.number, frame)

    def _confirmed(self, tag: int | None, multiple: bool, ok: bool) -> None:
        if self._on_confirm is not None:
            self._on_confirm(tag or 0, multiple, ok)

    def _answer(self, frame: Frame) -> None:
        answer = self._answers.popleft()
        if not answer.done():
            answer.set_result(frame)

    def _finish(self, content: _Content) -> None:
        frame, header = content.method, content.header
        if header is None:
            return
        if isinstance(frame, spec.Basic.Return):
            if self._on_return is not None:
                self._on_return(header.properties.message_id or "")
        elif self._on_message is not None:
            self._on_message(frame, header, content.body())

    def _closed_by_broker(self, frame: spec.Channel.Close) -> None:
        self._outbox.send(pamqp.frame.marshal(spec.Channel.CloseOk(), self.number))
        error = error_of_close(frame.reply_code or 0, frame.reply_text or "")
        asked = any(not answer.done() for answer in self._answers)
        self.fail(error)
        if not asked and not self._closing:
            self._on_closed(error)  # nobody is waiting who would hear of it


class _Content:
    """A message on its way in: method, then header, then body frames."""

    __slots__ = ("_parts", "header", "method", "missing")

    def __init__(self, method: spec.Basic.Deliver | spec.Basic.Return) -> None:
        self.method = method
        self.header: ContentHeader | None = None
        self.missing = -1
        self._parts: list[bytes] = []

    def feed(self, frame: object) -> bool:
        """Take ``frame`` if it belongs to this message."""
        if isinstance(frame, ContentHeader):
            self.header = frame
            self.missing = frame.body_size
            return True
        if isinstance(frame, ContentBody):
            self._parts.append(frame.value)
            self.missing -= len(frame.value)
            return True
        return False

    def body(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


def _free_number(connection: AbstractConnection) -> int:
    channels = connection.channels
    limit = connection.connection_tune.channel_max or 0xFFFF
    for number in range(1, limit + 1):
        if channels.get(number) is None:
            return number
    raise BrokerError(f"all {limit} channels of the connection are in use")
