"""Replay of recordings: equal when nothing changed, and a difference that names what did."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.solo import BLIND, make_config
from tests.unit.trace.tape import (
    Tape,
    changed,
    dropped,
    find,
    later,
    parked_and_retrieved,
    ten_minutes,
)
from worker import __version__
from worker.parking.model import Compat
from worker.trace.differences import Kind
from worker.trace.lines import Tapped, Trace, parse_trace, read_trace
from worker.trace.replay import ReplayResult, replay
from worker.trace.update import update_trace


@pytest.fixture(scope="module")
def tape() -> Tape:
    return parked_and_retrieved()


def said(result: ReplayResult) -> str:
    return "\n".join(str(one) for one in result.differences)


def kinds(result: ReplayResult) -> list[Kind]:
    return [one.kind for one in result.differences]


def test_an_unchanged_recording_is_equal(tape: Tape) -> None:
    result = replay(tape.trace())
    assert said(result) == ""
    assert result.effects >= 14
    assert result.crashes == ()


def test_ten_minutes_are_replayed_in_a_moment() -> None:
    tape = ten_minutes()
    started_s = time.process_time()
    result = replay(tape.trace())
    assert said(result) == ""
    assert result.duration_ms > 600_000
    assert [e.name for e in result.said].count("bridge") == 4
    assert time.process_time() - started_s < 0.5


@pytest.mark.parametrize(
    ("name", "call_id"),
    [
        ("hold", "a"),
        ("PARK_PARKED", "a"),
        ("early", "a"),
        ("call_pickup", "c"),
        ("PARK_RETRIEVED", "c"),
        ("terminated", "a"),
        ("action.accepted", "c"),
        ("action.result", "a"),
        ("channel_status_req", "a"),
    ],
)
def test_an_effect_taken_out_of_the_trace_is_unexpected(
    tape: Tape, name: str, call_id: str
) -> None:
    result = replay(dropped(tape, find(tape, name, call_id=call_id)))
    assert Kind.UNEXPECTED in kinds(result)
    wanted = "status query" if name == "channel_status_req" else name
    assert f"unexpected: {wanted}" in said(result) or wanted in said(result)


@pytest.mark.parametrize("name", ["action.execute", "CHANNEL_BRIDGE"])
def test_an_event_taken_out_of_the_trace_makes_effects_go_missing(tape: Tape, name: str) -> None:
    result = replay(dropped(tape, find(tape, name)))
    assert {Kind.MISSING, Kind.EARLY} & set(kinds(result))


def test_a_line_taken_out_is_missed_by_its_number_whatever_it_was(tape: Tape) -> None:
    rows = tape.rows(numbered=True)
    assert said(replay(parse_trace(rows))) == ""
    index = find(tape, "CHANNEL_EXECUTE_COMPLETE") + 1
    result = replay(parse_trace([*rows[:index], *rows[index + 1 :]]))
    assert Kind.MISSING in kinds(result)
    assert f"line n={index} is gone from the trace" in said(result)


def test_two_lines_that_changed_places_are_told(tape: Tape) -> None:
    rows = tape.rows(numbered=True)
    index = find(tape, "PARK_PARKED") + 1
    swapped = [*rows[:index], rows[index + 1], rows[index], *rows[index + 2 :]]
    result = replay(parse_trace(swapped))
    assert Kind.ORDER in kinds(result)
    assert f"line n={index} of the trace stands after n={index + 1}" in said(result)


def test_commands_of_a_call_keep_their_order() -> None:
    tape = ten_minutes()
    first, second = find(tape, "set"), find(tape, "bridge")
    lines = list(tape.lines)
    lines[first], lines[second] = lines[second], lines[first]
    result = replay(tape.trace(lines))
    assert Kind.ORDER in kinds(result)
    assert "order: bridge for a" in said(result)


def test_effects_on_different_exchanges_may_change_places(tape: Tape) -> None:
    lines = list(tape.lines)
    event, lamp = find(tape, "PARK_PARKED"), find(tape, "early")
    lines[event], lines[lamp] = lines[lamp], lines[event]
    assert said(replay(tape.trace(lines))) == ""


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("PARK_PARKED", "Parking-Slot", "102"),
        ("PARK_PARKED", "Caller-ID-Name", "Somebody"),
        ("hold", "Insert-At", "tail"),
        ("call_pickup", "Target-Call-ID", "b"),
        ("early", "State", "confirmed"),
        ("early", "Expires", 3600),
        ("early", "Presence-ID", "*3102@acme.example.com"),
        ("action.result", "Result", "g2QABHN0b3A="),
        ("hold", "Msg-ID", "0" * 32),
        ("hold", "Application-Name", "park"),
        ("PARK_RETRIEVED", "Call-ID", "x"),
    ],
)
def test_a_changed_field_of_an_effect_is_named(
    tape: Tape, name: str, field: str, value: object
) -> None:
    trace = changed(tape, find(tape, name), **{field.replace("-", "_"): value})
    result = replay(trace)
    assert Kind.CHANGED in kinds(result)
    assert f"/{field}" in said(result)


def test_a_changed_field_of_an_input_shows_in_the_effects(tape: Tape) -> None:
    index = find(tape, "action.execute")
    line = tape.lines[index]
    assert line.payload is not None
    call = {**line.payload["Call"], "Caller-ID-Name": "Zoe"}  # type: ignore[dict-item]
    result = replay(changed(tape, index, Call=call))
    assert "/To-User" in said(result)
    assert "/Caller-ID-Name" in said(result)


def test_a_difference_has_both_sides_and_its_line(tape: Tape) -> None:
    index = find(tape, "PARK_PARKED")
    [one] = replay(changed(tape, index, Parking_Slot="102")).differences
    assert one.recorded is not None
    assert one.replayed is not None
    assert (one.recorded["Parking-Slot"], one.replayed["Parking-Slot"]) == ("102", "101")
    assert one.line == index + 2  # the head is line 1
    assert [change.pointer for change in one.fields] == ["/Parking-Slot"]


def test_an_effect_may_be_a_little_late_but_not_more(tape: Tape) -> None:
    index = find(tape, "PARK_RETRIEVED")
    assert said(replay(later(tape, index, 200))) == ""
    assert Kind.LATE in kinds(replay(later(tape, index, 600)))
    assert said(replay(later(tape, index, 600), tolerance_ms=700)) == ""


def test_a_ringback_that_came_too_early_is_told() -> None:
    tape = ten_minutes()
    index = find(tape, "bridge")
    line = replace(tape.lines[index], at_ms=tape.lines[index].at_ms - 5_000)
    before = next(n for n, one in enumerate(tape.lines) if one.at_ms >= line.at_ms)
    rest = [one for n, one in enumerate(tape.lines) if n != index]
    result = replay(tape.trace([*rest[:before], line, *rest[before:]]))
    assert Kind.EARLY in kinds(result) or Kind.ORDER in kinds(result)


# ---- ids ----------------------------------------------------------------------------------------


def foreign(tape: Tape) -> Trace:
    """The same recording by somebody who makes up other ids."""
    lines = []
    for line in tape.lines:
        if line.exchange == "kapps":
            lines.append(line)
            continue
        payload = dict(line.payload or {})
        for field in ("Msg-ID", "Application-Response"):
            value = payload.get(field)
            if isinstance(value, str) and len(value) == 32 and not value.startswith("exec"):
                payload[field] = value[::-1]
        lines.append(replace(line, payload=payload))
    return tape.trace(lines)


def test_ids_of_others_are_compared_by_their_role(tape: Tape) -> None:
    assert said(replay(foreign(tape))) == ""


def test_prompts_are_followed_by_the_recorded_noop() -> None:
    tape = Tape()
    tape.execute("c", capture="101", data={"action": "retrieve"})
    tape.completed("answer", "c")
    queue = tape.published[-1].payload
    noop = queue["Commands"][0]["Msg-ID"]  # type: ignore[index]
    tape.completed("noop", "c", Application_Response=noop)
    tape.wait(500)
    assert tape.results("c") == ["stop"]
    assert said(replay(tape.trace())) == ""


# ---- what cannot be seen ------------------------------------------------------------------------


def test_commands_before_their_queue_was_tapped_are_not_missed(tape: Tape) -> None:
    hold = find(tape, "hold")
    first = tape.lines[0].at_ms
    lines = [
        line
        for n, line in enumerate(tape.lines)
        if n != hold and line.exchange != "targeted"
    ]
    assert Kind.UNEXPECTED in kinds(replay(tape.trace(lines)))
    queue = tape.lines[hold].key
    tap = Tapped(at_ms=first + 500, exchange="callctl", key=queue)
    result = replay(tape.trace([tap, *lines]))
    assert "hold" not in said(result)
    assert result.unseen >= 1


def test_settings_come_from_the_workers_advertisement() -> None:
    tape = Tape(config=make_config(version=__version__, compat=Compat.STRICT, lamp_expires_s=77))
    tape.execute("a", capture="101", **BLIND)
    tape.wait(16_000)
    assert said(replay(tape.trace())) == ""
    result = replay(tape.trace(), overrides={"lamp_expires_s": 600})
    assert "/Expires" in said(result)


# ---- update -------------------------------------------------------------------------------------


def test_update_rewrites_what_replay_says(tape: Tape, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    index = find(tape, "PARK_PARKED")
    trace = changed(tape, index, Parking_Slot="999")
    path.write_bytes(b"\n".join(tape.rows(trace.lines[:-1])) + b"\n")
    trace = read_trace(path)
    result = replay(trace)
    assert kinds(result) == [Kind.CHANGED]
    update_trace(path, trace, result, {})
    again = read_trace(path)
    assert again.head.source == "update"
    assert said(replay(again)) == ""
    assert path.read_bytes().count(b'"Parking-Slot":"101"') >= 2
    assert b'"Parking-Slot":"999"' not in path.read_bytes()


def test_update_makes_a_foreign_recording_our_own(tape: Tape, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    trace = foreign(tape)
    path.write_bytes(b"\n".join(tape.rows(trace.lines[:-1])) + b"\n")
    update_trace(path, trace, replay(trace), {})
    result = replay(read_trace(path))
    assert said(result) == ""
    commands = [e.payload["Msg-ID"] for e in result.said if e.exchange == "callctl"]
    text = path.read_text()
    assert all(str(msg_id) in text for msg_id in commands)
