"""``fixtures/messages``: each schema accepts and refuses what the contract does, and says where."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.schema import message_fixtures
from tests.schema.message_fixtures import Case
from worker.kapi import configuration, nodes, presence, registrar, schema, status, sysconf
from worker.kapi.envelope import encode
from worker.kapi.events import parse_event
from worker.kapi.execute import parse_execute
from worker.parking.node import parse_node

OTHER_TESTS = {"scenario", "trace"}
"""Schemas of files, not of messages: their files are checked where they are read."""
NOT_OURS = "of another package"
"""What begins so is good, and for somebody else."""
OURS = {"event.park"}
EVENTS = {name for name in message_fixtures.names() if name.startswith("event.")} - OURS
READERS: dict[str, Callable[[Any], object]] = {
    "action.execute": parse_execute,
    "callflows.park": parse_node,
    **dict.fromkeys(EVENTS, parse_event),
    "status.response": status.parse_status_answer,
    "registrar.response": registrar.parse_registrar_answer,
    "sysconf.response": sysconf.parse_sysconf_answer,
    "configuration.change": configuration.parse_document_change,
    "nodes.peer": nodes.parse_advertisement,
    "presence.probe": presence.parse_probe,
    "presence.reset": presence.parse_reset,
}
CASES = [case for name in message_fixtures.names() for case in message_fixtures.cases(name)]
VALID = [case for case in CASES if case.pointer is None]
INVALID = [case for case in CASES if case.pointer is not None]


def shown(message: object) -> str:
    """The message as a failure tells it: readable, and never a screenful of x."""
    text = json.dumps(message, ensure_ascii=False, indent=1)
    return text if len(text) < 4_000 else f"{text[:4_000]} … ({len(text)} characters)"


def test_every_schema_has_messages_of_both_kinds() -> None:
    wanted = set(schema.schema_names()) - OTHER_TESTS
    assert set(message_fixtures.names()) == wanted
    assert {case.schema for case in VALID if case.title != "as it stands"} == wanted
    assert {case.schema for case in INVALID} == wanted


def test_no_case_is_told_twice() -> None:
    titles = [case.id for case in CASES]
    assert sorted(titles) == sorted(set(titles))


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.id)
def test_valid(case: Case) -> None:
    error = schema.first_error(case.schema, case.message)
    if error is not None:
        reason, pointer = error
        pytest.fail(f"refused at {pointer or '/'}: {reason}\n{shown(case.message)}", pytrace=False)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.id)
def test_invalid(case: Case) -> None:
    error = schema.first_error(case.schema, case.message)
    if error is None:
        expected = f"{case.pointer or '/'}: {case.reason}"
        pytest.fail(f"accepted, expected {expected}\n{shown(case.message)}", pytrace=False)
    reason, pointer = error
    assert pointer == case.pointer, f"{reason}\n{shown(case.message)}"
    assert case.reason
    assert reason.startswith(case.reason), shown(case.message)


@pytest.mark.parametrize(
    "case", [case for case in VALID if case.schema in READERS], ids=lambda case: case.id
)
def test_what_is_valid_is_understood(case: Case) -> None:
    """Whatever the schema lets through, the reader behind it takes without a word."""
    read = READERS[case.schema](json.loads(encode(case.message)))
    assert (read is None) == case.title.startswith(NOT_OURS)
