"""The lines of a trace: written, read back, and what is not a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.unit.trace.tape import parked_and_retrieved
from worker.broker.port import Delivery
from worker.kapi import schema
from worker.parking.model import AccountId, CallId, SessionId, SlotEntry, SlotId, WorkerId
from worker.parking.records import Claim
from worker.trace.lines import (
    Ended,
    Head,
    JournalLine,
    Line,
    LogRecord,
    Message,
    NotATraceError,
    TableLine,
    Tapped,
    head_bytes,
    line_bytes,
    message_of,
    parse_trace,
    read_trace,
)

HEAD = Head(started_at_ms=5, kzpark="1.2", redacted=True, filters={"accounts": ["a"]})
ENTRY = SlotEntry(
    account=AccountId("a"), slot=SlotId("101"), session=SessionId("s"), call_id=CallId("c")
)
LINES: tuple[Line, ...] = (
    Message(at_ms=1, exchange="callevt", key="k", payload={"Event-Name": "x"}, headers={"h": 1}),
    Message(at_ms=2, exchange="kapps", key="k", body=b"\xff{", content_type="text/plain"),
    Message(at_ms=3, exchange="kapps", key="k", payload={}, sent_at_ms=17),
    Tapped(at_ms=4, exchange="callctl", key="queue"),
    LogRecord(at_ms=5, offset=9, record=Claim(author=WorkerId("w"), at_ms=4, entry=ENTRY)),
    TableLine(at_ms=6, state={"v": 1}),
    Ended(at_ms=7, reason="stopped"),
)


def without_number(line: Line) -> Line:
    values = {name: getattr(line, name) for name in line.__dataclass_fields__ if name != "number"}
    return type(line)(**values)


def test_every_kind_of_line_is_read_back() -> None:
    rows = [head_bytes(HEAD), *(line_bytes(line, n) for n, line in enumerate(LINES, 1))]
    trace = parse_trace(rows)
    assert trace.head == HEAD
    assert tuple(without_number(line) for line in trace.lines) == LINES
    assert trace.skipped == 0
    assert [n for n, _, _ in trace.places] == [1, 2, 3, 4, 5, 6, 7]


def test_every_line_obeys_the_schema() -> None:
    validator = Draft202012Validator(schema.load_schema("trace"))
    journal = (
        JournalLine(kind="in", fields={"at_ms": 1, "call": "tick"}),
        JournalLine(kind="op", fields={"op": "log", "event": "ready"}),
        JournalLine(kind="apply", fields={"offset": 1, "record": {}}),
        JournalLine(kind="state", fields={"table": {}, "engine_base64": ""}),
    )
    rows = [head_bytes(HEAD), *(line_bytes(line) for line in (*LINES, *journal))]
    rows += parked_and_retrieved().rows(numbered=True)
    for row in rows:
        assert list(validator.iter_errors(json.loads(row))) == [], row


def test_kinds_and_fields_of_later_versions_are_skipped() -> None:
    rows = [
        b'{"kind":"head","format":"kzpark-trace","version":7,"started_at_ms":1,"color":"red"}',
        b'{"kind":"weather","at_ms":1,"rain":true}',
        b'{"kind":"message","at_ms":2,"exchange":"nodes","key":"","payload":{},"spin":"up"}',
        b'{"kind":"record","at_ms":3,"offset":1,"record":{"t":"dance","author":"w","at_ms":1}}',
    ]
    trace = parse_trace(rows)
    assert trace.skipped == 1
    assert [type(line).__name__ for line in trace.lines] == ["Message", "LogRecord"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"hello",
        b"{}",
        b"[1]",
        b'{"kind":"head"}',
        b'{"kind":"head","format":"other","version":1}',
        b'{"kind":"head","format":"kzpark-trace"}',
        b'{"kind":"message","at_ms":1,"exchange":"x","key":"k","payload":{}}',
        head_bytes(HEAD) + b"broken\n" + line_bytes(LINES[0]),
        b"\x00\xff\xfe",
        b'{"messages": []}',
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(NotATraceError, match=r"x\.jsonl"):
        read_trace(path)


def test_a_missing_file_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(NotATraceError, match="cannot be read"):
        read_trace(tmp_path / "none")


def test_a_line_cut_off_at_the_end_is_left_out() -> None:
    rows = [head_bytes(HEAD), line_bytes(LINES[0]), line_bytes(LINES[2])[:20]]
    assert len(parse_trace(rows).lines) == 1


@pytest.mark.parametrize(
    ("body", "payload"),
    [(b'{"a":1}', {"a": 1}), (b"[1]", None), (b"\xff", None), (b"", None)],
)
def test_a_delivery_becomes_a_line(body: bytes, payload: dict[str, Any] | None) -> None:
    delivery = Delivery(
        queue="q",
        exchange="callevt",
        routing_key="k",
        body=body,
        content_type="application/json",
        sent_at_ms=4,
        headers={"call-id": "c", "odd": [1]},
    )
    line = message_of(delivery, 9)
    assert line.payload == payload
    assert line.bytes == body
    assert (line.at_ms, line.sent_at_ms) == (9, 4)
    assert line.headers == {"call-id": "c", "odd": "[1]"}


def test_text_that_is_no_unicode_is_written_all_the_same() -> None:
    line = Message(at_ms=1, exchange="x", key="k", payload={"a": "\ud800"})
    assert b"\\ud800" in line_bytes(line)
