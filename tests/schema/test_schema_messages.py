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


def test_a_refusal_names_place_and_reason() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        schema.validate("action.execute", examples.spoiled(examples.execute(), "/Msg-ID", 7))
    assert (caught.value.pointer, caught.value.reason) == (
        "/Msg-ID",
        "must be a string, is a number",
    )


def test_a_refused_node_is_told_from_the_message_on() -> None:
    with pytest.raises(InvalidNodeError) as caught:
        schema.validate_node({"slots": {"a/b": {"presence_type": "dim"}}})
    assert caught.value.pointer == "/Data/slots/a~1b/presence_type"


def test_a_good_node_is_returned() -> None:
    data = {"slot": 101, "something_new": {"of": ["the", "platform"]}}
    assert schema.validate_node(data) is data


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
