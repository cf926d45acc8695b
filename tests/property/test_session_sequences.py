"""Whatever happens in whatever order: slots are freed, results are single, time runs forward.

The core is fed random executes and switch events for a few calls; then every call ends. Contract
§7 and §8; the same inputs must give the same operations to the byte.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.solo import World, attended, make_config
from worker.parking.model import Compat

CALLS = ("a", "b", "c", "d")
REFERRED = {"referred_to": "<sip:*3101@acme.example.com>"}
STEPS = 24
EXAMPLES = int(os.environ.get("KZTEST_EXAMPLES", "10000" if os.environ.get("CI") else "1500"))

call_ids = st.sampled_from(CALLS)


@st.composite
def executes(draw: st.DrawFn) -> tuple[str, Any]:
    call_id = draw(call_ids)
    arrival = draw(st.sampled_from(("direct", "blind", "attended")))
    how: dict[str, Any] = {
        "data": {
            "action": draw(st.sampled_from(("park", "auto", "retrieve", "direct_park"))),
            "default_ringback_timeout": draw(st.sampled_from((0, 500, 5_000))),
            "default_callback_timeout": draw(st.sampled_from((100, 1_000, 3_000))),
            "max_slot_number": draw(st.sampled_from((101, 110))),
        },
        "capture": draw(st.sampled_from(("", "101", "102"))),
        "restricted": draw(st.sampled_from(("", "device-1"))),
        "children": draw(st.sampled_from((("_",), ("_", "101"), ()))),
        "msg_id": f"exec-{draw(st.integers(0, 5))}-{call_id}",
    }
    if arrival == "blind":
        how |= REFERRED
    elif arrival == "attended":
        how |= attended(draw(call_ids))
    if draw(st.booleans()):
        how["referred_by"] = "<sip:parker@acme.example.com>"
    return "execute", (call_id, how, draw(st.booleans()), draw(st.sampled_from((0, 5_000, 90_000))))


APPS = ("answer", "hold", "noop", "play", "say", "bridge", "call_pickup", "park", "set")
events = st.one_of(
    st.tuples(st.just("destroy"), call_ids),
    st.tuples(st.just("bridge"), st.tuples(call_ids, call_ids)),
    st.tuples(st.just("unbridge"), call_ids),
    st.tuples(st.just("intercepted"), st.tuples(call_ids, call_ids)),
    st.tuples(st.just("usurp"), st.tuples(call_ids, st.sampled_from(("other", "own")))),
    st.tuples(st.just("transferee"), st.tuples(call_ids, st.sampled_from(("other", "own")))),
    st.tuples(st.just("pivot"), call_ids),
    st.tuples(st.just("disconnected"), call_ids),
    st.tuples(st.just("replaced"), st.tuples(call_ids, call_ids)),
    st.tuples(
        st.just("completed"),
        st.tuples(call_ids, st.sampled_from(APPS), st.sampled_from(("SUCCESS", "NO_ANSWER"))),
    ),
    st.tuples(st.just("failed"), st.tuples(call_ids, st.sampled_from(APPS), st.booleans())),
    st.tuples(
        st.just("status"),
        st.tuples(call_ids, st.sampled_from(("active", "terminated", "tmpdown", "", "active b"))),
    ),
    st.tuples(st.just("wait"), st.sampled_from((1, 50, 400, 1_100, 5_500, 31_000))),
)
steps = st.lists(st.one_of(executes(), events), min_size=1, max_size=STEPS)


def fetch_id(call_id: str, whose: str) -> str:
    return f"fetch-{call_id}" if whose == "own" else "other"


def play(world: World, kind: str, what: Any) -> None:  # noqa: PLR0912
    match kind:
        case "execute":
            call_id, how, redelivered, age_ms = what
            world.execute(call_id, redelivered=redelivered, age_ms=age_ms, **how)
        case "destroy":
            world.destroy(what)
        case "bridge":
            world.bridge(*what)
        case "unbridge":
            world.event("CHANNEL_UNBRIDGE", what)
        case "intercepted":
            world.event("CHANNEL_INTERCEPTED", what[0], Intercepted_By=what[1])
        case "usurp":
            world.usurp(what[0], fetch_id(*what))
        case "transferee":
            ccvs = {"Fetch-ID": fetch_id(*what)}
            world.event("CHANNEL_TRANSFEREE", what[0], Custom_Channel_Vars=ccvs)
        case "pivot":
            world.event("CHANNEL_PIVOT", what)
        case "disconnected":
            world.event("CHANNEL_DISCONNECTED", what)
        case "replaced":
            ccvs = {"Fetch-ID": f"fetch-{what[0]}"}
            world.event(
                "CHANNEL_REPLACED", what[0], Replaced_By=what[1], Custom_Channel_Vars=ccvs
            )
        case "completed":
            world.completed(what[1], what[0], Application_Response=what[2], Disposition=what[2])
        case "failed":
            state = "DOWN" if what[2] else "ACTIVE"
            world.failed(what[1], what[0], Channel_Call_State=state)
        case "status":
            world.answers[what[0]] = what[1]
        case "wait":
            world.wait(what)


def run_all(script: list[tuple[str, Any]], compat: Compat) -> World:
    world = World(make_config(compat=compat))
    for kind, what in script:
        play(world, kind, what)
    for call_id in CALLS:
        world.destroy(call_id)
    world.wait(180_000)
    return world


def session_results(world: World) -> dict[str, int]:
    counts: dict[str, int] = {}
    for op in world.published:
        if op.payload["Event-Name"] == "action.result":
            msg_id = str(op.payload["Msg-ID"])
            counts[msg_id] = counts.get(msg_id, 0) + 1
    return counts


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(script=steps, compat=st.sampled_from(Compat))
def test_any_sequence_frees_slots_and_answers_once(
    script: list[tuple[str, Any]], compat: Compat
) -> None:
    world = run_all(script, compat)
    assert not world.crashes
    assert not world.slots
    assert world.solo.engine.sessions == 0
    assert all(count == 1 for count in session_results(world).values())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=steps, compat=st.sampled_from(Compat))
def test_the_same_inputs_give_the_same_operations(
    script: list[tuple[str, Any]], compat: Compat
) -> None:
    first, second = run_all(script, compat), run_all(script, compat)
    assert first.solo.ops == second.solo.ops
    assert first.solo.records == second.solo.records
