"""What the switch's shell must do on any broker: the same cases in memory and on RabbitMQ."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from worker.broker.port import Delivery, Link
from worker.switch import REALM, CallPlan, FlowResult, NotSeenError, SimCall, Switch

OpenLink = Callable[[], Awaitable[Link]]
TRANSFER = "g2QACHRyYW5zZmVy"


class ScriptedWorker:
    """Consumes executes and sends what the case tells it to."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.executes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.deliveries: list[Delivery] = []

    async def start(self, queue: str = "work") -> None:
        await self.link.declare_queue(queue, exclusive=True)
        await self.link.bind(queue, "kapps", "callflow.action.park")
        await self.link.consume(queue, self._delivered, no_ack=True)

    def _delivered(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.executes.put_nowait(json.loads(delivery.body))

    def send(
        self, exchange: str, address: str, payload: Mapping[str, object], *, pid: bool = True
    ) -> None:
        number, _, queue = address.removeprefix("pid://").rpartition("/")
        body = {"App-Name": "w", "App-Version": "1", "Msg-ID": "m", "Node": "w@h", **payload}
        headers = {"Deliver-To-PID": number} if pid else None
        self.link.publish(exchange, queue, json.dumps(body).encode(), headers=headers)

    def command(self, execute: dict[str, Any], name: str, *, pid: bool = True) -> None:
        payload = {
            "Event-Category": "call",
            "Event-Name": "command",
            "Application-Name": name,
            "Call-ID": execute["Call-ID"],
            "Insert-At": "now",
        }
        self.send("callctl", execute["Call"]["Control-Queue"], payload, pid=pid)

    def result(self, execute: dict[str, Any], term: str) -> None:
        payload = {
            "Event-Category": "callflow",
            "Event-Name": "action.result",
            "Msg-ID": execute["Msg-ID"],
            "Call-ID": execute["Call-ID"],
            "Result": term,
        }
        self.send("targeted", execute["Server-ID"], payload)


async def a_call_is_held_and_its_flow_gets_the_result(open_link: OpenLink) -> None:
    async with Switch(await open_link()) as switch:
        worker = ScriptedWorker(await open_link())
        await worker.start()
        call = await switch.place_call(CallPlan(number="*3101"))
        execute = await asyncio.wait_for(worker.executes.get(), 5)
        assert worker.deliveries[0].sent_at_ms is not None
        worker.command(execute, "hold")
        await call.wait_for("hold")
        assert call.hears == "hold"
        worker.result(execute, TRANSFER)
        assert await call.wait_result() == FlowResult(verdict="transfer")
        call.hangup()
        await call.wait_for("CHANNEL_DESTROY")
        assert not call.alive
        await _close(switch, worker)


async def an_unroutable_execute_leaves_the_caller_hanging(open_link: OpenLink) -> None:
    async with Switch(await open_link()) as switch:
        call = await switch.place_call(CallPlan(number="*3101"))
        await switch.wait_until(lambda: call.ended == "unroutable", 5, "the return")
        assert call.alive
        await switch.link.close()


async def a_command_without_a_pid_is_dropped(open_link: OpenLink) -> None:
    async with Switch(await open_link()) as switch:
        worker = ScriptedWorker(await open_link())
        await worker.start()
        call = await switch.place_call(CallPlan(number="*3101"))
        worker.command(await asyncio.wait_for(worker.executes.get(), 5), "hold", pid=False)
        await switch.wait_until(lambda: bool(switch.dropped), 5, "a dropped command")
        assert call.hears == ""
        assert switch.dropped[0].dropped == "no Deliver-To-PID header"
        await _close(switch, worker)


async def a_dialog_update_lights_the_lamp(open_link: OpenLink) -> None:
    async with Switch(await open_link()) as switch:
        worker = ScriptedWorker(await open_link())
        update = {
            "Event-Category": "presence",
            "Event-Name": "dialog_update",
            "From": f"sip:*3101@{REALM}",
            "From-User": "*3101",
            "From-Realm": REALM,
            "To": f"1001@{REALM}",
            "State": "early",
            "Call-ID": "p@h",
            "Expires": 60,
        }
        worker.send("presence", "dialog.realm.call", update, pid=False)
        await switch.wait_lamp(f"*3101@{REALM}", "early")
        assert switch.lamps == {f"*3101@{REALM}": "early"}
        await _close(switch, worker)


async def calls_live_on_over_a_new_link(open_link: OpenLink) -> None:
    async with Switch(await open_link()) as switch:
        worker = ScriptedWorker(await open_link())
        await worker.start()
        call = await switch.place_call(CallPlan(number="*3101"))
        execute = await asyncio.wait_for(worker.executes.get(), 5)
        await switch.link.close()
        await switch.attach(await open_link())
        worker.command(execute, "hold")
        await call.wait_for("hold")
        await _close(switch, worker)


async def what_does_not_happen_is_said_in_words(open_link: OpenLink) -> None:
    async with Switch(await open_link()) as switch:
        worker = ScriptedWorker(await open_link())
        await worker.start()
        call: SimCall = await switch.place_call(CallPlan(number="*3101"))
        with pytest.raises(NotSeenError, match=r"not seen within 0\.05 s: hold of"):
            await call.wait_for("hold", 0.05)
        await _close(switch, worker)


async def _close(switch: Switch, worker: ScriptedWorker) -> None:
    await worker.link.close()
    await switch.link.close()


CASES: dict[str, Callable[[OpenLink], Awaitable[None]]] = {
    case.__name__: case
    for case in (
        a_call_is_held_and_its_flow_gets_the_result,
        an_unroutable_execute_leaves_the_caller_hanging,
        a_command_without_a_pid_is_dropped,
        a_dialog_update_lights_the_lamp,
        calls_live_on_over_a_new_link,
        what_does_not_happen_is_said_in_words,
    )
}
