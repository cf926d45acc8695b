"""Lamps that no caller can blank (contract §5, and what Kamailio was measured to do)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schema import examples
from worker.errors import MalformedMessageError
from worker.kapi import keys, schema
from worker.kapi.presence import (
    Probe,
    Reset,
    UnlightableError,
    dialog_update,
    escape,
    parse_probe,
    parse_reset,
)
from worker.parking.lamp import Lamp
from worker.parking.model import PresenceType

NASTY = st.text(st.sampled_from("a<&\">' \x00\x1b\n\u2028é漢😀\ufffe%;@")) | st.text()


def lamp(state: PresenceType = PresenceType.EARLY, **changes: Any) -> dict[str, Any]:
    update = dialog_update(
        examples.lamp(**changes), state, expires_s=600, node=examples.NODE, msg_id="m-1"
    )
    return update.payload


def document(payload: dict[str, Any]) -> ET.Element:
    """What Kamailio makes of an update: values pasted into XML as they are."""
    at = payload
    return ET.fromstring(
        f'<dialog id="{at["Call-ID"]}" call-id="{at["Call-ID"]}" local-tag="{at["From-Tag"]}"'
        f' remote-tag="{at["To-Tag"]}" direction="{at["Direction"]}"><state>{at["State"]}</state>'
        f'<local><identity display="{at["From-User"]}">{at["From"]}</identity></local>'
        f'<remote><identity display="{at["To-User"]}">{at["To"]}</identity>'
        f'<target uri="{at["To-URI"]}"/></remote></dialog>'
    )


def test_a_lit_lamp_has_exactly_these_fields() -> None:
    assert lamp() == {
        "Event-Category": "presence",
        "Event-Name": "dialog_update",
        "App-Name": "park",
        "App-Version": "4.0.0",
        "Node": examples.NODE,
        "Msg-ID": "m-1",
        "Presence-ID": "*3101@Acme.example",
        "From": "sip:*3101@Acme.example",
        "From-User": "*3101",
        "From-Realm": "Acme.example",
        "From-Tag": "A",
        "To": "alice@acme.example",
        "To-User": "Alice",
        "To-Realm": "Acme.example",
        "To-Tag": "B",
        "To-URI": "sip:*3101@Acme.example",
        "State": "early",
        "Call-ID": "alice-1@10.0.0.7",
        "Switch-URI": "sip:10.26.0.11:11000",
        "Direction": "recipient",
        "Expires": 600,
        "Event-Package": "dialog",
    }


@pytest.mark.parametrize("state", PresenceType)
def test_the_state_is_the_callers(state: PresenceType) -> None:
    assert lamp(state)["State"] == state.value


def test_the_key_has_three_words() -> None:
    early = PresenceType.EARLY
    update = dialog_update(examples.lamp(), early, expires_s=600, node="n", msg_id="m")
    assert update.key == "dialog.Acme%2Eexample.alice-1%4010%2E0%2E0%2E7"


@given(name=NASTY, uri=NASTY, call_id=st.text(st.sampled_from("<&\">'ab@."), min_size=1))
def test_terminated_repeats_what_was_lit(name: str, uri: str, call_id: str) -> None:
    facts: dict[str, Any] = {
        "caller_name": name,
        "caller_uri": uri,
        "call_id": call_id[:20],
        "switch_uri": uri,
    }
    lit, dark = lamp(**facts), lamp(PresenceType.TERMINATED, **facts)
    assert {k: v for k, v in lit.items() if k not in {"State", "Expires"}} == {
        k: v for k, v in dark.items() if k not in {"State", "Expires"}
    }


@given(name=NASTY, number=NASTY, uri=NASTY)
def test_no_caller_can_blank_the_lamp(name: str, number: str, uri: str) -> None:
    payload = lamp(caller_name=name * 50, caller_number=number, caller_uri=uri * 50)
    assert schema.first_error("presence.dialog_update", payload) is None
    identity = document(payload).find("remote/identity")
    assert identity is not None
    assert identity.get("display")
    assert identity.text
    assert len(payload["To-User"].encode()) <= 255
    assert len(payload["To"].encode()) <= 255


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("Alice & Bob <x>", "1", "Alice &amp; Bob &lt;x&gt;"),
        ('Say "hi"', "1", "Say &quot;hi&quot;"),
        ("O'Brien", "1", "O'Brien"),
        ("\x00\x07Al\nice", "1", "Alice"),
        ("שלום", "1", "שלום"),
        ("", "4001", "4001"),
        (" \t", "4001", "4001"),
        ("\x00", "\x01", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_to_user_is_readable_and_never_empty(name: str, number: str, shown: str) -> None:
    assert lamp(caller_name=name, caller_number=number)["To-User"] == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("alice@acme.example", "alice@acme.example"),
        ('"Al" <sip:al@x>', "Alsip:al@x"),
        ("a b@x", "ab@x"),
        ("a&b@x", "a&amp;b@x"),
        ("", "4001@Acme.example"),
        ("<>", "4001@Acme.example"),
    ],
)
def test_to_is_a_bare_uri_and_never_empty(uri: str, shown: str) -> None:
    assert lamp(caller_uri=uri)["To"] == shown


@pytest.mark.parametrize("cap", [0, 1, 4, 5, 6, 255])
@given(text=NASTY)
def test_escaping_cuts_between_characters_and_entities(cap: int, text: str) -> None:
    whole, cut = escape(text, 100_000), escape(text, cap)
    assert whole.startswith(cut)
    assert len(cut.encode()) <= cap
    ET.fromstring(f'<a b="{cut}">{cut}</a>')
    rest = len(whole.encode()) - len(cut.encode())
    assert rest == 0 or len(cut.encode()) > cap - len("&quot;")


def test_the_longest_name_is_cut_to_255_bytes() -> None:
    assert lamp(caller_name="x" * 10_000)["To-User"] == "x" * 255
    assert lamp(caller_name="&" * 10_000)["To-User"] == "&amp;" * 51
    assert lamp(caller_name="😀" * 10_000)["To-User"] == "😀" * 63


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"call_id": "x" * 129}, "the Call-ID is longer than 128 bytes"),
        ({"call_id": "&" * 30}, "the Call-ID is longer than 128 bytes"),
        ({"call_id": "é" * 65}, "the Call-ID is longer than 128 bytes"),
        ({"call_id": "a\nb"}, "the Call-ID has control characters"),
        ({"call_id": ""}, "the Call-ID is empty"),
        ({"call_id": "@" * 90}, "the lamp's routing key is longer than 255 bytes"),
        ({"user": ""}, "the lamp's user is empty"),
        ({"realm": ""}, "the lamp's realm is empty"),
        ({"user": "a&b"}, "the lamp's user has characters no presence URI can carry"),
        ({"user": "vip room"}, "the lamp's user has characters no presence URI can carry"),
        ({"user": "a@b"}, "the lamp's user has characters no presence URI can carry"),
        ({"realm": 'a"b'}, "the lamp's realm has characters no presence URI can carry"),
        ({"realm": "a\x00b"}, "the lamp's realm has characters no presence URI can carry"),
        ({"user": "1" * 250}, "the lamp's URI is longer than 255 bytes"),
    ],
)
def test_a_lamp_that_cannot_be_made_safe_is_refused(changes: dict[str, Any], reason: str) -> None:
    for state in PresenceType:
        with pytest.raises(UnlightableError) as caught:
            lamp(state, **changes)
        assert str(caught.value) == reason


def test_a_call_id_of_128_bytes_is_lit() -> None:
    assert lamp(call_id="x" * 128)["Call-ID"] == "x" * 128
    assert lamp(call_id='a<"b')["Call-ID"] == "a&lt;&quot;b"


@given(st.text(), st.text(), st.text())
def test_any_lamp_is_valid_or_refused(user: str, realm: str, call_id: str) -> None:
    facts: dict[str, Any] = {
        "user": user,
        "realm": realm,
        "call_id": call_id,
    }
    early = PresenceType.EARLY
    try:
        update = dialog_update(
            examples.lamp(**facts), early, expires_s=600, node="n", msg_id="m"
        )
    except UnlightableError:
        return
    assert schema.first_error("presence.dialog_update", update.payload) is None
    assert keys.fits(update.key)
    assert update.payload["From-User"] == user
    assert document(update.payload).findtext("local/identity") == f"sip:{user}@{realm}"


def test_a_missing_switch_uri_is_left_out() -> None:
    assert "Switch-URI" not in lamp(switch_uri="")


def test_a_free_slot_is_dark_under_a_stable_id() -> None:
    def free(user: str) -> dict[str, Any]:
        nobody, dark = Lamp.of_free(user, "acme.example"), PresenceType.TERMINATED
        return dialog_update(nobody, dark, expires_s=10, node="n", msg_id="m").payload

    assert free("*3101") == free("*3101")
    assert free("*3101")["State"] == "terminated"
    assert free("*3101")["To-User"] == "unknown"
    assert free("*3101")["Call-ID"] != free("*3102")["Call-ID"]
    with pytest.raises(UnlightableError):
        free("a b")


def test_a_probe_asks_for_one_lamp() -> None:
    probe = examples.RECEIVED["presence.probe"]
    assert parse_probe(probe) == Probe(user="*3101", realm="acme.example")
    assert parse_probe(probe | {"Event-Package": "message-summary"}) is None


def test_a_reset_forgets_a_lamp_or_a_realm() -> None:
    reset = examples.RECEIVED["presence.reset"]
    assert parse_reset(reset) == Reset(user="*", realm="acme.example")
    assert parse_reset(reset | {"Event-Package": "dialog"}) == parse_reset(reset)
    assert parse_reset(reset | {"Event-Package": "presence"}) is None


@pytest.mark.parametrize("field", ["Username", "Realm"])
@pytest.mark.parametrize("value", [None, "", 5, []])
def test_a_probe_or_reset_without_its_lamp_is_malformed(field: str, value: object) -> None:
    with pytest.raises(MalformedMessageError) as probed:
        parse_probe(examples.RECEIVED["presence.probe"] | {field: value})
    with pytest.raises(MalformedMessageError) as reset:
        parse_reset(examples.RECEIVED["presence.reset"] | {field: value})
    assert probed.value.pointer == reset.value.pointer == f"/{field}"
