"""Recorded traffic of the reference: every incoming message is understood, every command of ours
is the one the reference sent. Only where the recordings are at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.schema import examples
from worker.kapi import keys, park_events, presence, schema, status
from worker.kapi.address import parse_address
from worker.kapi.commands import command_payloads
from worker.kapi.events import parse_event
from worker.kapi.execute import parse_execute, trim_execute
from worker.kapi.results import decode_result
from worker.parking import effects
from worker.parking.call import Arrival, Call
from worker.parking.effects import Command, ParkEvent, Prompt
from worker.parking.model import CallId, PresenceType, SlotId

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"
Recorded = dict[str, Any]

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the recordings are not at hand")

NEVER_THE_SAME = {"Msg-ID", "Node", "Server-ID"}


def recordings() -> Iterator[Recorded]:
    for path in sorted(GOLDEN.glob("[0-9]*.json")):
        yield from json.loads(path.read_text())["messages"]


def messages(direction: str, exchange: str, **fields: str) -> list[Recorded]:
    wanted = {name.replace("_", "-"): value for name, value in fields.items()}
    found = [
        message
        for message in recordings()
        if message["direction"] == direction
        and message["exchange"] == exchange
        and wanted.items() <= message["payload"].items()
    ]
    assert found
    return found


def comparable(value: Any) -> Any:
    """Without what differs from run to run, at any depth."""
    if isinstance(value, dict):
        return {k: comparable(v) for k, v in value.items() if k not in NEVER_THE_SAME}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    return value


def ours(effect: Command, recorded: Recorded, call: Call | None = None) -> list[Any]:
    call_id = CallId(recorded["payload"]["Call-ID"])
    call = call or Call(call_id=call_id, account=parse_execute(executes()[0]).call.account)
    built = command_payloads(effect, call=call, call_id=call_id, node="n", new_id=examples.ids())
    return [comparable(one.payload) for one in built]


def executes() -> list[Recorded]:
    paths = sorted(GOLDEN.glob("execute-*.json"))
    return [json.loads(path.read_text())["payload"] for path in paths]


def test_every_call_event_is_understood() -> None:
    for message in messages("in", "callevt"):
        event = parse_event(message["payload"])
        assert event is not None
        assert event.call_id == message["payload"]["Call-ID"]
        name = message["payload"]["Event-Name"]
        assert message["routing_key"] == keys.call_event(name, event.call_id)


def test_every_park_event_is_ignored_as_input() -> None:
    for message in messages("out", "callevt"):
        assert parse_event(message["payload"]) is None


def test_every_execute_is_understood() -> None:
    arrivals = []
    for payload in executes():
        schema.validate("action.execute", payload)
        execute = parse_execute(payload)
        assert schema.validate_node(execute.data) == payload["Data"]
        assert parse_execute(trim_execute(payload)) == execute
        assert execute.call.realm == "rig.example.com"
        assert parse_address(execute.call.control_address).pid is not None
        arrivals.append(execute.call.arrival)
    assert set(arrivals) == set(Arrival)


def test_every_status_answer_is_understood() -> None:
    for message in messages("in", "targeted", Event_Name="channel_status_resp"):
        schema.validate("status.response", message["payload"])
        status.parse_status_answer(message["payload"])


def test_every_probe_is_understood() -> None:
    for message in messages("in", "presence"):
        schema.validate("presence.probe", message["payload"])
        assert presence.parse_probe(message["payload"]) is not None


@pytest.mark.parametrize("direction", ["in", "out"])
def test_every_recorded_message_we_know_obeys_our_schemas(direction: str) -> None:
    known = {
        ("callctl", "command"): "command.",
        ("presence", "dialog_update"): "presence.dialog_update",
        ("callevt", "channel_status_req"): "status.request",
        **{("callevt", event.value): "event.park" for event in ParkEvent},
        ("callevt", "usurp_control"): "event.usurp_control",
        ("callevt", "CHANNEL_EXECUTE_COMPLETE"): "event.execute_complete",
        ("callevt", "CHANNEL_TRANSFEREE"): "event.channel_transferee",
        **{
            ("callevt", f"CHANNEL_{name}"): "event.channel"
            for name in ("DESTROY", "DISCONNECTED", "ANSWER", "BRIDGE", "INTERCEPTED")
        },
    }
    checked = 0
    for message in recordings():
        payload = message["payload"]
        name = known.get((message["exchange"], payload["Event-Name"]))
        if message["direction"] != direction or name is None:
            continue
        if name == "command.":
            queued = payload["Application-Name"] == "hangup" and "Insert-At" not in payload
            name += "queued_hangup" if queued else payload["Application-Name"]
        assert schema.first_error(name, payload) is None, payload
        checked += 1
    assert checked > 50


@pytest.mark.parametrize(
    ("effect", "fields"),
    [
        (effects.Answer(), {"Application_Name": "answer"}),
        (effects.Hold(), {"Application_Name": "hold"}),
        (effects.Hangup(), {"Application_Name": "hangup", "Insert_At": "now"}),
    ],
)
def test_plain_commands_are_the_references(effect: Command, fields: dict[str, str]) -> None:
    for recorded in messages("out", "callctl", **fields):
        assert ours(effect, recorded) == [comparable(recorded["payload"])]


def test_prompts_are_the_references() -> None:
    for recorded in messages("out", "callctl", Application_Name="queue"):
        media = recorded["payload"]["Commands"][1]["Media-Name"]
        prompt = next(prompt for prompt in Prompt if prompt.value in media)
        assert ours(effects.Play(prompt=prompt), recorded) == [comparable(recorded["payload"])]


def test_says_are_the_references() -> None:
    for recorded in messages("out", "callctl", Application_Name="say"):
        effect = effects.Say(text=recorded["payload"]["Say-Text"])
        assert ours(effect, recorded) == [comparable(recorded["payload"])]


def test_pickups_are_the_references() -> None:
    for recorded in messages("out", "callctl", Application_Name="call_pickup"):
        effect = effects.Pickup(target=CallId(recorded["payload"]["Target-Call-ID"]), usurp=True)
        assert ours(effect, recorded) == [comparable(recorded["payload"])]


def test_callee_commands_are_the_references() -> None:
    recorded = messages("out", "callctl", Application_Name="set")
    for number, name in zip(recorded[::2], recorded[1::2], strict=True):
        effect = effects.SetCallee(
            number=number["payload"]["Custom-Channel-Vars"]["Callee-ID-Number"],
            name=name["payload"]["Custom-Channel-Vars"]["Callee-ID-Name"],
        )
        expected = [comparable(number["payload"]), comparable(name["payload"])]
        assert ours(effect, number) == expected


def test_bridges_are_the_references_but_for_the_devices_own_facts() -> None:
    """The device's name and presence id are in its document, which no worker can read; we add the
    endpoint's own timeout (contract §4.11)."""
    for recorded in messages("out", "callctl", Application_Name="bridge"):
        (device,) = recorded["payload"]["Endpoints"]
        answer = device["Endpoint-Actions"]["Execute-On-Answer"]["Set-Caller-ID"]
        call = Call(
            call_id=CallId(recorded["payload"]["Call-ID"]),
            account=device["Account-ID"],
            request_user=device["Outbound-Callee-ID-Number"],
        )
        effect = effects.Bridge(
            endpoint_id=device["Endpoint-ID"],
            timeout_s=recorded["payload"]["Timeout"],
            slot=SlotId(device["Outbound-Caller-ID-Name"].split()[2]),
            caller_name=answer["Custom-Channel-Vars"]["Caller-ID-Name"],
            caller_number=device["Outbound-Caller-ID-Number"],
        )
        (built,) = ours(effect, recorded, call)
        expected = comparable(recorded["payload"])
        del expected["Endpoints"][0]["Outbound-Callee-ID-Name"]
        del expected["Endpoints"][0]["Presence-ID"]
        assert built["Endpoints"][0].pop("Endpoint-Timeout") == 20
        for side in (built, expected):
            del side["Endpoints"][0]["Endpoint-Actions"]["Execute-On-Answer"]["Set-Caller-ID"][
                "Call-ID"
            ]
        assert built == expected


