"""A black-box peer: Kazoo's side of the broker in a few scripts, on another AMQP client (pika).

It knows AMQP and the contract, nothing of `worker`. Every message it publishes carries a real
gregorian-microsecond timestamp and byte-array headers, as Kazoo's do (contract §1.3); every message
it gets is checked for content type, envelope, ``Deliver-To-PID`` and required fields.
"""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.acceptance.calls import ANSWERS, Answers, PeerCall, Seen

Payload = dict[str, Any]

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
ENVELOPE = ("App-Name", "App-Version", "Event-Category", "Event-Name", "Msg-ID")
REQUIRED: Mapping[str, Sequence[str]] = {
    "say": ("Say-Text", "Language", "Type", "Method"),
    "set": ("Custom-Channel-Vars", "Custom-Call-Vars"),
    "play": ("Media-Name",),
    "noop": ("Msg-ID",),
    "queue": ("Commands",),
    "bridge": ("Endpoints",),
    "call_pickup": ("Target-Call-ID",),
    "dialog_update": (
        *("From", "From-User", "From-Realm", "From-Tag", "To", "To-User", "To-Realm", "To-Tag"),
        *("To-URI", "State", "Call-ID", "Switch-URI", "Direction", "Expires", "Presence-ID"),
    ),
    "action.result": ("Call-ID", "Result"),
    "action.accepted": ("Call-ID",),
    "channel_status_req": ("Call-ID", "Server-ID"),
    "park": (),
}
GREGORIAN_EPOCH_S = 62_167_219_200


def gregorian_us() -> int:
    return GREGORIAN_EPOCH_S * 1_000_000 + time.time_ns() // 1000


def encode(segment: str) -> str:
    """A routing-key segment (contract §1.4), spelled out once more on purpose."""
    out = []
    for byte in segment.encode():
        character = chr(byte)
        if character.isascii() and (character.isalnum() or character in "-_~"):
            out.append(character)
        elif character == " ":
            out.append("+")
        else:
            out.append(f"%{byte:02X}")
    return "".join(out)


