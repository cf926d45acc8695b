"""Messages nobody can use: the worker lives, other calls are untouched, the reason is logged and
the message is kept in the dead-letter queue with reason and origin (design §7)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from tests.acceptance.calls import CONTINUE, Payload, PeerCall
from tests.acceptance.peer import encode, gregorian_us
from tests.process.zone import Scene, SteadyPeer, Zone, assert_retrieved, eventually

LIMIT = 262_144


@pytest.fixture(scope="module")
def running(live_peer: SteadyPeer, vhost_url: str) -> Iterator[Zone]:
    """One worker for the module: it must survive everything that is done to it here."""
    zone = Zone(vhost_url, live_peer, {})
    try:
        zone.start("w1")
        yield zone
    finally:
        zone.close()
    assert zone.crashes() == []


@pytest.fixture
def parked(peer: SteadyPeer, running: Zone, scene: Scene) -> Iterator[PeerCall]:
    """A call parked before; afterwards it can be retrieved as if nothing had been."""
    running.dead_letters()
    running.workers["w1"].lines.clear()
    call = scene.parked("101")
    before = list(call.names())
    yield call
    assert running.workers["w1"].running
    assert running.workers["w1"].events("connection lost") == []
    assert call.names() == before, call.story()
    assert_retrieved(call, scene.retrieve("101"))


def good_execute(call: PeerCall) -> Payload:
    return call.execute_payload("pid://<0.1.0>/nowhere", "pid://<0.2.0>/nowhere")


def changed(**fields: Any) -> Callable[[Payload], Payload]:
    """Top-level fields replaced; ``_`` stands for ``-``."""

    def change(payload: Payload) -> Payload:
        return {**payload, **{name.replace("_", "-"): value for name, value in fields.items()}}

    return change


def without(*path: str) -> Callable[[Payload], Payload]:
    def change(payload: Payload) -> Payload:
        inner = payload
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]
        return payload

    return change


def within_call(**fields: Any) -> Callable[[Payload], Payload]:
    def change(payload: Payload) -> Payload:
        call = {**payload["Call"], **{k.replace("_", "-"): v for k, v in fields.items()}}
        return {**payload, "Call": call}

    return change


BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "not JSON": (b'{"Event-Category": ', "not JSON"),
    "XML": (b"<?xml version='1.0'?><a/>", "not JSON"),
    "an array": (b"[]", "an array"),
    "an array of executes": (b'[{"Event-Name":"action.execute"}]', "an array"),
    "a number": (b"42", "a number"),
    "null": (b"null", "null"),
    "a string": (b'"park"', "a string"),
    "true": (b"true", "a boolean"),
    "an empty object": (b"{}", ""),
    "NaN": (b'{"Event-Name":NaN}', "not JSON"),
    "bad UTF-8": (b'{"Event-Name":"\xff\xfe"}', "not JSON"),
    "a lone surrogate": (b'{"Event-Name":"\\ud800"}', ""),
    "UTF-16": ('{"Event-Name":"action.execute"}'.encode("utf-16"), "not JSON"),
    "a byte-order mark": (b'\xef\xbb\xbf{"Event-Name":"action.execute"}', "not JSON"),
    "1 MB": (b'{"Event-Name":"' + b"x" * 1_000_000 + b'"}', "too large"),
    "nested deep": (b'{"Call":' + b"[" * 2_000 + b"]" * 2_000 + b"}", ""),
    "nested deeper": (b'{"Call":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
    "null bytes": (b"\x00" * 64, "not JSON"),
}

EXECUTES: dict[str, tuple[Callable[[Payload], Payload], str]] = {
    "without Call": (without("Call"), "Call"),
    "Call null": (changed(Call=None), "/Call"),
    "Call an array": (changed(Call=[]), "/Call"),
    "Call a text": (changed(Call="{}"), "/Call"),
    "without Msg-ID": (without("Msg-ID"), "Msg-ID"),
    "Msg-ID a number": (changed(Msg_ID=7), "/Msg-ID"),
    "without Call-ID": (without("Call-ID"), "Call-ID"),
    "Call-ID an object": (changed(Call_ID={}), "/Call-ID"),
    "Call-ID empty": (changed(Call_ID=""), "/Call-ID"),
    "without an account": (without("Call", "Account-ID"), "Account-ID"),
    "account null": (within_call(Account_ID=None), "/Call/Account-ID"),
    "account a list": (within_call(Account_ID=["a"]), "/Call/Account-ID"),
    "of another category": (changed(Event_Category="call_event"), "/Event-Category"),
    "of another name": (changed(Event_Name="action.result"), "/Event-Name"),
}


def dead_letter(zone: Zone, body: bytes) -> dict[str, str]:
    """Headers of the one dead letter, which must be that body."""
    found: list[tuple[dict[str, str], bytes]] = []

    def there() -> bool:
        found.extend(zone.dead_letters())
        return bool(found)

    eventually(there, 5, f"a dead letter for {body[:60]!r}")
    assert [letter for _, letter in found] == [body]
    return found[0][0]


@pytest.mark.usefixtures("parked")
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_execute_goes_to_the_dead_letters(
    peer: SteadyPeer, running: Zone, name: str
) -> None:
    body, reason = BODIES[name]
    peer.publish("kapps", "callflow.action.park", body, mandatory=True)
    headers = dead_letter(running, body)
    assert reason in headers["x-kzpark-reason"]
    assert headers["x-kzpark-reason"]
    assert headers["x-kzpark-exchange"] == "kapps"
    assert headers["x-kzpark-routing-key"] == "callflow.action.park"
    line = running.workers["w1"].wait_event("message refused")
    assert line["reason"] == headers["x-kzpark-reason"]
    assert line["bytes"] == len(body)
    assert line["hash"]


@pytest.mark.usefixtures("parked")
@pytest.mark.parametrize("name", EXECUTES)
def test_an_execute_with_fields_of_the_wrong_type_goes_to_the_dead_letters(
    peer: SteadyPeer, running: Zone, scene: Scene, name: str
) -> None:
    change, pointer = EXECUTES[name]
    payload = change(good_execute(scene.make("bad", "3102", blind=True)))
    body = json.dumps(payload).encode()
    peer.publish("kapps", "callflow.action.park", body, mandatory=True)
    headers = dead_letter(running, body)
    told = headers["x-kzpark-reason"] + headers.get("x-kzpark-pointer", "")
    assert pointer in told
    assert running.workers["w1"].wait_event("message refused")["reason"]


def wrong_ways(parked: PeerCall, inbox: str) -> dict[str, tuple[str, str]]:
    """Every other exchange a worker listens to, with a key that reaches it."""
    return {
        "call events": ("callevt", f"call.CHANNEL_DESTROY.{encode(parked.call_id)}"),
        "replies": ("targeted", inbox),
        "probes": ("presence", "probes.dialog"),
        "resets": ("presence", f"presence.reset.{encode(parked.realm)}.{encode('*')}"),
        "nodes": ("nodes", ""),
    }


@pytest.mark.parametrize("way", ["call events", "replies", "probes", "resets", "nodes"])
@pytest.mark.parametrize(
    "name", ["not JSON", "an array", "a number", "null", "bad UTF-8", "1 MB", "nested deeper"]
)
def test_a_body_that_is_no_message_goes_to_the_dead_letters(
    peer: SteadyPeer, running: Zone, parked: PeerCall, way: str, name: str
) -> None:
    exchange, key = wrong_ways(parked, _inbox(running))[way]
    body, reason = BODIES[name]
    peer.publish(exchange, key, body)
    headers = dead_letter(running, body)
    assert reason in headers["x-kzpark-reason"]
    assert headers["x-kzpark-exchange"] == exchange
    assert headers["x-kzpark-routing-key"] == key


def _inbox(zone: Zone) -> str:
    """The worker's reply queue, as it tells every switch it asks."""
    asked = [
        one.payload["Server-ID"]
        for one in zone.peer.seen
        if one.payload.get("Event-Name") == "channel_status_req"
        and str(one.payload["Server-ID"]).startswith(zone.prefix)
    ]
    return str(asked[-1])


