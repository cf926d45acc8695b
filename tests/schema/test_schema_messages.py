"""Every message the worker builds obeys its schema; spoiled ones fail where they were spoiled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.schema import examples
from worker.errors import InvalidNodeError, MalformedMessageError
from worker.kapi import schema

BUILT = examples.built()
STRICT = {name for name, _ in BUILT}
SWITCH_ONLY = {"command.noop", "command.play", "command.queued_hangup"}
NOT_MESSAGES = ("callflow", "trace", "scenario")
MESSAGES = [name for name in schema.schema_names() if not name.startswith(NOT_MESSAGES)]


@pytest.mark.parametrize("name", schema.schema_names())
def test_schema_is_one_and_says_what_it_is(name: str) -> None:
    one = schema.load_schema(name)
    Draft202012Validator.check_schema(one)
    assert one["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert one["title"]
    assert one["description"]


@pytest.mark.parametrize("name", MESSAGES)
def test_schema_is_named_after_its_file(name: str) -> None:
    assert schema.load_schema(name)["$id"] == f"urn:kzpark:schema:{name}"


def test_every_message_schema_has_an_example() -> None:
    assert set(MESSAGES) - SWITCH_ONLY <= STRICT | set(examples.RECEIVED)


@pytest.mark.parametrize(("name", "message"), BUILT)
def test_what_the_worker_publishes_is_valid(name: str, message: examples.Message) -> None:
    assert schema.first_error(name, message) is None


@pytest.mark.parametrize(("name", "message"), BUILT)
def test_what_the_worker_publishes_survives_json(name: str, message: examples.Message) -> None:
    assert json.loads(json.dumps(message)) == message
    assert schema.first_error(name, json.loads(json.dumps(message))) is None


@pytest.mark.parametrize(("name", "message"), BUILT)
def test_what_the_worker_publishes_has_no_null(name: str, message: examples.Message) -> None:
    assert "null" not in json.dumps(message), name


@pytest.mark.parametrize(("name", "message"), BUILT)
def test_an_unknown_key_is_refused_in_what_we_publish(name: str, message: examples.Message) -> None:
    assert schema.first_error(name, message | {"Colour": "red"}) == ("is not known", "/Colour")


@pytest.mark.parametrize(("name", "message"), BUILT)
def test_each_header_of_what_we_publish_is_demanded(name: str, message: examples.Message) -> None:
    for header in ("Event-Category", "Event-Name", "App-Name", "App-Version", "Node", "Msg-ID"):
        missing = examples.spoiled(message, f"/{header}", ...)
        assert schema.first_error(name, missing) == ("is required", f"/{header}")


@pytest.mark.parametrize(("name", "message"), examples.RECEIVED.items())
def test_received_example_is_valid_with_unknown_keys(name: str, message: examples.Message) -> None:
    assert schema.first_error(name, message) is None
    assert schema.first_error(name, message | {"Colour": {"deep": [None]}}) is None


@pytest.mark.parametrize(
    ("name", "pointer", "value", "reason"),
    [
        ("action.execute", "/Msg-ID", ..., "is required"),
        ("action.execute", "/Msg-ID", 7, "must be a string, is a number"),
        ("action.execute", "/Msg-ID", "", "must not be empty"),
        ("action.execute", "/Call-ID", None, "must be a string, is null"),
        ("action.execute", "/Call", ..., "is required"),
        ("action.execute", "/Call", "x", "must be an object, is a string"),
        ("action.execute", "/Call", [], "must be an object, is an array"),
        ("action.execute", "/Call/Account-ID", ..., "is required"),
        ("action.execute", "/Call/Account-ID", {}, "must be a string, is an object"),
        ("action.execute", "/Event-Name", "action.result", 'must be "action.execute"'),
        ("event.channel", "/Call-ID", ..., "is required"),
        ("event.channel", "/Hangup-Cause", 3, "must be a string or null, is a number"),
        ("event.channel_replaced", "/Replaced-By", ..., "is required"),
        ("event.channel_replaced", "/Custom-Channel-Vars/Fetch-ID", 1, "must be a string or null"),
        ("event.channel_direct", "/Connecting-Leg-B-UUID", "", "must not be empty"),
        ("event.channel_transferee", "/Custom-Channel-Vars", 5, "must be an object, an array or"),
        ("event.execute_complete", "/Application-Name", [], "must be a string or null"),
        ("event.usurp_control", "/Fetch-ID", ..., "is required"),
        ("event.dialplan_error", "/Request/Application-Name", 1, "must be a string or null"),
        ("status.response", "/Status", "gone", 'must be one of "active", "tmpdown", "terminated"'),
        ("presence.probe", "/Realm", ..., "is required"),
        ("presence.reset", "/Username", "", "must not be empty"),
        ("registrar.response", "/Msg-ID", ..., "is required"),
        ("sysconf.response", "/Key", 4, "must be a string or an array, is a number"),
        ("configuration.change", "/ID", ..., "is required"),
        ("nodes.peer", "/Expires", "soon", "must match"),
        ("command.hold", "/Insert-At", "later", 'must be "now"'),
        ("command.queue", "/Commands/0/Msg-ID", ..., "is required"),
        ("command.queue", "/Commands/1/Terminators/0", "x", "must be one of"),
        ("command.bridge", "/Endpoints/0/Endpoint-URI", "no-account", "must match"),
        ("command.bridge", "/Endpoints", [], "must have at least 1 items"),
        ("command.bridge", "/Timeout", 0, "must be at least 1"),
        ("command.call_pickup", "/Publish-Usurp", True, "must be false"),
        ("command.set", "/Custom-Call-Vars", ..., "is required"),
        ("command.say", "/Language", "", "must not be empty"),
        ("action.result", "/Result", "not base64!", "must match"),
        ("event.park", "/Custom-Channel-Vars/Account-ID", ..., "is required"),
        ("event.park", "/Parking-Slot", 101, "must be a string"),
        ("presence.dialog_update", "/To-User", "<Alice>", "must match"),
        ("presence.dialog_update", "/Call-ID", "x" * 129, "must have at most 128 characters"),
        ("presence.dialog_update", "/Expires", "3600", "must be an integer, is a string"),
        ("status.request", "/Server-ID", ..., "is required"),
        ("sysconf.request", "/Default", 1, "is not known"),
        ("nodes.advertise", "/WhApps/callflow", {}, "is not known"),
    ],
)
def test_spoiled_message_fails_at_its_pointer(
    name: str, pointer: str, value: object, reason: str
) -> None:
    valid = examples.RECEIVED.get(name) or next(
        message for built, message in reversed(BUILT) if built == name
    )
    spoiled = examples.spoiled(valid, pointer, value)
    with pytest.raises(MalformedMessageError) as caught:
        schema.validate(name, spoiled)
    assert caught.value.pointer == pointer
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"action": "steal"}, "/Data/action"),
        ({"action": 5}, "/Data/action"),
        ({"slot": []}, "/Data/slot"),
        ({"slots": []}, "/Data/slots"),
        ({"slots": {"101": {"ringback_timeout": "soon"}}}, "/Data/slots/101/ringback_timeout"),
        ({"slots": {"a/b": {"presence_type": "dim"}}}, "/Data/slots/a~1b/presence_type"),
        ({"default_callback_timeout": -1}, "/Data/default_callback_timeout"),
        ({"max_slot_number": True}, "/Data/max_slot_number"),
        ("park", "/Data"),
        ([1], "/Data"),
    ],
)
def test_bad_node_names_the_place(data: object, pointer: str) -> None:
    with pytest.raises(InvalidNodeError) as caught:
        schema.validate_node(data)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"action": "auto", "max_slot_number": 110},
        {"slot": 101, "default_ringback_timeout": "120000"},
        {"slots": {"101": {"ringback_timeout": 25000, "presence_type": "confirmed"}}},
        {"something_new": {"of": ["the", "platform"]}},
    ],
)
def test_good_node_is_returned(data: dict[str, object]) -> None:
    assert schema.validate_node(data) == data


def test_reason_of_a_huge_value_stays_short() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        schema.validate("action.execute", {"Msg-ID": ["x"] * 50_000})
    assert len(str(caught.value)) < 300


def test_many_errors_are_answered_quickly() -> None:
    slots = {str(number): {"presence_type": "dim"} for number in range(20_000)}
    assert schema.first_error(schema.NODE_SCHEMA, {"slots": slots}) is not None


def test_unknown_schema_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        schema.validate("no.such.schema", {})


def test_node_schema_finds_the_data_schema_beside_it() -> None:
    node = {"module": "park", "data": {"action": "steal"}, "children": {}}
    assert schema.first_error("callflow.node", node) == (
        'must be one of "park", "retrieve", "auto", "direct_park", null',
        "/data/action",
    )


def test_schemas_are_found_from_any_folder(tmp_path: Path) -> None:
    code = "from worker.kapi import schema; print(len(schema.schema_names()))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == len(schema.schema_names())
