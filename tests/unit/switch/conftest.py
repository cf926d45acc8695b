"""A scripted worker for the pure switch: sends what a worker would, on a clock of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from worker.switch.callflow import Flow
from worker.switch.core import SwitchCore
from worker.switch.plan import CallPlan, Device, Ring, SwitchPlan
from worker.switch.wire import Incoming, Outgoing, Payload, split_address

ENVELOPE = {"App-Name": "callflow", "App-Version": "4.0.0", "Msg-ID": "m"}
TRANSFER = "g2QACHRyYW5zZmVy"
STOP = "g2QABHN0b3A="
CONTINUE = "g2QACGNvbnRpbnVl"
CONTINUE_101 = "g2gCZAAIY29udGludWVtAAAAAzEwMQ=="


class Rig:
    """The core plus a clock; remembers all that was published."""

    def __init__(self, plan: SwitchPlan | None = None) -> None:
        self.core = SwitchCore("t", plan)
        self.now_ms = 1_000_000
        self.sent: list[Outgoing] = []
        self.command_count = 0

    def run(self, duration_ms: int = 0) -> None:
        end_ms = self.now_ms + duration_ms
        self.sent += self.core.tick(self.now_ms)
        while True:
            deadline_ms = self.core.next_deadline_ms
            if deadline_ms is None or deadline_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, deadline_ms)
            self.sent += self.core.tick(self.now_ms)
        self.now_ms = end_ms
        self.sent += self.core.tick(self.now_ms)

    def place(self, number: str = "*3101", **fields: Any) -> Flow:
        flow = self.core.place(CallPlan(number=number, **fields))
        self.run()
        return flow

    def device(self, device_id: str = "c0ffee", *rings: Ring) -> Device:
        device = Device(id=device_id, username=f"user_{device_id}", rings=list(rings) or [Ring()])
        self.core.devices[device_id] = device
        return device

    def call(self, flow: Flow) -> Payload:
        """The Call object of the flow's execute."""
        executes = [
            message.payload
            for message in self.sent
            if message.exchange == "kapps" and message.payload["Msg-ID"] == flow.action_id
        ]
        call = executes[-1]["Call"]
        assert isinstance(call, dict)
        return call

    def command(self, flow: Flow, name: str, **fields: object) -> str:
        """Send a channel command; keywords are field names with ``_`` for ``-``."""
        self.command_count += 1
        msg_id = str(fields.pop("Msg_ID", f"{name}-{self.command_count}"))
        payload = {
            **ENVELOPE,
            "Event-Category": "call",
            "Event-Name": "command",
            "Application-Name": name,
            "Call-ID": flow.call_id,
            "Msg-ID": msg_id,
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        queue, headers = split_address(str(self.call(flow)["Control-Queue"]))
        self.receive("callctl", queue, payload, headers)
        return msg_id

    def result(self, flow: Flow, term: str, **fields: object) -> None:
        queue, headers = split_address(str(self.call(flow)["Controller-Queue"]))
        payload = {
            **ENVELOPE,
            "Event-Category": "callflow",
            "Event-Name": "action.result",
            "Call-ID": flow.call_id,
            "Msg-ID": flow.action_id,
            "Result": term,
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        self.receive("targeted", queue, payload, headers)

    def status(self, call_id: str, **fields: object) -> list[str]:
        """Statuses answered by the ecallmgr nodes."""
        before = len(self.sent)
        payload = {
            **ENVELOPE,
            "Event-Category": "call_event",
            "Event-Name": "channel_status_req",
            "Call-ID": call_id,
            "Server-ID": "asker",
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        self.receive("callevt", "x", payload, {}, queue=self.core.status_queue)
        return [
            str(message.payload["Status"])
            for message in self.sent[before:]
            if message.routing_key == "asker"
        ]

    def dialog(self, state: str, call_id: str = "p@h", **fields: object) -> None:
        payload = {
            **ENVELOPE,
            "App-Name": "park",
            "Event-Category": "presence",
            "Event-Name": "dialog_update",
            "From": "sip:*3101@acme",
            "From-User": "*3101",
            "From-Realm": "acme",
            "To": "1001@acme",
            "To-User": "Alice",
            "State": state,
            "Call-ID": call_id,
            "Switch-URI": "sip:10.0.0.1:11000",
            "Expires": 10 if state == "terminated" else 3600,
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        self.receive("presence", "dialog.acme.p", payload, {}, queue=self.core.presence_queue)

    def receive(
        self,
        exchange: str,
        key: str,
        payload: Mapping[str, object],
        headers: Mapping[str, object],
        *,
        queue: str = "",
        content_type: str = "application/json",
    ) -> None:
        message = Incoming(
            queue=queue or key,
            exchange=exchange,
            routing_key=key,
            body=json.dumps(payload).encode(),
            content_type=content_type,
            headers=headers,
        )
        self.sent += self.core.receive(message, self.now_ms)

    def seen(self, call_id: str) -> list[str]:
        """What happened to a call: EXECUTE_COMPLETE as ``done:<application>``."""
        return [
            f"done:{note.payload['Application-Name']}"
            if note.name == "CHANNEL_EXECUTE_COMPLETE"
            else note.name
            for note in self.core.world.notes.get(call_id, ())
        ]

    def last(self, call_id: str, name: str) -> Payload:
        notes = [note for note in self.core.world.notes[call_id] if note.name == name]
        return notes[-1].payload

    @property
    def drops(self) -> list[str]:
        return [line.dropped for line in self.core.dropped]


@pytest.fixture
def rig() -> Rig:
    return Rig()