@dataclass
class Peer:
    """One connection, consumed in a thread of its own. Use `connected`."""

    url: str
    seen: list[Seen] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What the worker did wrong on the wire; a test run ends with none."""
    returned: list[Payload] = field(default_factory=list)
    """Mandatory messages nobody was bound for."""
    calls: dict[str, PeerCall] = field(default_factory=dict)
    sysconf: dict[str, object] = field(default_factory=dict)
    registrations: dict[str, str] = field(default_factory=dict)
    """SIP user → device id, for the registrar."""

    def __post_init__(self) -> None:
        tag = secrets.token_hex(4)
        self.control_queue = f"ecallmgr_peer_ctl_{tag}"
        self.controller_queue = f"callflow_route_{tag}"
        self._pids = itertools.count(101)
        self._by_pid: dict[str, PeerCall] = {}
        self._arrived = threading.Condition(threading.RLock())
        self._connection: pika.BlockingConnection
        self._channel: BlockingChannel
        self._thread = threading.Thread(target=self._run, daemon=True, name="peer")
        self._stopping = False

    # ---- connection

    @classmethod
    @contextmanager
    def connected(cls, url: str) -> Iterator[Peer]:
        peer = cls(url)
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0
        peer._connection = pika.BlockingConnection(parameters)
        peer._channel = peer._connection.channel()
        peer._topology()
        peer._thread.start()
        try:
            yield peer
        finally:
            peer._stopping = True
            peer._thread.join(5)
            peer._connection.close()

    def _topology(self) -> None:
        channel = self._channel
        for name, kind in EXCHANGES.items():
            channel.exchange_declare(name, kind)
        arguments = {"x-message-ttl": 60_000}
        bindings = {
            self.control_queue: (("callctl", None), ("targeted", None)),
            self.controller_queue: (("targeted", None),),
            f"recorder_{self.control_queue}": (
                ("callevt", "call.PARK_PARKED.*"),
                ("callevt", "call.PARK_RETRIEVED.*"),
                ("callevt", "call.PARK_ABANDONED.*"),
                ("callevt", "call.status_req.*"),
                ("presence", "dialog.*.*"),
                ("sysconf", "sysconf.get"),
                ("registrar", "registration.query.*.*"),
            ),
        }
        for queue, keys in bindings.items():
            channel.queue_declare(queue, auto_delete=True, arguments=arguments)
            for exchange, key in keys:
                channel.queue_bind(queue, exchange, key or queue)
            channel.basic_consume(queue, self._consumed, auto_ack=True)
        channel.add_on_return_callback(self._on_return)

    def _run(self) -> None:
        while not self._stopping:
            self._connection.process_data_events(time_limit=0.05)

    def _on_return(
        self, _channel: object, _method: object, _properties: object, body: bytes
    ) -> None:
        with self._arrived:
            self.returned.append(json.loads(body))
            self._arrived.notify_all()

    def publish(
        self,
        exchange: str,
        routing_key: str,
        payload: Payload | bytes,
        *,
        headers: Mapping[str, object] | None = None,
        mandatory: bool = False,
        content_type: str | None = "application/json",
    ) -> None:
        """Publish from any thread, in call order, with a gregorian-microsecond timestamp."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        properties = pika.BasicProperties(
            content_type=content_type, timestamp=gregorian_us(), headers=dict(headers or {}) or None
        )

        def send() -> None:
            self._channel.basic_publish(
                exchange, routing_key, body, properties=properties, mandatory=mandatory
            )

        if threading.current_thread() is self._thread:
            send()
        else:
            self._connection.add_callback_threadsafe(send)

    def event(self, call: PeerCall, name: str, **fields: object) -> None:
        """A call event of ``call``; keywords are field names with ``_`` for ``-``."""
        payload: Payload = {
            "Event-Category": "call_event",
            "Event-Name": name,
            "Call-ID": call.call_id,
            "Msg-ID": f"{time.time():.6f}",
            "Timestamp": gregorian_us() // 1_000_000,
            "App-Name": "freeswitch",
            "App-Version": "1.0",
            "Node": "ecallmgr@rig",
            "Call-Direction": "inbound",
            "Channel-Call-State": "ACTIVE",
            "Channel-State": "EXECUTE",
            "Switch-Nodename": "freeswitch@fs1.rig.example.com",
            "Custom-Channel-Vars": dict(call.channel_vars),
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        headers = {"call-id": call.call_id.encode()} if name.startswith("CHANNEL_") else {}
        self.publish("callevt", f"call.{name}.{encode(call.call_id)}", payload, headers=headers)

    # ---- calls

    def execute(self, call: PeerCall, *, mandatory: bool = True) -> PeerCall:
        """Publish the call's action.execute as golden/execute-*.json have it."""
        with self._arrived:
            call.peer = self
            call.control_pid = f"<0.{next(self._pids)}.0>"
            call.flow_pid = f"<0.{next(self._pids)}.0>"
            self.calls[call.call_id] = call
            self._by_pid[call.control_pid] = self._by_pid[call.flow_pid] = call
        control = f"pid://{call.control_pid}/{self.control_queue}"
        controller = f"pid://{call.flow_pid}/{self.controller_queue}"
        # Winning the call is announced with its own Fetch-ID: nobody must take that for a usurp.
        self.event(call, "usurp_control", Fetch_ID=call.fetch_id, Reason="Route-Win")
        self.publish(
            "kapps",
            "callflow.action.park",
            call.execute_payload(control, controller),
            mandatory=mandatory,
        )
        return call

    # ---- what arrives

    def _consumed(
        self,
        _channel: object,
        method: Any,
        properties: pika.BasicProperties,
        body: bytes,
    ) -> None:
        with self._arrived:
            try:
                self._take(method.exchange, method.routing_key, properties, body)
            except Exception as error:  # a broken script must fail the test, not the thread
                self.problems.append(f"{type(error).__name__}: {error}")
            self._arrived.notify_all()

    def _take(
        self, exchange: str, routing_key: str, properties: pika.BasicProperties, body: bytes
    ) -> None:
        payload = json.loads(body)
        one = Seen(
            at=time.monotonic(),
            exchange=exchange,
            routing_key=routing_key,
            headers=dict(properties.headers or {}),
            timestamp=properties.timestamp,
            payload=payload,
        )
        self.seen.append(one)
        if properties.content_type != "application/json":
            self.problems.append(f"{one}: content type {properties.content_type!r}")
        self._check_fields(one)
        match exchange:
            case "callctl":
                self._command(one)
            case "targeted":
                self._flow_message(one)
            case "callevt" if payload["Event-Name"] == "channel_status_req":
                self._status(payload)
            case "callevt":
                self._park_event(one)
            case "presence":
                self._dialog(one)
            case "sysconf":
                self._sysconf(payload)
            case "registrar":
                self._registrar(payload)
            case _:
                pass

    def _check_fields(self, one: Seen) -> None:
        payload = one.payload
        missing = [name for name in ENVELOPE if not isinstance(payload.get(name), str)]
        name = payload.get("Application-Name") or payload.get("Event-Name")
        missing += [key for key in REQUIRED.get(str(name), ()) if key not in payload]
        if one.exchange == "callctl":
            missing += [key for key in ("Call-ID", "Application-Name") if key not in payload]
        if missing:
            self.problems.append(f"{one}: without {', '.join(missing)}")
        if None in payload.values():
            self.problems.append(f"{one}: a null field")

    def _addressee(self, one: Seen) -> PeerCall | None:
        pid = one.headers.get("Deliver-To-PID")
        if isinstance(pid, bytes):
            pid = pid.decode()
        call = self._by_pid.get(str(pid))
        if call is None:
            self.problems.append(f"{one}: dropped, Deliver-To-PID is {pid!r}")
        return call

    def _command(self, one: Seen) -> None:
        call = self._addressee(one)
        if call is None:
            return
        if one.headers.get("Deliver-To-PID") not in {call.control_pid, call.control_pid.encode()}:
            self.problems.append(f"{one}: a command for the flow's pid")
        if one.payload.get("Event-Category") != "call" or one.payload["Event-Name"] != "command":
            self.problems.append(f"{one}: not call/command")
        if one.payload.get("Call-ID") != call.call_id:
            self.problems.append(f"{one}: for {one.payload.get('Call-ID')}, not {call.call_id}")
        name = str(one.payload.get("Application-Name"))
        call.add(name, one)
        if call.lost:
            call.in_vain.append(name)
            return
        answer = call.answers.get(name, ANSWERS.get(name))
        if answer is not None:
            answer(call, one.payload)

    def _flow_message(self, one: Seen) -> None:
        if one.payload["Event-Category"] != "callflow":
            self.problems.append(f"{one}: unexpected")
            return
        call = self._addressee(one)
        if call is None:
            return
        name = one.payload["Event-Name"].removeprefix("action.")
        if one.payload["Msg-ID"] != call.action_id or one.payload["Call-ID"] != call.call_id:
            self.problems.append(f"{one}: for another action or call")
            return
        call.add(name, one)
        if name == "result":
            encoded = one.payload["Result"]
            base64.b64decode(encoded, validate=True)
            call.results.append(encoded)
            call.flow_ends(encoded)

    def _park_event(self, one: Seen) -> None:
        name = one.payload["Event-Name"]
        call_id = one.payload["Call-ID"]
        if one.routing_key != f"call.{name}.{encode(call_id)}":
            self.problems.append(f"{one}: wrong routing key")
        if not isinstance(one.payload.get("Parking-Slot"), str):
            self.problems.append(f"{one}: the slot is no text")
        if not one.payload.get("Custom-Channel-Vars", {}).get("Account-ID"):
            self.problems.append(f"{one}: no account")
        header = one.headers.get("call-id")
        if (header.decode() if isinstance(header, bytes) else header) != call_id:
            self.problems.append(f"{one}: call-id header {header!r}")
        call = self.calls.get(call_id)
        if call is not None:
            call.add(name, one)

    def _dialog(self, one: Seen) -> None:
        payload = one.payload
        if (
            one.routing_key
            != f"dialog.{encode(payload['From-Realm'])}.{encode(payload['Call-ID'])}"
        ):
            self.problems.append(f"{one}: wrong routing key")
        if not isinstance(payload["Expires"], int) or payload["Expires"] <= 0:
            self.problems.append(f"{one}: Expires {payload['Expires']!r}")
        call = self.calls.get(payload["Call-ID"])
        if call is not None:
            call.add(payload["State"], one)

    def _answer(self, request: Payload, category: str, event: str, **fields: object) -> None:
        reply = str(request.get("Server-ID", ""))
        headers = {}
        if reply.startswith("pid://"):
            pid, _, reply = reply.removeprefix("pid://").rpartition("/")
            headers = {"Deliver-To-PID": pid}
        payload: Payload = {
            "Event-Category": category,
            "Event-Name": event,
            "App-Name": "ecallmgr",
            "App-Version": "4.0.0",
            "Node": "ecallmgr@rig",
            "Msg-ID": request["Msg-ID"],
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        self.publish("targeted", reply, payload, headers=headers)

    def _status(self, request: Payload) -> None:
        """Two ecallmgr nodes answer: one does not know the call."""
        call_id = request["Call-ID"]
        call = self.calls.get(call_id)
        status = call.status if call is not None else "terminated"
        if status == "silent":
            return
        for said in ("terminated", status):
            fields: Payload = {"Call_ID": call_id, "Status": said}
            if said == "terminated":
                fields["Error_Msg"] = f"no node found with channel {call_id}"
            elif call is not None:
                fields["Custom_Channel_Vars"] = dict(call.channel_vars)
                if call.other_leg:
                    fields["Other_Leg_Call_ID"] = call.other_leg
            self._answer(request, "call_event", "channel_status_resp", **fields)
        if call is not None:
            call.asked += 1

    def _sysconf(self, request: Payload) -> None:
        key = request.get("Key")
        name = key[0] if isinstance(key, list) and key else key
        value = self.sysconf.get(str(name), "undefined")
        category = request.get("Category")
        self._answer(request, "sysconf", "get_resp", Category=category, Key=key, Value=value)

    def _registrar(self, request: Payload) -> None:
        user, realm = request.get("Username"), request.get("Realm")
        self._answer(request, "directory", "reg_query_error")
        device = self.registrations.get(str(user))
        if device:
            known = {
                "Username": user,
                "Realm": realm,
                "Authorizing-ID": device,
                "Authorizing-Type": "device",
                "Account-Realm": realm,
            }
            self._answer(request, "directory", "reg_query_resp", Fields=[known])

    # ---- waiting

    def wait(self, fact: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Until the fact holds. Raises AssertionError that tells each call's story."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            while not fact():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not within {timeout_s:g} s: {what}\n{self._stories()}")
                self._arrived.wait(left)

    def quiet(self, duration_s: float, fact: Callable[[], bool], what: str) -> None:
        """The fact goes on holding that long."""
        deadline = time.monotonic() + duration_s
        with self._arrived:
            while True:
                if not fact():
                    raise AssertionError(f"no longer: {what}\n{self._stories()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._arrived.wait(left)

    def _stories(self) -> str:
        """What became of the last few calls."""
        return "\n".join(f"  {call.story()}" for call in list(self.calls.values())[-4:])

    def probe(self, user: str, realm: str) -> None:
        """A phone subscribes to a lamp of which Kamailio stores nothing (contract §5.5)."""
        self.publish(
            "presence",
            "probes.dialog",
            {
                "Event-Category": "presence",
                "Event-Name": "probe",
                "Event-Package": "dialog",
                "Username": user,
                "Realm": realm,
                "Call-ID": secrets.token_hex(8),
                "Msg-ID": secrets.token_hex(16),
                "App-Name": "kamailio",
                "App-Version": "5.6.3",
                "Node": "kamailio@rig",
            },
        )

    def dialogs(self, presence_id: str) -> list[Payload]:
        """All dialog updates for one lamp, in order."""
        return [
            one.payload
            for one in self.seen
            if one.exchange == "presence" and one.payload.get("Presence-ID") == presence_id
        ]


__all__ = ["Answers", "Payload", "Peer", "PeerCall", "Seen", "encode"]
