"""No message hurts the worker: odd, huge and missing values in every field of every kind.

Valid messages are spoiled in a few places and fed to a whole engine, which asks its questions and
gets spoiled answers. Whatever comes, nothing escapes, each execute is settled once, all that is
published obeys its schema and fits into AMQP's frames, and at the end nothing is left over.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import (
    ALL_EVENTS,
    AROUND,
    CALLS,
    EVENTS,
    PLAIN,
    REMOVED,
    VALUES,
    Message,
    Rig,
    Spoil,
    event,
    single_spoils,
    spoiled,
)
from tests.solo import BLIND, START_MS, attended, make_config, make_execute
from worker.engine.ops import DeadLetter, Settle
from worker.engine.solo import Solo

EXAMPLES = int(os.environ.get("KZTEST_EXAMPLES", "1000" if os.environ.get("CI") else "400"))
APPS = ("answer", "hold", "noop", "say", "bridge", "call_pickup", "park")
BUS = [*(("callevt", message) for message in ALL_EVENTS), *AROUND]
EXCHANGES = ("callevt", "targeted", "presence", "nodes", "configuration", "", "x")

values = st.one_of(
    st.sampled_from(VALUES),
    st.just(REMOVED),
    st.text(max_size=12),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
spoils = st.lists(st.tuples(st.sampled_from(range(64)), values), max_size=3)


@st.composite
def executes(draw: st.DrawFn) -> tuple[str, Any]:
    call_id = draw(st.sampled_from(CALLS))
    arrival = draw(st.sampled_from(("direct", "blind", "attended")))
    how: dict[str, Any] = {
        "data": {
            "action": draw(st.sampled_from(("park", "auto", "retrieve", "direct_park"))),
            "slot": draw(st.sampled_from(("", "101", None))),
            "default_ringback_timeout": draw(st.sampled_from((0, 500, "5000"))),
            "default_callback_timeout": "1000",
            "default_presence_type": "confirmed",
            "max_slot_number": 110,
            "hold_media": "moh-1",
            "custom_presence_id": False,
            "presence_id": "lamp",
            "slots": {"101": {"presence_type": "early", "presence_id": "x"}},
        },
        "capture": draw(st.sampled_from(("", "101"))),
        "restricted": draw(st.sampled_from(("", "device-1"))),
        "children": ("_", "101"),
        "msg_id": f"exec-{draw(st.integers(0, 3))}-{call_id}",
        "call": {"Authorizing-ID": "device-2", "Authorizing-Type": "device", "Inception": ""},
    }
    if arrival == "blind":
        how |= BLIND
    elif arrival == "attended":
        how |= attended(draw(st.sampled_from(CALLS)))
    message = spoiled(make_execute(call_id, **how), draw(spoils))
    age_ms = draw(st.sampled_from((0, 5_000, 90_000, None)))
    return "execute", (message, draw(st.booleans()), age_ms)


@st.composite
def events(draw: st.DrawFn) -> tuple[str, Any]:
    call_id = draw(st.sampled_from(CALLS))
    kind = draw(st.sampled_from(("event", "completed", "failed")))
    if kind == "event":
        name, fields = draw(st.sampled_from(EVENTS))
        message = event(name, call_id, **fields)
    elif kind == "completed":
        message = event(
            "CHANNEL_EXECUTE_COMPLETE",
            call_id,
            Application_Name=draw(st.sampled_from(APPS)),
            Application_Response="SUCCESS",
            Channel_State="EXECUTE",
        )
    else:
        message = event(
            "dialplan",
            call_id,
            "error",
            Error_Message="no",
            Channel_Call_State="ACTIVE",
            Request={"Application-Name": draw(st.sampled_from(APPS))},
        )
    return "message", ("callevt", spoiled(message, draw(spoils)))


@st.composite
def others(draw: st.DrawFn) -> tuple[str, Any]:
    exchange, message = draw(st.sampled_from(AROUND))
    return "message", (exchange, spoiled(message, draw(spoils)))


steps = st.one_of(
    executes(),
    events(),
    others(),
    st.tuples(st.just("answers"), st.tuples(st.sampled_from(("", "active", "terminated")), spoils)),
    st.tuples(st.just("wait"), st.sampled_from((1, 400, 1_100, 5_500, 61_000))),
    st.tuples(st.just("returned"), st.integers(0, 50)),
    st.tuples(st.just("outage"), st.none()),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=spoils, script=st.lists(steps, min_size=1, max_size=14))
def test_no_message_hurts_the_worker(first: list[Spoil], script: list[tuple[str, Any]]) -> None:
    rig = Rig(first)
    for kind, what in script:
        rig.play(kind, what)
    rig.finish()
    assert not rig.unsettled
    assert rig.solo.engine.sessions == 0
    assert not rig.solo.table.accounts()
    results = Counter(
        op.payload["Msg-ID"]
        for op in rig.published
        if op.payload["Event-Name"] == "action.result"
    )
    assert set(results.values()) <= {1}


def parked() -> Rig:
    """A worker with a blind transfer on hold in 101."""
    rig = Rig()
    how: dict[str, Any] = {"capture": "101", "restricted": "device-1", **BLIND}
    rig.play("execute", (make_execute("a", **how), False, 0))
    assert rig.solo.table.accounts()
    return rig


@pytest.mark.parametrize("arrival", ["direct", "blind", "attended"])
def test_one_odd_value_anywhere_in_an_execute(arrival: str) -> None:
    how = {"direct": {}, "blind": BLIND, "attended": attended("b")}[arrival]
    options = {"action": "auto", "slots": {"101": {"ringback_timeout": 500}}, "hold_media": "m"}
    message = make_execute("a", data=options, capture="101", restricted="d", **how)
    for odd in single_spoils(message):
        rig = Rig()
        rig.play("execute", (spoiled(message, odd), False, 0))
        rig.wait(500)
        assert not rig.unsettled


@pytest.mark.parametrize(("exchange", "message"), BUS)
def test_one_odd_value_anywhere_in_what_the_bus_says(exchange: str, message: Message) -> None:
    rig = parked()
    for odd in single_spoils(message):
        rig.play("message", (exchange, spoiled(message, odd)))
        if rig.solo.engine.sessions == 0:
            rig = parked()
    rig.finish()


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("value", PLAIN)
def test_one_odd_value_anywhere_in_an_answer(place: int, value: object) -> None:
    rig = Rig([(place, value)])
    rig.wait(100)
    rig.play("execute", (make_execute("a", capture="101", **BLIND), True, 0))
    rig.wait(130_000)
    rig.finish()
    assert not rig.unsettled


BODIES = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.sampled_from(VALUES),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ).map(orjson.dumps),
    st.sampled_from(
        (
            b"",
            b"null",
            b"{}",
            b"\xff\xfe{}",
            b'{"a":NaN}',
            b'{"a":1e999}',
            b'{"a":"\\ud800"}',
            b"[" * 1_000 + b"]" * 1_000,
            b'{"a":' * 200 + b"1" + b"}" * 200,
            b'{"a":"' + b"x" * 300_000 + b'"}',
            b'{"Event-Name":' * 30 + b'"x"' + b"}" * 30,
        )
    ),
)


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, exchange=st.sampled_from(EXCHANGES))
def test_no_body_at_all_hurts_the_worker(body: bytes, exchange: str) -> None:
    solo = Solo(make_config())
    solo.run(START_MS)
    solo.engine.message(body, exchange=exchange, routing_key="k", now_ms=START_MS)
    solo.engine.execute(
        body,
        tag=1,
        sent_at_ms=None,
        redelivered=False,
        exchange="kapps",
        routing_key="k",
        now_ms=START_MS,
    )
    ops = solo.run(START_MS)
    assert [op.tag for op in ops if isinstance(op, Settle)] == [1]
    assert [op.body for op in ops if isinstance(op, DeadLetter)][-1] == body
