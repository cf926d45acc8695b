"""Questions to the platform and their answers; park events and advertisements."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schema import examples
from worker.errors import MalformedMessageError
from worker.kapi import configuration, nodes, park_events, registrar, schema, status, sysconf
from worker.kapi.presence import parse_probe, parse_reset
from worker.parking.effects import ParkEvent
from worker.parking.events import Liveness
from worker.parking.model import CallId, SlotId

ALICE = CallId("alice-1@10.0.0.7")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
PARSERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "status.response": status.parse_status_answer,
    "registrar.response": registrar.parse_registrar_answer,
    "sysconf.response": sysconf.parse_sysconf_answer,
    "configuration.change": configuration.parse_document_change,
    "nodes.peer": nodes.parse_advertisement,
    "presence.probe": parse_probe,
    "presence.reset": parse_reset,
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_what_the_schema_allows_is_understood(name: str, data: st.DataObject) -> None:
    message = examples.RECEIVED[name]
    field = data.draw(st.sampled_from(sorted(message)))
    spoiled = message | {field: data.draw(JSON)}
    if schema.first_error(name, spoiled) is None:
        PARSERS[name](spoiled)
        return
    try:
        PARSERS[name](spoiled)
    except MalformedMessageError as error:
        reason = error.reason
        assert reason


@pytest.mark.parametrize("name", PARSERS)
@given(payload=st.dictionaries(st.sampled_from(["Event-Name", "Msg-ID", "Fields", "Node"]), JSON))
def test_any_object_is_understood_or_malformed(name: str, payload: dict[str, Any]) -> None:
    try:
        PARSERS[name](payload)
    except MalformedMessageError as error:
        pointer = error.pointer
        assert pointer.startswith("/")


def test_a_status_request_never_silences_the_others() -> None:
    request = status.status_request(ALICE, node="n", msg_id="m-1", server_id="kzpark-w1")
    assert request["Server-ID"] == "kzpark-w1"
    assert request["Call-ID"] == ALICE
    assert "Active-Only" not in request


@pytest.mark.parametrize(
    ("said", "liveness"),
    [
        ("active", Liveness.ACTIVE),
        ("tmpdown", Liveness.UNKNOWN),
        ("terminated", Liveness.DEAD),
    ],
)
def test_status_words_have_their_meaning(said: str, liveness: Liveness) -> None:
    answer = status.parse_status_answer(examples.RECEIVED["status.response"] | {"Status": said})
    assert answer == status.StatusAnswer(
        request="m-1", call_id=ALICE, liveness=liveness, other_leg=CallId("bob-1@10.0.0.8")
    )


def test_a_registrar_query_names_no_fields() -> None:
    query = registrar.registrar_query("bob", "acme.example", node="n", msg_id="m", server_id="q")
    assert "Fields" not in query
    assert query["App-Name"] != "ecallmgr"


def test_a_registration_names_the_device() -> None:
    answer = registrar.parse_registrar_answer(examples.RECEIVED["registrar.response"])
    assert answer is not None
    assert answer.found
    assert answer.endpoint_id == examples.PARKER_DEVICE
    assert answer.account == examples.ACCOUNT
    assert answer.account_realm == "acme.example"


def test_a_device_is_preferred_to_a_user() -> None:
    user = {"Authorizing-ID": "user-1", "Authorizing-Type": "user"}
    device = {"Authorizing-ID": "device-1", "Authorizing-Type": "device"}
    both = examples.RECEIVED["registrar.response"] | {"Fields": [user, device]}
    answer = registrar.parse_registrar_answer(both)
    assert answer is not None
    assert answer.endpoint_id == "device-1"
    only_user = registrar.parse_registrar_answer(both | {"Fields": [user]})
    assert only_user is not None
    assert only_user.found
    assert only_user.endpoint_id == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"Event-Name": "reg_query_error"},
        {"Fields": []},
        {"Fields": None},
        {"Fields": "x"},
        {"Fields": [5, {}]},
    ],
)
def test_nobody_registered_is_not_found(changes: dict[str, Any]) -> None:
    answer = registrar.parse_registrar_answer(examples.RECEIVED["registrar.response"] | changes)
    assert answer == registrar.RegistrarAnswer(request="m-1", found=False)


def test_a_sysconf_request_never_writes_a_default() -> None:
    request = sysconf.sysconf_request("callflow.park", "k", node="n", msg_id="m", server_id="q")
    assert "Default" not in request
    assert request["Node"] == "n"


@pytest.mark.parametrize(
    ("value", "understood"),
    [("undefined", None), ([], None), (None, None), (0, 0), ("early", "early"), (False, False)],
)
def test_an_unset_key_is_none(value: object, understood: object) -> None:
    answer = sysconf.parse_sysconf_answer(examples.RECEIVED["sysconf.response"] | {"Value": value})
    assert answer is not None
    assert answer.value is understood or answer.value == understood
    assert answer.key == ("default_ringback_timeout",)


def test_a_nested_key_is_a_path() -> None:
    answer = sysconf.parse_sysconf_answer(
        examples.RECEIVED["sysconf.response"] | {"Key": ["a", "b"]}
    )
    assert answer is not None
    assert answer.key == ("a", "b")


def test_a_change_notice_names_the_document() -> None:
    change = configuration.parse_document_change(examples.RECEIVED["configuration.change"])
    assert change == configuration.DocumentChange(
        event="doc_edited", document="callflow.park", database="system_config", kind="config"
    )
    other = examples.RECEIVED["configuration.change"] | {"Event-Name": "db_created"}
    assert configuration.parse_document_change(other) is None


def test_an_advertisement_counts_as_no_kazoo_app() -> None:
    payload = nodes.advertisement(
        node="kzpark@w1", msg_id="m", version="1.2.3", expires_ms=10_000, started_at_ms=1_000
    )
    assert payload["App-Name"] == "kzpark"
    assert payload["Expires"] == 10_000
    assert payload["WhApps"] == {"kzpark": {"Startup": 62_167_219_201}}
    notice = nodes.parse_advertisement(payload)
    assert notice == nodes.NodeNotice(
        node="kzpark@w1",
        app_name="kzpark",
        expires_ms=10_000,
        apps=frozenset({"kzpark"}),
        startups=(("kzpark", 62_167_219_201),),
    )


@pytest.mark.parametrize("expires", [10_000, 10_000.5, "10000"])
def test_a_peers_advertisement_is_understood(expires: object) -> None:
    notice = nodes.parse_advertisement(examples.RECEIVED["nodes.peer"] | {"Expires": expires})
    assert notice is not None
    assert notice.node == "kamailio@p1.acme.example"
    assert notice.app_name == "kamailio"
    assert notice.apps == {"kamailio"}
    assert notice.expires_ms == 10_000
    assert notice.startups == (("kamailio", 1_795_393_096),)


@pytest.mark.parametrize("expires", [None, True, -1, "soon", "", "9" * 16, []])
def test_an_advertisement_without_expiry_is_malformed(expires: object) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        nodes.parse_advertisement(examples.RECEIVED["nodes.peer"] | {"Expires": expires})
    assert caught.value.pointer == "/Expires"


def park_event(**changes: Any) -> dict[str, Any]:
    return park_events.park_event_payload(
        ParkEvent.PARKED,
        slot=SlotId("101"),
        call=dataclasses.replace(examples.call(), **changes),
        call_id=ALICE,
        node="n",
        msg_id="m",
    )


def test_a_park_event_tells_the_call_and_its_slot() -> None:
    payload = park_event()
    assert payload["Event-Name"] == "PARK_PARKED"
    assert payload["App-Name"] == "callflow"
    assert payload["Parking-Slot"] == "101"
    assert payload["Caller-ID-Name"] == "Alice"
    assert payload["Callee-ID-Number"] == "*3101"
    assert "Callee-ID-Name" not in payload
    assert payload["Custom-Channel-Vars"] == examples.call().channel_vars
    assert park_events.event_headers(ALICE) == {"call-id": ALICE}


def test_a_park_event_always_names_account_and_realm() -> None:
    variables = park_event(channel_vars={"Fetch-ID": "f", "Odd": None}, realm="r")[
        "Custom-Channel-Vars"
    ]
    assert variables == {"Fetch-ID": "f", "Account-ID": examples.ACCOUNT, "Realm": "r"}
    assert "Realm" not in park_event(channel_vars={}, realm="")["Custom-Channel-Vars"]
