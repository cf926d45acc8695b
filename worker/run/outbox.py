"""Publishing what the engine wants said, across the loss of a connection.

What must not be lost (results, commands, park events) is kept while there is no connection, or
when the connection died before the broker confirmed it, and sent again on the next one - unless by
then the session belongs to another worker, who says it himself. A repeated message carries the
same Msg-ID. Lamps and questions are not kept: the engine asks and asserts anew after a reconnect.

A result that comes back as unroutable is said again for a while: after a broker restart Kazoo's
queues exist only once Kazoo is back, and a lost result leaves its caller waiting for ever
(contract §2.5).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from worker.broker.port import Link
from worker.engine.ops import DeadLetter, Publish
from worker.errors import BrokerLostError
from worker.kapi import envelope
from worker.kapi.exchanges import Exchange
from worker.parking.events import App

COMMAND_KEEP_MS = 10_000
"""A command older than this is not sent any more: its session has asked the switch since."""
RESULT_KEEP_MS = 60_000
RESULT_AGAIN_S = 1.0
"""Before the first repetition of a returned result; each further wait is twice as long."""
NOT_TWICE = frozenset({App.BRIDGE, App.PICKUP})
"""Not sent again when unconfirmed: the broker may have had them, and a parker must not be rung, nor
a parkee picked up, twice. Their sessions ask the switch and have a timer."""
KEPT_MAX = 10_000
DIGEST_HEADERS_MAX = 255


class Outbox:
    """In order, on the link there is."""

    def __init__(
        self, *, now_ms: Callable[[], int], on_returned: Callable[[Publish], None]
    ) -> None:
        self._now_ms = now_ms
        self._on_returned = on_returned
        self._still_ours: Callable[[Publish], bool] = lambda _op: True
        self._link: Link | None = None
        self._kept: deque[tuple[int, Publish]] = deque(maxlen=KEPT_MAX)
        self._open: set[asyncio.Future[bool]] = set()

    def attach(self, link: Link, still_ours: Callable[[Publish], bool]) -> None:
        """Send what was kept, then go on with this link."""
        self._link, self._still_ours = link, still_ours
        kept, self._kept = self._kept, deque(maxlen=KEPT_MAX)
        now_ms = self._now_ms()
        for at_ms, op in kept:
            fresh = op.exchange is not Exchange.CALLCTL or now_ms - at_ms < COMMAND_KEEP_MS
            if fresh and still_ours(op):
                self._send(link, op, at_ms)

    def detach(self) -> None:
        self._link = None

    def send(self, op: Publish) -> None:
        now_ms = self._now_ms()
        if self._link is None:
            self._keep(op, now_ms)
        else:
            self._send(self._link, op, now_ms)

    def dead_letter(self, op: DeadLetter, queue: str) -> None:
        """Put an unusable message where an operator finds it, with reason and origin."""
        if self._link is None:
            return
        future = self._link.publish(
            "",
            queue,
            op.body,
            headers={
                "x-kzpark-reason": op.reason[:DIGEST_HEADERS_MAX],
                "x-kzpark-pointer": op.pointer[:DIGEST_HEADERS_MAX],
                "x-kzpark-exchange": op.exchange[:DIGEST_HEADERS_MAX],
                "x-kzpark-routing-key": op.routing_key[:DIGEST_HEADERS_MAX],
            },
            persistent=True,
        )
        self._follow(future)

    async def drain(self, timeout_s: float) -> None:
        """Wait until the broker has confirmed what was sent."""
        if self._open:
            await asyncio.wait(set(self._open), timeout=timeout_s)

    def _send(self, link: Link, op: Publish, at_ms: int) -> None:
        future = link.publish(
            op.exchange.value,
            op.routing_key,
            envelope.encode(op.payload),
            headers=op.headers,
            mandatory=op.mandatory,
        )
        self._follow(future)
        future.add_done_callback(lambda done: self._sent(done, op, at_ms))

    def _follow(self, future: asyncio.Future[bool]) -> None:
        self._open.add(future)
        future.add_done_callback(self._open.discard)

    def _sent(self, done: asyncio.Future[bool], op: Publish, at_ms: int) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            if not done.result():
                self._on_returned(op)
                self._say_later(op, at_ms)
        elif not isinstance(error, BrokerLostError):
            self._on_returned(op)  # no link can take it: it must not be tried on each new one
        elif op.app not in NOT_TWICE:
            self._keep(op, at_ms)

    def _say_later(self, op: Publish, at_ms: int) -> None:
        waited_ms = self._now_ms() - at_ms
        if op.payload.get("Event-Name") == "action.result" and waited_ms < RESULT_KEEP_MS:
            delay_s = max(waited_ms / 1000, RESULT_AGAIN_S)
            asyncio.get_running_loop().call_later(delay_s, self._say_again, op, at_ms)

    def _say_again(self, op: Publish, at_ms: int) -> None:
        if self._link is None:
            self._keep(op, at_ms)
        elif self._still_ours(op):
            self._send(self._link, op, at_ms)

    def _keep(self, op: Publish, at_ms: int) -> None:
        is_park_event = op.exchange is Exchange.CALLEVT and "Parking-Slot" in op.payload
        if op.session is not None or is_park_event:
            self._kept.append((at_ms, op))
