"""A switch for load: executes out, commands in, as few instructions as possible in between.

It answers what a worker waits for (channel status, a pickup's events) and nothing else; it runs on
one `worker.broker` link in a process of its own, so that what is measured is the worker. Not a
check of anything: tests/acceptance does that.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from worker.broker.port import Delivery, Link

EXCHANGES = {
    "kapps": "topic",
    "targeted": "direct",
    "callctl": "direct",
    "callevt": "topic",
    "presence": "topic",
    "sysconf": "topic",
    "configuration": "topic",
    "registrar": "topic",
    "nodes": "fanout",
}
GREGORIAN_EPOCH_S = 62_167_219_200
LONG_MS = 3_600_000
PATIENCE_S = 60.0


@dataclass(slots=True, eq=False)
class LoadCall:
    """One call at its park node. Times are ``time.perf_counter()``."""

    name: str
    account: str
    data: dict[str, object]
    referred: bool
    sent_at: float = 0.0
    held_at: float = 0.0
    slot: str = ""
    result: str = ""
    step: asyncio.Future[str] | None = None
    """Done with the next of: ``hold``, ``call_pickup``, ``result``."""
    announced: asyncio.Event = field(default_factory=asyncio.Event)
    """PARK_PARKED has told the slot."""

    @property
    def call_id(self) -> str:
        return f"{self.name}@10.0.0.9"


class LoadPeer:
    """Use `open`; then `park`, `retrieve` and `hang_up`."""

    def __init__(self, link: Link) -> None:
        tag = secrets.token_hex(4)
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._control = f"load_ctl_{tag}"
        self._events = f"load_evt_{tag}"
        self._tag = tag
        self._numbers = itertools.count(1)
        self.calls: dict[str, LoadCall] = {}
        self.received = 0

    @classmethod
    async def open(cls, link: Link) -> LoadPeer:
        peer = cls(link)
        for name, kind in EXCHANGES.items():
            await link.declare_exchange(name, kind)
        for queue in (peer._control, peer._events):
            await link.declare_queue(queue, auto_delete=True)
        for exchange in ("callctl", "targeted"):
            await link.bind(peer._control, exchange, peer._control)
        for exchange, key in (
            ("callevt", "call.status_req.*"),
            ("callevt", "call.PARK_PARKED.*"),
            ("callevt", "call.PARK_ABANDONED.*"),
            ("presence", "dialog.*.*"),
            ("sysconf", "sysconf.get"),
        ):
            await link.bind(peer._events, exchange, key)
        await link.consume(peer._control, peer._commanded, no_ack=True)
        await link.consume(peer._events, peer._heard, no_ack=True)
        return peer

    # ---- what a caller does

    def place(
        self, data: dict[str, object], *, account: str, number: str, referred: bool
    ) -> tuple[LoadCall, asyncio.Future[str]]:
        """A call reaches its node now; the future is its first step."""
        call = LoadCall(f"l{next(self._numbers)}-{self._tag}", account, data, referred)
        self.calls[call.call_id] = call
        step = call.step = self._loop.create_future()
        body = orjson.dumps(self._execute(call, number))
        call.sent_at = time.perf_counter()
        stamp = GREGORIAN_EPOCH_S * 1_000_000 + time.time_ns() // 1000
        self._link.publish("kapps", "callflow.action.park", body, timestamp=stamp)
        return call, step

    async def park(self, account: str, slot: str = "", **data: object) -> LoadCall:
        """Until the hold command; `held_at - sent_at` is how long it took."""
        wanted: dict[str, object] = {
            "action": "park",
            "default_ringback_timeout": LONG_MS,
            **({"slot": slot} if slot else {}),
            **data,
        }
        call, step = self.place(wanted, account=account, number="*4", referred=True)
        async with asyncio.timeout(PATIENCE_S):
            told = await step
        if told != "hold":
            raise RuntimeError(f"{call.call_id}: {told} {call.result}")
        return call

    async def retrieve(self, parkee: LoadCall) -> LoadCall:
        """Until the retriever's result."""
        data: dict[str, object] = {"action": "retrieve", "slot": parkee.slot}
        call, step = self.place(
            data, account=parkee.account, number=f"5{parkee.slot}", referred=False
        )
        async with asyncio.timeout(PATIENCE_S):
            told = await step
            if told != "call_pickup":
                raise RuntimeError(f"{call.call_id}: {told} {call.result}")
            call.step = self._loop.create_future()
            self._picked_up(call, parkee)
            await call.step
        del self.calls[call.call_id]
        self.calls.pop(parkee.call_id, None)
        return call

    async def hang_up(self, call: LoadCall) -> None:
        """Until the call's result."""
        call.step = self._loop.create_future()
        self._event(call, "CHANNEL_DESTROY", {"Hangup-Cause": "NORMAL_CLEARING"})
        async with asyncio.timeout(PATIENCE_S):
            await call.step
        self.calls.pop(call.call_id, None)

    def _picked_up(self, call: LoadCall, parkee: LoadCall) -> None:
        """A pickup that succeeds, in the order of contract §4.9."""
        self._event(call, "CHANNEL_ANSWER", {})
        self._event(parkee, "CHANNEL_INTERCEPTED", {"Intercepted-By": call.call_id})
        self._event(parkee, "CHANNEL_EXECUTE_COMPLETE", {"Application-Name": "hold"})
        self._event(call, "CHANNEL_BRIDGE", {"Other-Leg-Call-ID": parkee.call_id})
        self._event(parkee, "CHANNEL_BRIDGE", {"Other-Leg-Call-ID": call.call_id})

    # ---- what arrives

    def _commanded(self, delivery: Delivery) -> None:
        """Commands and results: the addressee is in the payload."""
        self.received += 1
        payload = orjson.loads(delivery.body)
        call = self.calls.get(payload["Call-ID"])
        if call is None:
            return
        name = payload.get("Application-Name")
        if name == "hold":
            call.held_at = time.perf_counter()
            self._step(call, "hold")
        elif name is not None:
            self._step(call, name)
        elif payload["Event-Name"] == "action.result":
            call.result = payload["Result"]
            self._step(call, "result")

    @staticmethod
    def _step(call: LoadCall, name: str) -> None:
        step = call.step
        if step is not None and not step.done():
            step.set_result(name)

    def _heard(self, delivery: Delivery) -> None:
        self.received += 1
        key = delivery.routing_key
        if key.startswith("call.status_req."):
            asked = orjson.loads(delivery.body)
            self._reply(asked, "call_event", "channel_status_resp", self._status(asked["Call-ID"]))
        elif key.startswith("call.PARK_PARKED."):
            payload = orjson.loads(delivery.body)
            call = self.calls.get(payload["Call-ID"])
            if call is not None:
                call.slot = payload["Parking-Slot"]
                call.announced.set()
        elif key == "sysconf.get":
            asked = orjson.loads(delivery.body)
            same = {name: asked.get(name) for name in ("Category", "Key")}
            self._reply(asked, "sysconf", "get_resp", {**same, "Value": "undefined"})

    def _status(self, call_id: str) -> dict[str, object]:
        status = "active" if call_id in self.calls else "terminated"
        return {"Call-ID": call_id, "Status": status}

    def _reply(
        self, asked: dict[str, Any], category: str, name: str, fields: dict[str, object]
    ) -> None:
        payload = {
            "Event-Category": category,
            "Event-Name": name,
            "App-Name": "ecallmgr",
            "App-Version": "4.0.0",
            "Node": "ecallmgr@load",
            "Msg-ID": asked["Msg-ID"],
            **fields,
        }
        self._link.publish("targeted", asked["Server-ID"], orjson.dumps(payload))

    def _event(self, call: LoadCall, name: str, fields: dict[str, object]) -> None:
        payload = {
            "Event-Category": "call_event",
            "Event-Name": name,
            "Call-ID": call.call_id,
            "Msg-ID": "1",
            "App-Name": "freeswitch",
            "App-Version": "1.0",
            "Node": "ecallmgr@load",
            "Call-Direction": "inbound",
            "Channel-Call-State": "ACTIVE",
            "Channel-State": "EXECUTE",
            "Custom-Channel-Vars": {"Account-ID": call.account, "Fetch-ID": f"f-{call.name}"},
            **fields,
        }
        key = f"call.{name}.{call.call_id.replace('@', '%40').replace('.', '%2E')}"
        self._link.publish("callevt", key, orjson.dumps(payload))

    def _execute(self, call: LoadCall, number: str) -> dict[str, object]:
        """As golden/execute-*.json have it, about 2 KB."""
        account, call_id = call.account, call.call_id
        realm = f"{account[:8]}.example.com"
        channel_vars: dict[str, object] = {
            "Username": "user_1001",
            "Realm": realm,
            "Fetch-ID": f"f-{call.name}",
            "Ecallmgr-Node": "ecallmgr@load",
            "CallFlow-ID": "cf9b8f0779badbad3b46d6718ee95a68",
            "Authorizing-Type": "device",
            "Authorizing-ID": "deadbeef000000000000000000000002",
            "Account-ID": account,
        }
        store: dict[str, object] = {
            "action-exit-keys": [],
            "cf_flow_id": "cf9b8f0779badbad3b46d6718ee95a68",
            "cf_flow_name": number,
            "cf_no_match": False,
            "remote-action": "park",
        }
        if call.referred:
            channel_vars["Referred-To"] = f"<sip:{number}@{realm}>"
            channel_vars["Referred-By"] = f"<sip:user_parker@{realm}>"
            store["Restricted-Endpoint-ID"] = "deadbeef000000000000000000000001"
        control = f"pid://<0.{len(self.calls)}.0>/{self._control}"
        return {
            "Event-Category": "callflow",
            "Event-Name": "action.execute",
            "App-Name": "callflow",
            "App-Version": "4.0.0",
            "Node": "kazoo_apps@load",
            "Msg-ID": secrets.token_hex(16),
            "Server-ID": control,
            "Call-ID": call_id,
            "Data": call.data,
            "Call": {
                "Key-Value-Store": store,
                "Account-DB": f"account%2F{account[:2]}%2F{account[2:4]}%2F{account[4:]}",
                "Account-ID": account,
                "Authorizing-ID": "deadbeef000000000000000000000002",
                "Authorizing-Type": "device",
                "Call-Bridged": False,
                "Call-Direction": "inbound",
                "Call-ID": call_id,
                "Callee-ID-Name": "",
                "Callee-ID-Number": number,
                "Caller-ID-Name": "Caller One",
                "Caller-ID-Number": "+15550001001",
                "Control-Queue": control,
                "Controller-Queue": control,
                "Custom-Application-Vars": {},
                "Custom-Channel-Vars": channel_vars,
                "Custom-SIP-Headers": {},
                "Fetch-ID": f"f-{call.name}",
                "From": f"user_1001@{realm}",
                "From-Realm": realm,
                "From-Tag": "ft1",
                "From-User": "user_1001",
                "Is-Recording": False,
                "Is-Call-Forward": False,
                "Language": "en-us",
                "Message-Left": False,
                "Request": f"{number}@{realm}",
                "Request-Realm": realm,
                "Request-User": number,
                "Resource-Type": "audio",
                "Switch-Hostname": "fs1.load.example.com",
                "Switch-Nodename": "freeswitch@fs1.load.example.com",
                "Switch-URI": "sip:10.0.0.1:11000",
                "Switch-URL": "sip:mod_sofia@10.0.0.1:11000",
                "To": f"{number}@{realm}",
                "To-Realm": realm,
                "To-User": number,
            },
        }


async def in_flight(window: int, count: int, one: Callable[[int], Awaitable[None]]) -> float:
    """Run ``one(number)`` for each of ``count`` numbers, ``window`` at a time; seconds it took."""
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await one(number)

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(window)))
    return time.perf_counter() - began