@pytest.mark.parametrize("event", ParkEvent)
def test_park_events_are_the_references(event: ParkEvent) -> None:
    for recorded in messages("out", "callevt", Event_Name=event.value):
        payload = recorded["payload"]
        call = Call(
            call_id=CallId(payload["Call-ID"]),
            account=payload["Custom-Channel-Vars"]["Account-ID"],
            realm=payload["Custom-Channel-Vars"]["Realm"],
            caller_name=payload["Caller-ID-Name"],
            caller_number=payload["Caller-ID-Number"],
            callee_number=payload["Callee-ID-Number"],
            channel_vars=payload["Custom-Channel-Vars"],
        )
        built = park_events.park_event_payload(
            event,
            slot=SlotId(payload["Parking-Slot"]),
            call=call,
            call_id=call.call_id,
            node="n",
            msg_id="m",
        )
        assert comparable(built) == comparable(payload)
        assert recorded["routing_key"] == keys.park_event(event, call.call_id)
        assert recorded["properties"]["headers"] == park_events.event_headers(call.call_id)


def test_lamps_are_the_references() -> None:
    for recorded in messages("out", "presence"):
        payload = recorded["payload"]
        lamp = examples.lamp(
            call_id=CallId(payload["Call-ID"]),
            switch_uri=payload["Switch-URI"],
            user=payload["From-User"],
            realm=payload["From-Realm"],
            caller_name=payload["To-User"],
            caller_uri=payload["To"],
        )
        built = presence.dialog_update(
            lamp,
            PresenceType(payload["State"]),
            expires_s=payload["Expires"],
            node="n",
            msg_id="m",
        )
        assert comparable(built.payload) == comparable(payload)
        assert built.key == recorded["routing_key"]


def test_status_requests_are_the_references() -> None:
    for recorded in messages("out", "callevt", Event_Name="channel_status_req"):
        call_id = CallId(recorded["payload"]["Call-ID"])
        built = status.status_request(call_id, node="n", msg_id="m", server_id="q")
        assert comparable(built) == comparable(recorded["payload"])
        assert recorded["routing_key"] == keys.status_request(call_id)


def test_commands_go_where_the_reference_sent_them() -> None:
    for recorded in messages("out", "callctl"):
        pid = recorded["properties"]["headers"]["Deliver-To-PID"]
        address = parse_address(f"pid://{pid}/{recorded['routing_key']}")
        assert address.queue == recorded["routing_key"]
        assert address.headers == recorded["properties"]["headers"]


def test_result_terms_mean_what_the_platform_did() -> None:
    for row in json.loads((GOLDEN / "results.json").read_text()):
        if row["crash"] or not row["cf_exe_api"]:
            continue
        name, arguments = row["cf_exe_api"][0]
        decoded = decode_result(row["base64"])
        if decoded.atom == "hard_stop":
            assert name == "continue"  # an older tree did not know it, the newer does (§14)
        elif decoded.atom == "usurp":
            assert name == "control_usurped"
        else:
            assert name == decoded.atom
        if decoded.argument is not None:
            assert arguments == [f'<<"{decoded.argument}">>']
