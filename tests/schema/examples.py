"""Valid messages, written by us from the contract, for tests to use and to spoil."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

from worker.kapi import commands, nodes, park_events, presence, registrar, results, status, sysconf
from worker.kapi.execute import parse_execute
from worker.parking import effects
from worker.parking.call import Call
from worker.parking.effects import Command, Finish, ParkEvent, Prompt, Verdict
from worker.parking.lamp import Lamp
from worker.parking.model import CallId, PresenceType, SessionId, SlotId

Message = dict[str, Any]

ACCOUNT: Final = "5e0c2a90c9d94a1d8c6a4f0b7d21e3aa"
PARKER_DEVICE: Final = "dd01aa22bb33cc44dd55ee66ff778899"
NODE: Final = "kzpark@w1.acme.example"
REPLY_ADDRESS: Final = "pid://<0.4711.0>/callflow@k1.acme.example-9f3a"
CONTROL_ADDRESS: Final = "pid://<0.912.0>/ecallmgr@e1.acme.example-77aa"


def execute(**call: object) -> Message:
    """A blind transfer into 101 by a known device; keywords with ``_`` for ``-`` change Call."""
    record: Message = {
        "Account-ID": ACCOUNT,
        "Account-DB": "account%2F5e%2F0c%2F2a90c9d94a1d8c6a4f0b7d21e3aa",
        "Authorizing-ID": "11aa",
        "Authorizing-Type": "device",
        "Call-Bridged": False,
        "Call-Direction": "inbound",
        "Call-ID": "alice-1@10.0.0.7",
        "Callee-ID-Name": "",
        "Callee-ID-Number": "*3101",
        "Caller-ID-Name": "Alice",
        "Caller-ID-Number": "4001",
        "Control-Queue": CONTROL_ADDRESS,
        "Controller-Queue": REPLY_ADDRESS,
        "Custom-Application-Vars": {},
        "Custom-Channel-Vars": {
            "Account-ID": ACCOUNT,
            "Fetch-ID": "fetch-alice",
            "Realm": "acme.example",
            "Referred-By": "<sip:bob@acme.example>",
            "Referred-To": "<sip:*3101@acme.example>",
        },
        "Custom-SIP-Headers": {},
        "Fetch-ID": "fetch-alice",
        "From": "alice@acme.example",
        "From-Realm": "acme.example",
        "From-Tag": "tag-from",
        "From-User": "alice",
        "Key-Value-Store": {
            "Restricted-Endpoint-ID": PARKER_DEVICE,
            "action-exit-keys": ["_", "101"],
            "cf_capture_group": "101",
        },
        "Language": "en-us",
        "Request": "*3101@acme.example",
        "Request-Realm": "acme.example",
        "Request-User": "*3101",
        "Switch-Hostname": "fs1.acme.example",
        "Switch-Nodename": "freeswitch@fs1.acme.example",
        "Switch-URI": "sip:10.26.0.11:11000",
        "To": "*3101@acme.example",
        "To-Realm": "acme.example",
        "To-User": "*3101",
    }
    record |= {name.replace("_", "-"): value for name, value in call.items()}
    return {
        "Event-Category": "callflow",
        "Event-Name": "action.execute",
        "App-Name": "callflow",
        "App-Version": "4.0.0",
        "Node": "kazoo_apps@k1.acme.example",
        "Msg-ID": "8f0c1d2e3b4a59687786a5b4c3d2e1f0",
        "Server-ID": REPLY_ADDRESS,
        "Call-ID": record["Call-ID"],
        "Data": {"action": "park", "slots": {"101": {"ringback_timeout": "25000"}}},
        "Call": record,
    }


def call() -> Call:
    """The call of `execute`."""
    return parse_execute(execute()).call


def lamp(**changes: Any) -> Lamp:
    """Alice in 101, as the phones see her."""
    facts: dict[str, Any] = {
        "user": "*3101",
        "realm": "Acme.example",
        "call_id": CallId("alice-1@10.0.0.7"),
        "switch_uri": "sip:10.26.0.11:11000",
        "caller_name": "Alice",
        "caller_number": "4001",
        "caller_uri": "alice@acme.example",
    }
    return Lamp(**(facts | changes))


def ids() -> Callable[[], str]:
    """Fresh ids ``id-1``, ``id-2`` and so on."""
    numbers = itertools.count(1)
    return lambda: f"id-{next(numbers)}"


COMMANDS: Final[tuple[Command, ...]] = (
    effects.Answer(),
    effects.Hold(),
    effects.Hold(media="moh-1"),
    effects.ParkSilently(),
    *(effects.Play(prompt=prompt) for prompt in Prompt),
    effects.Say(text="101"),
    effects.SetCallee(number="4001", name="Alice"),
    effects.Bridge(
        endpoint_id=PARKER_DEVICE,
        timeout_s=30,
        slot=SlotId("101"),
        caller_name="Alice",
        caller_number="4001",
    ),
    effects.Bridge(
        endpoint_id=PARKER_DEVICE, timeout_s=1, slot=SlotId("vip"), caller_name="", caller_number=""
    ),
    effects.Break(),
    effects.Pickup(target=CallId("alice-1@10.0.0.7"), usurp=True),
    effects.Pickup(target=CallId("alice-1@10.0.0.7"), usurp=False),
    effects.Hangup(),
)


def built() -> list[tuple[str, Message]]:
    """Everything the worker itself publishes, with the schema it must obey."""
    alice = call()
    messages: list[tuple[str, Message]] = []
    for effect in COMMANDS:
        for one in commands.command_payloads(
            effect, call=alice, call_id=alice.call_id, node=NODE, new_id=ids(), server_id="q-1"
        ):
            messages.append((f"command.{one.app.value}", one.payload))
    session = SessionId("8f0c")
    messages.append(
        (
            "action.accepted",
            results.accepted_payload(session=session, call_id=alice.call_id, node=NODE),
        )
    )
    for finish in (Finish(verdict=Verdict.STOP), Finish(verdict=Verdict.CONTINUE, child="101")):
        result = results.result_payload(finish, session=session, call_id=alice.call_id, node=NODE)
        messages.append(("action.result", result))
    for park_event in ParkEvent:
        payload = park_events.park_event_payload(
            park_event,
            slot=SlotId("101"),
            call=alice,
            call_id=alice.call_id,
            node=NODE,
            msg_id="m-1",
        )
        messages.append(("event.park", payload))
    for state in PresenceType:
        shown = presence.dialog_update(lamp(), state, expires_s=600, node=NODE, msg_id="m-1")
        messages.append(("presence.dialog_update", shown.payload))
    asked = {"node": NODE, "msg_id": "m-1", "server_id": "kzpark-w1"}
    return [
        *messages,
        ("status.request", status.status_request(alice.call_id, **asked)),
        ("registrar.query", registrar.registrar_query("bob", "acme.example", **asked)),
        (
            "sysconf.request",
            sysconf.sysconf_request("callflow.park", "default_ringback_timeout", **asked),
        ),
        (
            "nodes.advertise",
            nodes.advertisement(
                node=NODE,
                msg_id="m-1",
                version="1.0.0",
                expires_ms=10_000,
                started_at_ms=1_795_393_096_000,
                used_memory_bytes=52_428_800,
                zone="local",
                settings={"compat": "fixed", "system": {"ringback_timeout_ms": 120_000}},
            ),
        ),
    ]


def _event(name: str, **fields: object) -> Message:
    return {
        "Event-Category": "call_event",
        "Event-Name": name,
        "App-Name": "freeswitch",
        "App-Version": "1.0",
        "Node": "ecallmgr@e1.acme.example",
        "Msg-ID": "1795394554.26",
        "Call-ID": "alice-1@10.0.0.7",
        "Custom-Channel-Vars": {"Account-ID": ACCOUNT, "Fetch-ID": "fetch-alice"},
        "Timestamp": 63_962_613_754,
        **{field.replace("_", "-"): value for field, value in fields.items()},
    }


RECEIVED: Final[Mapping[str, Message]] = {
    "action.execute": execute(),
    "event.channel": _event("CHANNEL_BRIDGE", Other_Leg_Call_ID="bob-1@10.0.0.8"),
    "event.channel_transferee": _event("CHANNEL_TRANSFEREE"),
    "event.channel_replaced": _event("CHANNEL_REPLACED", Replaced_By="alice-2@10.0.0.7"),
    "event.channel_direct": _event("CHANNEL_DIRECT", Connecting_Leg_B_UUID="alice-2@10.0.0.7"),
    "event.execute_complete": _event(
        "CHANNEL_EXECUTE_COMPLETE", Application_Name="noop", Application_Response="id-1"
    ),
    "event.usurp_control": _event("usurp_control", Fetch_ID="fetch-other", Reason="redirect"),
    "event.dialplan_error": _event("dialplan")
    | {
        "Event-Category": "error",
        "Error-Message": "Could not execute dialplan action: hold",
        "Request": {"Application-Name": "hold"},
    },
    "presence.probe": {
        "Event-Category": "presence",
        "Event-Name": "probe",
        "Event-Package": "dialog",
        "Username": "*3101",
        "Realm": "acme.example",
        "Call-ID": "subscribe-1",
        "Msg-ID": "p-1",
    },
    "presence.reset": {
        "Event-Category": "presence",
        "Event-Name": "reset",
        "Username": "*",
        "Realm": "acme.example",
    },
    "status.response": {
        "Event-Category": "call_event",
        "Event-Name": "channel_status_resp",
        "Msg-ID": "m-1",
        "Call-ID": "alice-1@10.0.0.7",
        "Status": "active",
        "Other-Leg-Call-ID": "bob-1@10.0.0.8",
    },
    "registrar.response": {
        "Event-Category": "directory",
        "Event-Name": "reg_query_resp",
        "Msg-ID": "m-1",
        "Fields": [
            {
                "Username": "bob",
                "Account-ID": ACCOUNT,
                "Account-Realm": "acme.example",
                "Authorizing-ID": PARKER_DEVICE,
                "Authorizing-Type": "device",
            }
        ],
    },
    "sysconf.response": {
        "Event-Category": "sysconf",
        "Event-Name": "get_resp",
        "Msg-ID": "m-1",
        "Category": "callflow.park",
        "Key": "default_ringback_timeout",
        "Value": 120_000,
    },
    "configuration.change": {
        "Event-Category": "configuration",
        "Event-Name": "doc_edited",
        "ID": "callflow.park",
        "Database": "system_config",
        "Type": "config",
    },
    "nodes.peer": {
        "Event-Category": "nodes",
        "Event-Name": "advertise",
        "App-Name": "kamailio",
        "Node": "kamailio@p1.acme.example",
        "Expires": "10000",
        "WhApps": {"kamailio": {"Startup": 1_795_393_096}},
    },
}


def spoiled(message: Mapping[str, Any], pointer: str, value: object) -> Message:
    """A copy of ``message`` with ``value`` at ``pointer``; ``...`` takes the place away."""
    copied: Message = copy.deepcopy(dict(message))
    *path, last = pointer.removeprefix("/").split("/")
    place: Any = copied
    for part in path:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = int(last) if isinstance(place, list) else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return copied