EVENTS: dict[str, Payload] = {
    "a destroy without Call-ID": {"Event-Name": "CHANNEL_DESTROY"},
    "a destroy whose Call-ID is a list": {"Event-Name": "CHANNEL_DESTROY", "Call-ID": []},
    "a usurp without Fetch-ID": {"Event-Name": "usurp_control", "Call-ID": "x"},
    "a completion whose variables are a text": {
        "Event-Name": "CHANNEL_TRANSFEREE",
        "Call-ID": "x",
        "Custom-Channel-Vars": "Fetch-ID",
    },
    "an event without a name": {},
    "a name that is a number": {"Event-Name": 5, "Call-ID": "x"},
}


@pytest.mark.parametrize("name", EVENTS)
def test_a_call_event_with_fields_of_the_wrong_type_goes_to_the_dead_letters(
    peer: SteadyPeer, running: Zone, parked: PeerCall, name: str
) -> None:
    payload = {"Event-Category": "call_event", "App-Name": "freeswitch", **EVENTS[name]}
    body = json.dumps(payload).encode()
    peer.publish("callevt", f"call.CHANNEL_X.{encode(parked.call_id)}", body)
    headers = dead_letter(running, body)
    assert headers["x-kzpark-exchange"] == "callevt"


def raw_publish(url: str, exchange: str, key: str, body: bytes, **properties: Any) -> None:
    """With any property pika can be made to send."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().basic_publish(exchange, key, body, pika.BasicProperties(**properties))


HOSTILE: dict[str, dict[str, Any]] = {
    "no properties": {},
    "a gregorian timestamp": {"timestamp": gregorian_us()},
    "the largest timestamp": {"timestamp": 2**64 - 1},
    "byte-array headers": {"headers": {"call-id": b"\xff\x00\xfe", "Deliver-To-PID": b"<0.1.0>"}},
    "gregorian timestamps in tables": {
        "headers": {"t": gregorian_us(), "deep": {"t": [gregorian_us(), {"t": 2**62}]}}
    },
    "an unknown content type": {"content_type": "application/erlang"},
    "an unknown encoding": {"content_encoding": "gzip"},
    "a priority and an expiration": {"priority": 255, "expiration": "60000"},
    "long texts": {"app_id": "a" * 255, "message_id": "m" * 255, "reply_to": "r" * 255},
}


@pytest.mark.parametrize("properties", HOSTILE)
def test_properties_of_any_kind_cost_neither_the_message_nor_the_connection(
    peer: SteadyPeer, running: Zone, parked: PeerCall, scene: Scene, properties: str
) -> None:
    """The message itself is good, so it must work: a call event, a probe and an execute."""
    url, what = running.url, HOSTILE[properties]
    probe = {
        "Event-Category": "presence",
        "Event-Name": "probe",
        "Event-Package": "dialog",
        "Username": "nobody-subscribes",
        "Realm": parked.realm,
        "Msg-ID": "1",
        "App-Name": "kamailio",
        "App-Version": "5",
        "Node": "kamailio@rig",
    }
    raw_publish(url, "presence", "probes.dialog", json.dumps(probe).encode(), **what)
    second = scene.parked("102", "second")
    destroy = {
        "Event-Category": "call_event",
        "Event-Name": "CHANNEL_DESTROY",
        "Call-ID": second.call_id,
        "App-Name": "freeswitch",
        "App-Version": "1.0",
        "Msg-ID": "1",
        "Hangup-Cause": "NORMAL_CLEARING",
    }
    second.status = "terminated"
    key = f"call.CHANNEL_DESTROY.{encode(second.call_id)}"
    raw_publish(url, "callevt", key, json.dumps(destroy).encode(), **what)
    second.wait("PARK_ABANDONED")
    second.wait("terminated")
    assert running.dead_letters() == []


NO_UTF8 = b"\xff\xfe\xc3(\x80\xf8!"


def test_bad_text_in_properties_costs_nobody_else_anything(
    peer: SteadyPeer, running: Zone, parked: PeerCall, scene: Scene
) -> None:
    """Short strings that are no UTF-8: pika refuses to send them, so the frame is made by hand."""
    with pika.BlockingConnection(pika.URLParameters(running.url)) as connection:
        channel = connection.channel()
        properties = pika.BasicProperties(content_type="@@BAD@@", app_id="@@BAD@@")
        pieces = [piece.replace(b"@@BAD@@", NO_UTF8) for piece in properties.encode()]
        properties.encode = lambda: list(pieces)
        for exchange, routing_key in (
            ("kapps", "callflow.action.park"),
            ("callevt", f"call.CHANNEL_X.{encode(parked.call_id)}"),
            ("presence", "probes.dialog"),
        ):
            channel.basic_publish(exchange, routing_key, b"junk", properties)
    found: list[tuple[dict[str, str], bytes]] = []

    def all_there() -> bool:
        found.extend(running.dead_letters())
        return len(found) >= 3

    eventually(all_there, 5, "three dead letters")
    assert sorted(headers["x-kzpark-exchange"] for headers, _ in found) == [
        "callevt",
        "kapps",
        "presence",
    ]


NODES: dict[str, tuple[object, str]] = {
    "action unknown": ({"action": "juggle"}, "/Data/action"),
    "action a number": ({"action": 5}, "/Data/action"),
    "slots a list": ({"slots": []}, "/Data/slots"),
    "a slot entry a text": ({"slots": {"101": "x"}}, "/Data/slots/101"),
    "presence type unknown": ({"default_presence_type": "blinking"}, "/Data/default_presence_type"),
    "max_slot_number an object": ({"max_slot_number": {}}, "/Data/max_slot_number"),
    "timeout a list": ({"default_ringback_timeout": [1]}, "/Data/default_ringback_timeout"),
    "data a list": ([1], "/Data"),
    "data a text": ("park", "/Data"),
}


@pytest.mark.parametrize("name", NODES)
def test_an_invalid_node_gets_continue_and_a_log_line_with_the_pointer(
    peer: SteadyPeer, running: Zone, parked: PeerCall, scene: Scene, name: str
) -> None:
    data, pointer = NODES[name]
    call = scene.make("badnode", "3103", blind=True, data=data)
    peer.execute(call)
    call.wait_result(CONTINUE)
    line = running.workers["w1"].wait_event("node refused")
    assert line["pointer"] == pointer
    assert line["call_id"] == call.call_id
    peer.quiet(0.15, lambda: call.commands() == [], "no command for a refused node")
    assert call.names() == ["result"], call.story()
    assert running.dead_letters() == []


def test_a_flood_of_junk_delays_nobody_for_long(
    peer: SteadyPeer, running: Zone, parked: PeerCall, scene: Scene
) -> None:
    for number in range(500):
        peer.publish("kapps", "callflow.action.park", b"[%d]" % number)
        peer.publish("presence", "probes.dialog", b"%d" % number)
    began = time.monotonic()
    call = scene.parked("104", "after")
    assert time.monotonic() - began < 3
    call.hang_up()
    call.wait("PARK_ABANDONED")
    count = 0

    def all_there() -> bool:
        nonlocal count
        count += len(running.dead_letters())
        return count == 1000

    eventually(all_there, 10, f"1000 dead letters, {count} seen")
