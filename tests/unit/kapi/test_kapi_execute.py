"""What an execute says about the call (contract §2.2 to §2.4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schema import examples
from worker.errors import MalformedMessageError
from worker.kapi import schema
from worker.kapi.execute import parse_execute, trim_execute
from worker.parking.call import Arrival, Call

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
PLACES = [
    "/Msg-ID",
    "/Call-ID",
    "/Server-ID",
    "/Data",
    "/Call",
    *(f"/Call/{name}" for name in examples.execute()["Call"]),
    *(f"/Call/Key-Value-Store/{name}" for name in examples.execute()["Call"]["Key-Value-Store"]),
    *(
        f"/Call/Custom-Channel-Vars/{name}"
        for name in examples.execute()["Call"]["Custom-Channel-Vars"]
    ),
]


def channel_vars(**changes: object) -> Call:
    facts = examples.execute()["Call"]["Custom-Channel-Vars"]
    facts |= {name.replace("_", "-"): value for name, value in changes.items()}
    return parse_execute(examples.execute(Custom_Channel_Vars=facts)).call


def test_a_blind_transfer_is_read_whole() -> None:
    execute = parse_execute(examples.execute())
    call = execute.call
    assert execute.session == "8f0c1d2e3b4a59687786a5b4c3d2e1f0"
    assert execute.call_id == call.call_id == "alice-1@10.0.0.7"
    assert execute.data == {"action": "park", "slots": {"101": {"ringback_timeout": "25000"}}}
    assert call.account == examples.ACCOUNT
    assert call.arrival is Arrival.BLIND
    assert call.replaces == ()
    assert (call.referred_user, call.referred_realm) == ("bob", "acme.example")
    assert call.realm == "acme.example"
    assert call.fetch_id == "fetch-alice"
    assert call.request_user == "*3101"
    assert call.capture_group == "101"
    assert call.child_keys == ("_", "101")
    assert call.restricted_endpoint_id == examples.PARKER_DEVICE
    assert call.control_address == examples.CONTROL_ADDRESS
    assert call.reply_address == examples.REPLY_ADDRESS
    assert call.from_uri == "alice@acme.example"
    assert call.from_tag == "tag-from"
    assert call.switch_uri == "sip:10.26.0.11:11000"
    assert call.switch_node == "freeswitch@fs1.acme.example"
    assert (call.caller_name, call.caller_number) == ("Alice", "4001")
    assert (call.callee_name, call.callee_number) == ("", "*3101")
    assert call.channel_vars["Fetch-ID"] == "fetch-alice"


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/Msg-ID", ...),
        ("/Msg-ID", 5),
        ("/Msg-ID", ""),
        ("/Call-ID", ...),
        ("/Call-ID", None),
        ("/Call", ...),
        ("/Call", None),
        ("/Call", []),
        ("/Call", "x"),
        ("/Call/Account-ID", ...),
        ("/Call/Account-ID", {}),
        ("/Call/Account-ID", ""),
    ],
)
def test_what_a_session_cannot_do_without_is_demanded(pointer: str, value: object) -> None:
    spoiled = examples.spoiled(examples.execute(), pointer, value)
    with pytest.raises(MalformedMessageError) as parsed:
        parse_execute(spoiled)
    with pytest.raises(MalformedMessageError) as validated:
        schema.validate("action.execute", spoiled)
    assert parsed.value.pointer == validated.value.pointer == pointer


@settings(max_examples=300)
@given(pointer=st.sampled_from(PLACES), value=JSON | st.just(...))
def test_parser_and_schema_agree_and_trimming_loses_nothing(pointer: str, value: Any) -> None:
    payload = examples.spoiled(examples.execute(), pointer, value)
    valid = schema.first_error("action.execute", payload) is None
    if valid:
        assert parse_execute(trim_execute(payload)) == parse_execute(payload)
    else:
        with pytest.raises(MalformedMessageError):
            parse_execute(payload)


@given(st.dictionaries(st.sampled_from(["Msg-ID", "Call-ID", "Call", "Data", "x"]), JSON))
def test_any_object_is_an_execute_or_malformed(payload: dict[str, Any]) -> None:
    try:
        execute = parse_execute(payload)
    except MalformedMessageError:
        return
    assert parse_execute(trim_execute(payload)) == execute


def test_trimming_leaves_out_what_nobody_reads() -> None:
    trimmed = trim_execute(examples.execute())
    assert set(trimmed) == {"Msg-ID", "Call-ID", "Server-ID", "Data", "Call"}
    record = trimmed["Call"]
    assert isinstance(record, dict)
    assert "Custom-SIP-Headers" not in record
    assert "Account-DB" not in record


@pytest.mark.parametrize("data", [None, "", [], {}])
def test_no_data_is_a_node_without_options(data: object) -> None:
    payload = examples.execute() | {"Data": data}
    assert parse_execute(payload).data == {}
    del payload["Data"]
    assert parse_execute(payload).data == {}


@pytest.mark.parametrize("data", ["park", 5, [1], True, 0, False])
def test_odd_data_is_kept_for_the_node_check(data: object) -> None:
    execute = parse_execute(examples.execute() | {"Data": data})
    with pytest.raises(MalformedMessageError) as caught:
        schema.validate_node(execute.data)
    assert caught.value.pointer == "/Data"


def test_an_attended_transfer_names_the_call_it_replaces() -> None:
    call = channel_vars(Referred_To="<sip:*3101@acme.example?Replaces=bob%40h;to-tag=a>")
    assert call.arrival is Arrival.ATTENDED
    assert call.replaces == ("bob%40h", "bob@h")


def test_a_transfer_with_an_empty_replaces_is_blind() -> None:
    assert channel_vars(Referred_To="sip:1@r?Replaces=;to-tag=x").arrival is Arrival.BLIND


@pytest.mark.parametrize("absent", ["", "  ", None, [], {}])
def test_a_call_without_referred_to_was_dialled(absent: object) -> None:
    assert channel_vars(Referred_To=absent).arrival is Arrival.DIRECT


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"Account-Realm": "Acme.Example", "Realm": "b"}, "Acme.Example"),
        ({"Account-Realm": "", "Realm": "Realm.B"}, "Realm.B"),
        ({"Realm": 5}, "5"),
        ({}, "From.Example"),
    ],
)
def test_realm_comes_from_the_best_source(found: dict[str, object], expected: str) -> None:
    payload = examples.execute(
        Custom_Channel_Vars=found, From_Realm="From.Example", Request_Realm="Request.Example"
    )
    assert parse_execute(payload).call.realm == expected


def test_a_carriers_realm_is_the_last_resort() -> None:
    def realm(**changes: object) -> str:
        payload = examples.execute(
            Custom_Channel_Vars={}, Inception="+1555@carrier", From_Realm="carrier", **changes
        )
        return parse_execute(payload).call.realm

    assert realm(Request_Realm="acme.example") == "acme.example"
    assert realm(Request_Realm="") == "carrier"


def test_fetch_id_of_the_channel_wins() -> None:
    assert channel_vars(Fetch_ID="of-channel").fetch_id == "of-channel"
    assert channel_vars(Fetch_ID="").fetch_id == "fetch-alice"


@pytest.mark.parametrize(
    ("value", "expected"), [(101, "101"), ("vip", "vip"), ({}, ""), (None, "")]
)
def test_capture_group_may_be_a_number(value: object, expected: str) -> None:
    payload = examples.execute(Key_Value_Store={"cf_capture_group": value})
    assert parse_execute(payload).call.capture_group == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(["_", 101, None], ("_", "101")), ("_", ()), ({"_": {}}, ()), (None, ())],
)
def test_child_keys_that_are_no_list_are_none(value: object, expected: tuple[str, ...]) -> None:
    payload = examples.execute(Key_Value_Store={"action-exit-keys": value})
    assert parse_execute(payload).call.child_keys == expected


def test_replies_go_to_the_controller_queue_without_a_server_id() -> None:
    payload = examples.execute(Controller_Queue="pid://<0.5.0>/other")
    assert parse_execute(payload).call.reply_address == examples.REPLY_ADDRESS
    del payload["Server-ID"]
    assert parse_execute(payload).call.reply_address == "pid://<0.5.0>/other"


def test_bare_minimum_has_defaults() -> None:
    payload = {"Msg-ID": "m", "Call-ID": "c", "Call": {"Account-ID": "a"}}
    call = parse_execute(payload).call
    assert call == Call(call_id=call.call_id, account=call.account)
    assert schema.first_error("action.execute", payload) is None


def test_dialled_user_falls_back_to_the_request() -> None:
    payload = examples.execute(Request_User=None, Request="sip:*3101@acme.example")
    assert parse_execute(payload).call.request_user == "*3101"
    assert parse_execute(examples.execute(From="sip:a@b")).call.from_uri == "a@b"
