"""What is said again on the next connection, and what is not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from worker.broker.port import Link
from worker.engine.ops import Publish
from worker.errors import BrokerError, BrokerLostError
from worker.kapi.exchanges import Exchange
from worker.parking.events import App
from worker.parking.model import SessionId
from worker.run.outbox import COMMAND_KEEP_MS, KEPT_MAX, Outbox

HOLD = Publish(
    exchange=Exchange.CALLCTL,
    routing_key="ctl",
    payload={"Application-Name": "hold"},
    session=SessionId("s"),
    app=App.HOLD,
)
BRIDGE = Publish(
    exchange=Exchange.CALLCTL, routing_key="ctl", payload={}, session=SessionId("s"), app=App.BRIDGE
)
RESULT = Publish(
    exchange=Exchange.TARGETED,
    routing_key="q",
    payload={"Event-Name": "action.result"},
    session=SessionId("s"),
)
LAMP = Publish(exchange=Exchange.PRESENCE, routing_key="dialog.r.c", payload={})
PARKED = Publish(exchange=Exchange.CALLEVT, routing_key="k", payload={"Parking-Slot": "101"})


class Wire:
    """A link that only publishes; the test says what becomes of each message."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.confirms: list[asyncio.Future[bool]] = []

    def publish(self, _exchange: str, key: str, _body: bytes, **_how: Any) -> asyncio.Future[bool]:
        self.keys.append(key)
        self.confirms.append(asyncio.get_running_loop().create_future())
        return self.confirms[-1]

    def link(self) -> Link:
        return cast("Link", self)


class Desk:
    """An outbox and a clock."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.returned: list[Publish] = []
        self.outbox = Outbox(now_ms=lambda: self.now_ms, on_returned=self.returned.append)

    def attach(self) -> Wire:
        wire = Wire()
        self.outbox.attach(wire.link(), lambda _op: True)
        return wire

    async def fail(self, wire: Wire, error: BrokerError) -> None:
        self.outbox.detach()
        for confirm in wire.confirms:
            if not confirm.done():
                confirm.set_exception(error)
        await asyncio.sleep(0)


async def test_what_was_not_confirmed_is_said_again_in_order() -> None:
    desk = Desk()
    wire = desk.attach()
    for op in (RESULT, HOLD, LAMP, PARKED):
        desk.outbox.send(op)
    await desk.fail(wire, BrokerLostError("gone"))
    desk.outbox.send(RESULT)
    assert desk.attach().keys == ["q", "ctl", "k", "q"]
    assert not desk.returned


async def test_a_command_is_not_said_late_nor_a_bridge_twice() -> None:
    desk = Desk()
    wire = desk.attach()
    desk.outbox.send(BRIDGE)
    await desk.fail(wire, BrokerLostError("gone"))
    desk.outbox.send(HOLD)
    desk.now_ms += COMMAND_KEEP_MS
    assert desk.attach().keys == []


async def test_a_message_that_no_link_can_take_is_tried_once() -> None:
    desk = Desk()
    wire = desk.attach()
    desk.outbox.send(HOLD)
    wire.confirms[0].set_exception(BrokerError("header too long"))
    await asyncio.sleep(0)
    assert desk.returned == [HOLD]
    desk.outbox.detach()
    assert desk.attach().keys == []


async def test_what_is_kept_is_bounded() -> None:
    desk = Desk()
    for _ in range(KEPT_MAX + 5):
        desk.outbox.send(RESULT)
    assert len(desk.attach().keys) == KEPT_MAX


async def test_draining_ends_with_the_last_confirm() -> None:
    desk = Desk()
    wire = desk.attach()
    desk.outbox.send(RESULT)
    draining = asyncio.ensure_future(desk.outbox.drain(5))
    await asyncio.sleep(0)
    assert not draining.done()
    wire.confirms[0].set_result(True)
    await asyncio.wait_for(draining, 1)
