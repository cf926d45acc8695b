"""Pseudonyms: nobody can be told from the trace, and it still replays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.solo import BLIND, attended
from tests.unit.trace.tape import Tape
from worker.parking.records import Claim
from worker.trace.lines import Line, LogRecord, Message, TableLine, line_bytes
from worker.trace.redact import Redactor
from worker.trace.replay import replay

KEY = b"k" * 32
PEOPLE = {
    "Caller-ID-Name": "Zoë O'Brien & Söhne <x>",
    "Caller-ID-Number": "+12125551234",
    "From": "40017@acme.example.com",
    "From-User": "40017",
}
SECRETS = ("Zoë", "Brien", "hne", "2125551234", "40017", "Zed", "99887766")


def call(**fields: Any) -> dict[str, Any]:
    return {"call": {**PEOPLE, **fields}}


def redacted(lines: Sequence[Line]) -> list[Line]:
    redactor = Redactor(KEY)
    done = [redactor.line(line) for line in lines]
    return [line for line in done if line is not None]


def text_of(lines: Sequence[Line]) -> str:
    return b"".join(line_bytes(line) for line in lines).decode()


def episode(**request: Any) -> Tape:
    """Parked, rung, retrieved, parked again attended: names and numbers go everywhere."""
    tape = Tape()
    data = {"default_ringback_timeout": 20_000, "slots": {"777": {"presence_id": "4321"}}}
    sip = {"Contact": "Zed <sip:99887766@10.0.0.1>"}
    headers = {"Custom-SIP-Headers": sip, "Custom-Application-Vars": {"secret": "Zed"}}
    tape.execute(
        "a", data=data, restricted="device-1", **call(**headers, **request), **BLIND
    )
    tape.wait(20_100)
    tape.completed("hold", "a", Caller_ID_Name="Zed", Caller_ID_Number="99887766", From="Zed@x")
    tape.completed("bridge", "a", Application_Response="USER_BUSY", Disposition="USER_BUSY")
    tape.wait(1_000)
    tape.execute("c", capture="101", data={"action": "retrieve"}, **call())
    tape.wait(20)
    tape.bridge("c", "a")
    tape.wait(1_000)
    tape.execute("v", capture="55", **call())
    tape.completed("answer", "v")
    tape.execute("x", capture="55", restricted="device-1", **attended("v"), **call())
    probe = {"Event-Name": "probe", "Event-Category": "presence", "Event-Package": "dialog"}
    shown = next(p.payload["Presence-ID"] for p in reversed(tape.published) if "State" in p.payload)
    user, _, realm = str(shown).partition("@")
    tape.message({**probe, "Username": user, "Realm": realm}, "presence")
    tape.wait(1_000)
    return tape


REQUESTS: list[dict[str, Any]] = [
    {},
    {"Request": "3900@acme.example.com", "Request-User": "3900", "Callee-ID-Number": "3900"},
    {"Request": "2025550143@acme.example.com", "Request-User": "2025550143"},
    {"Request": "+12025550143@acme.example.com", "Request-User": "+12025550143"},
]


@pytest.mark.parametrize("request_fields", REQUESTS, ids=["star", "short", "national", "e164"])
def test_a_redacted_recording_replays(request_fields: dict[str, Any]) -> None:
    tape = episode(**request_fields)
    assert [str(one) for one in replay(tape.trace()).differences] == []
    result = replay(tape.trace(redacted(tape.lines)))
    assert [str(one) for one in result.differences] == []
    assert result.effects > 25


@pytest.mark.parametrize("request_fields", REQUESTS, ids=["star", "short", "national", "e164"])
def test_nobody_can_be_told_from_a_redacted_recording(request_fields: dict[str, Any]) -> None:
    tape = episode(**request_fields)
    text = text_of(redacted(tape.lines))
    secrets = [*SECRETS, str(request_fields.get("Request-User", "2125551234")).lstrip("+")]
    assert [secret for secret in secrets if secret in text] == []


def test_slots_star_codes_and_ids_stay() -> None:
    text = text_of(redacted(episode().lines))
    for kept in ('"*3101"', '"101"', "device-1", "fetch-a", "009afc511c97b2ae693c6cc4920988e8"):
        assert kept in text
    assert '"777":{"presence_id":"4321"}' in text


def test_the_same_person_has_the_same_pseudonym_everywhere_in_one_recording_only() -> None:
    redactor, other = Redactor(KEY), Redactor()
    assert redactor.number("+12125551234") == redactor.number("+12125551234")
    assert redactor.name("Ann") == redactor.name("Ann") != redactor.name("Bob")
    assert redactor.name("Ann") != other.name("Ann")
    assert redactor.name("Parking slot 101 - Ann") == f"Parking slot 101 - {redactor.name('Ann')}"


NUMBERS = ("+12125551234", "2125551234", "12125551234", "4001", "01", "+4930123456")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_keeps_its_shape(number: str) -> None:
    pseudonym = Redactor(KEY).number(number)
    assert pseudonym != number
    assert len(pseudonym) == len(number)
    assert pseudonym.startswith("+") == number.startswith("+")


def test_spellings_of_a_north_american_number_stay_spellings_of_one() -> None:
    redactor = Redactor(KEY)
    forms = [redactor.number(form) for form in ("+12125551234", "12125551234", "2125551234")]
    assert {form.removeprefix("+1").removeprefix("1") for form in forms} == {forms[2]}


@pytest.mark.parametrize("text", ["", "*3101", "unknown", "bob", "x"])
def test_what_is_no_number_stays(text: str) -> None:
    assert Redactor(KEY).number(text) == text


def test_a_number_inside_a_call_id_goes_too() -> None:
    redactor = Redactor(KEY)
    pseudonym = redactor.number("4001")
    assert redactor.call_id("x-4001-1@10.0.0.1") == f"x-{pseudonym}-1@10.0.0.1"
    assert redactor.call_id("x-14001@10.0.0.1") == "x-14001@10.0.0.1"


def test_a_body_nobody_can_read_is_left_out() -> None:
    line = Message(at_ms=1, exchange="callevt", key="k", body=b"Zed\xff")
    assert Redactor(KEY).line(line) is None


def test_records_of_the_slot_log_and_the_table_are_redacted() -> None:
    tape = episode()
    table = TableLine(at_ms=1, state=tape.solo.table.snapshot())
    records: list[Line] = [
        LogRecord(at_ms=1, offset=n, record=record)
        for n, record in enumerate(tape.solo.records)
    ]
    lines = redacted([*tape.lines, *records, table])
    text = text_of(lines)
    assert [secret for secret in SECRETS if secret in text] == []
    claims = [one.record for one in lines if isinstance(one, LogRecord)]
    names = {claim.entry.caller_name for claim in claims if isinstance(claim, Claim)}
    assert names == {Redactor(KEY).name(PEOPLE["Caller-ID-Name"])}
