"""What the switch says, as parking hears it (contract §3.3 to §3.7)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schema import examples
from worker.errors import MalformedMessageError
from worker.kapi import schema
from worker.kapi.events import parse_app, parse_event
from worker.parking import events
from worker.parking.events import App, ChannelEvent
from worker.parking.model import CallId

ALICE = CallId("alice-1@10.0.0.7")
EVENTS = {name: message for name, message in examples.RECEIVED.items() if name.startswith("event.")}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def channel(name: str, **fields: object) -> dict[str, Any]:
    base = examples.RECEIVED["event.channel"] | {"Event-Name": name}
    del base["Other-Leg-Call-ID"]
    return base | {field.replace("_", "-"): value for field, value in fields.items()}


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (
            channel("CHANNEL_DESTROY", Hangup_Cause="NORMAL_CLEARING", Disposition="SUCCESS"),
            events.ChannelDestroyed(
                call_id=ALICE, hangup_cause="NORMAL_CLEARING", disposition="SUCCESS"
            ),
        ),
        (channel("CHANNEL_DISCONNECTED"), events.ChannelDisconnected(call_id=ALICE)),
        (channel("CHANNEL_CONNECTED"), events.ChannelConnected(call_id=ALICE)),
        (channel("CHANNEL_ANSWER"), events.ChannelAnswered(call_id=ALICE)),
        (
            channel("CHANNEL_BRIDGE", Other_Leg_Call_ID="bob"),
            events.ChannelBridged(call_id=ALICE, other_leg=CallId("bob")),
        ),
        (
            channel("CHANNEL_BRIDGE", Bridge_B_Unique_ID="bob"),
            events.ChannelBridged(call_id=ALICE, other_leg=CallId("bob")),
        ),
        (
            channel("CHANNEL_UNBRIDGE", Other_Leg_Call_ID="bob"),
            events.ChannelUnbridged(call_id=ALICE, other_leg=CallId("bob")),
        ),
        (
            channel("CHANNEL_INTERCEPTED", Intercepted_By="carol"),
            events.ChannelIntercepted(call_id=ALICE, by=CallId("carol")),
        ),
        (
            channel("CHANNEL_REPLACED", Replaced_By="alice-2"),
            events.ChannelReplaced(
                call_id=ALICE, new_call_id=CallId("alice-2"), fetch_id="fetch-alice"
            ),
        ),
        (
            channel("CHANNEL_DIRECT", Connecting_Leg_B_UUID="alice-2", Custom_Channel_Vars=[]),
            events.ChannelReplaced(call_id=ALICE, new_call_id=CallId("alice-2")),
        ),
        (
            channel("CHANNEL_TRANSFEREE"),
            events.ChannelTransferred(call_id=ALICE, fetch_id="fetch-alice"),
        ),
        (channel("CHANNEL_PIVOT"), events.ChannelPivoted(call_id=ALICE)),
        (
            examples.RECEIVED["event.usurp_control"],
            events.ControlUsurped(call_id=ALICE, fetch_id="fetch-other", reason="redirect"),
        ),
        (
            examples.RECEIVED["event.execute_complete"],
            events.CommandCompleted(call_id=ALICE, app=App.NOOP, response="id-1"),
        ),
        (
            channel(
                "CHANNEL_EXECUTE_COMPLETE",
                Application_Name="bridge",
                Application_Response="NO_ANSWER",
                Disposition="NO ANSWER",
                Bridge_Hangup_Cause="NO_ANSWER",
                Channel_State="EXECUTE",
            ),
            events.CommandCompleted(
                call_id=ALICE,
                app=App.BRIDGE,
                response="NO_ANSWER",
                disposition="NO ANSWER",
                hangup_cause="NO_ANSWER",
                channel_state="EXECUTE",
            ),
        ),
        (
            examples.RECEIVED["event.dialplan_error"] | {"Channel-Call-State": "DOWN"},
            events.CommandFailed(
                call_id=ALICE,
                app=App.HOLD,
                msg_id="1795394554.26",
                message="Could not execute dialplan action: hold",
                channel_down=True,
            ),
        ),
    ],
)
def test_event_is_understood(payload: dict[str, Any], event: ChannelEvent) -> None:
    assert parse_event(payload) == event


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("call_event", "PARK_PARKED"),
        ("call_event", "channel_status_req"),
        ("call_event", "CHANNEL_CREATE"),
        ("call_event", "usurp_publisher"),
        ("call_event", "CHANNEL_TRANSFEROR"),
        ("call_event", "dialplan"),
        ("error", "CHANNEL_DESTROY"),
        ("error", "something"),
    ],
)
def test_the_rest_is_of_no_use(category: str, name: str) -> None:
    assert parse_event(channel(name) | {"Event-Category": category}) is None


def test_what_is_of_no_use_needs_no_call_id() -> None:
    assert parse_event({"Event-Category": "call_event", "Event-Name": "DTMF"}) is None


@pytest.mark.parametrize("app", [app for app in App if app is not App.OTHER])
def test_every_command_is_known_by_kazoos_name(app: App) -> None:
    assert parse_app(app.value) is app


@pytest.mark.parametrize("name", ["", "record", "HOLD"])
def test_other_commands_are_other(name: str) -> None:
    assert parse_app(name) is App.OTHER


def test_a_failed_command_may_lack_its_request() -> None:
    payload = dict(examples.RECEIVED["event.dialplan_error"])
    del payload["Request"]
    event = parse_event(payload)
    assert isinstance(event, events.CommandFailed)
    assert event.app is App.OTHER
    assert not event.channel_down


@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(EVENTS)),
    field=st.sampled_from(sorted({field for message in EVENTS.values() for field in message})),
    value=JSON,
)
def test_parser_and_schema_agree_about_spoiled_events(name: str, field: str, value: Any) -> None:
    payload = EVENTS[name] | {field: value}
    valid = schema.first_error(name, payload) is None
    try:
        event = parse_event(payload)
    except MalformedMessageError:
        assert not valid
    else:
        # An event of another name is judged by that name, not by this schema.
        assert valid or event is None


@given(st.dictionaries(st.sampled_from(["Event-Category", "Event-Name", "Call-ID", "x"]), JSON))
def test_any_object_is_an_event_or_nothing_or_malformed(payload: dict[str, Any]) -> None:
    try:
        pointer = "/" if parse_event(payload) is None else ""
    except MalformedMessageError as error:
        pointer = error.pointer
    assert pointer.startswith("/")


@pytest.mark.parametrize("new_id", ["*", "#", "x" * 226, "@" * 76])
@pytest.mark.parametrize(
    ("name", "field"),
    [("CHANNEL_REPLACED", "Replaced-By"), ("CHANNEL_DIRECT", "Connecting-Leg-B-UUID")],
)
def test_a_new_id_that_nobody_can_listen_to_is_refused(name: str, field: str, new_id: str) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        parse_event(channel(name) | {field: new_id})
    assert caught.value.pointer == f"/{field}"
    assert parse_event(channel(name) | {field: "x" * 225}) is not None
