"""Commands field by field (contract §4)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schema import examples
from worker.kapi import schema
from worker.kapi.commands import (
    NAME_CHARS,
    CommandPayload,
    command_payloads,
    dialable_name,
    dialable_number,
)
from worker.parking import effects
from worker.parking.call import Call
from worker.parking.effects import Command, Prompt
from worker.parking.events import App
from worker.parking.model import CallId, SlotId

ALICE = CallId("alice-2@10.0.0.7")
HEADERS = {
    "Event-Category": "call",
    "Event-Name": "command",
    "App-Name": "callflow",
    "App-Version": "4.0.0",
    "Node": examples.NODE,
    "Call-ID": ALICE,
}


def sent(effect: Command, *, call: Call | None = None, **options: Any) -> list[CommandPayload]:
    return command_payloads(
        effect,
        call=call or examples.call(),
        call_id=ALICE,
        node=examples.NODE,
        new_id=examples.ids(),
        **options,
    )


def only(effect: Command, *, call: Call | None = None, **options: Any) -> dict[str, Any]:
    messages = sent(effect, call=call, **options)
    assert len(messages) == 1
    return messages[0].payload


def bridge(**changes: Any) -> effects.Bridge:
    facts: dict[str, Any] = {
        "endpoint_id": "device-1",
        "timeout_s": 30,
        "slot": SlotId("101"),
        "caller_name": "Alice",
        "caller_number": "4001",
    }
    return effects.Bridge(**(facts | changes))


@pytest.mark.parametrize(
    ("effect", "fields"),
    [
        (effects.Answer(), {"Application-Name": "answer"}),
        (effects.Hold(), {"Application-Name": "hold", "Insert-At": "now"}),
        (effects.ParkSilently(), {"Application-Name": "park", "Insert-At": "now"}),
        (effects.Break(), {"Application-Name": "break", "Insert-At": "now"}),
        (effects.Hangup(), {"Application-Name": "hangup", "Insert-At": "now"}),
        (
            effects.Say(text="101"),
            {
                "Application-Name": "say",
                "Say-Text": "101",
                "Type": "name_spelled",
                "Method": "pronounced",
                "Language": "en-us",
            },
        ),
        (
            effects.Pickup(target=CallId("bob"), usurp=True),
            {
                "Application-Name": "call_pickup",
                "Target-Call-ID": "bob",
                "Unbridged-Only": True,
                "Continue-On-Fail": False,
                "Continue-On-Cancel": True,
                "Park-After-Pickup": False,
            },
        ),
    ],
)
def test_command_has_exactly_these_fields(effect: Command, fields: dict[str, Any]) -> None:
    assert only(effect) == HEADERS | {"Msg-ID": "id-1"} | fields


def test_a_pickup_that_must_not_usurp_says_so() -> None:
    assert only(effects.Pickup(target=CallId("bob"), usurp=False))["Publish-Usurp"] is False


def test_a_server_id_is_named_only_when_given() -> None:
    assert "Server-ID" not in only(effects.Answer())
    assert only(effects.Answer(), server_id="kzpark-w1")["Server-ID"] == "kzpark-w1"


@pytest.mark.parametrize(
    ("media", "path"),
    [
        ("5f1d", f"/{examples.ACCOUNT}/5f1d"),
        ("/other/5f1d", "/other/5f1d"),
        ("silence_stream://-1", "silence_stream://-1"),
    ],
)
def test_hold_media_without_a_slash_is_the_accounts(media: str, path: str) -> None:
    assert only(effects.Hold(media=media))["Hold-Media"] == path


def test_a_prompt_is_a_queue_of_noop_and_play() -> None:
    (message,) = sent(effects.Play(prompt=Prompt.PLACED))
    assert message.app is App.QUEUE
    assert message.noop_id != message.msg_id
    assert message.payload["Msg-ID"] == message.msg_id
    assert message.payload["Commands"] == [
        {"Application-Name": "noop", "Call-ID": ALICE, "Msg-ID": message.noop_id},
        {
            "Application-Name": "play",
            "Call-ID": ALICE,
            "Media-Name": f"prompt://{examples.ACCOUNT}/park-call_placed_in_spot/en-us",
            "Terminators": ["#", "*", *"0123456789"],
            "Endless-Playback": False,
        },
    ]


@pytest.mark.parametrize("prompt", Prompt)
def test_prompts_speak_the_calls_language(prompt: Prompt) -> None:
    call = dataclasses.replace(examples.call(), language="fr-fr")
    commands = only(effects.Play(prompt=prompt), call=call)["Commands"]
    assert commands[1]["Media-Name"] == f"prompt://{examples.ACCOUNT}/{prompt.value}/fr-fr"


def test_prompts_come_from_the_system_when_accounts_have_none() -> None:
    commands = only(effects.Play(prompt=Prompt.IN_USE), account_prompts=False)["Commands"]
    assert commands[1]["Media-Name"] == "prompt://system_media/park-already_in_use/en-us"


def test_the_callee_is_set_by_two_commands_number_first() -> None:
    number, name = (one.payload for one in sent(effects.SetCallee(number="4001", name="Alice")))
    common = HEADERS | {
        "Application-Name": "set",
        "Custom-Call-Vars": {},
        "Export-All": False,
        "Insert-At": "now",
    }
    assert number == common | {
        "Msg-ID": "id-1",
        "Custom-Channel-Vars": {"Callee-ID-Number": "4001"},
    }
    assert name == common | {"Msg-ID": "id-2", "Custom-Channel-Vars": {"Callee-ID-Name": "Alice"}}


def test_a_bridge_rings_the_device_by_document_id() -> None:
    payload = only(bridge())
    (endpoint,) = payload["Endpoints"]
    assert payload["Timeout"] == endpoint["Endpoint-Timeout"] == 30
    assert "Insert-At" not in payload
    assert endpoint["Invite-Format"] == "endpoint"
    assert endpoint["Endpoint-URI"] == f"device-1@{examples.ACCOUNT}"
    assert endpoint["Endpoint-ID"] == "device-1"
    assert endpoint["Account-ID"] == examples.ACCOUNT
    assert endpoint["Outbound-Caller-ID-Name"] == "Parking slot 101 - Alice"
    assert endpoint["Outbound-Caller-ID-Number"] == "4001"
    restore = endpoint["Endpoint-Actions"]["Execute-On-Answer"]["Set-Caller-ID"]
    assert restore["Application-Name"] == "set"
    assert restore["Custom-Channel-Vars"] == {"Caller-ID-Name": "Alice"}
    assert restore["Custom-Call-Vars"] == {}
    assert len({restore["Msg-ID"], restore["Call-ID"], payload["Msg-ID"], ALICE}) == 4


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("O'Brien, {x=1}", "4001", "Parking slot 101 - OBrien x1"),
        ("Jürgen Groß", "4001", "Parking slot 101 - Jürgen Groß"),
        ("a\r\nb\tc", "4001", "Parking slot 101 - a b c"),
        ("", "+1 (555) 1234", "Parking slot 101 - 15551234"),
        ("<>", "", "Parking slot 101"),
        ("", "", "Parking slot 101"),
    ],
)
def test_the_parker_sees_slot_and_caller_in_plain_characters(
    name: str, number: str, shown: str
) -> None:
    (endpoint,) = only(bridge(caller_name=name, caller_number=number))["Endpoints"]
    assert endpoint["Outbound-Caller-ID-Name"] == shown


def test_a_nameless_caller_is_restored_by_number() -> None:
    (endpoint,) = only(bridge(caller_name=""))["Endpoints"]
    restore = endpoint["Endpoint-Actions"]["Execute-On-Answer"]["Set-Caller-ID"]
    assert restore["Custom-Channel-Vars"] == {"Caller-ID-Name": "4001"}
    (bare,) = only(bridge(caller_name="", caller_number=""))["Endpoints"]
    assert "Endpoint-Actions" not in bare
    assert "Outbound-Caller-ID-Number" not in bare


@pytest.mark.parametrize(
    ("number", "forms"),
    [
        ("3905", ["3905", "3905", "3905", "3905", "3905"]),
        (
            "+14158867900",
            ["+14158867900", "4158867900", "14158867900", "14158867900", "+14158867900"],
        ),
        ("4158867900", ["+14158867900", "4158867900", "14158867900", "4158867900", "4158867900"]),
        ("+4930123456", ["+4930123456", "+4930123456", "+4930123456", "4930123456", "+4930123456"]),
    ],
)
def test_the_dialled_number_is_given_in_every_spelling(number: str, forms: list[str]) -> None:
    call = dataclasses.replace(examples.call(), request_user=number)
    context = only(bridge(), call=call)["Call-Context"]
    names = ("e164", "npan", "1npan", "strip_plus", "route")
    assert context["request"] == dict(zip(names, forms, strict=True))


def test_a_call_from_outside_is_offnet() -> None:
    assert only(bridge())["Call-Context"]["Inception"] == "onnet"
    outside = dataclasses.replace(examples.call(), inception="+1555@carrier")
    assert only(bridge(), call=outside)["Call-Context"]["Inception"] == "offnet"


@given(name=st.text(), number=st.text(), slot=st.text(min_size=1))
def test_no_caller_makes_an_invalid_bridge(name: str, number: str, slot: str) -> None:
    effect = bridge(caller_name=name, caller_number=number, slot=SlotId(slot))
    assert schema.first_error("command.bridge", only(effect)) is None


@given(st.text())
def test_dialable_text_cannot_leave_its_place(text: str) -> None:
    name, number = dialable_name(text), dialable_number(text)
    assert len(name) <= NAME_CHARS
    assert len(number) <= NAME_CHARS
    assert not set(name + number) & set("{}[]()<>,;:'\"\\|=^$&!/\r\n\t")
    assert name == name.strip()
    assert dialable_name(name) == name


def test_a_ten_kilobyte_name_is_cut() -> None:
    assert len(dialable_name("a " * 5000)) == NAME_CHARS - 1


@pytest.mark.parametrize("effect", examples.COMMANDS)
def test_the_same_inputs_give_the_same_messages(effect: Command) -> None:
    assert sent(effect) == sent(effect)
    assert all(one.payload["Msg-ID"] == one.msg_id for one in sent(effect))
    assert all(one.payload["Application-Name"] == one.app.value for one in sent(effect))
