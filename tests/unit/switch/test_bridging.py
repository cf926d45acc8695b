"""Bridges, pickups and how legs end on the simulated switch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.switch.conftest import Rig
from worker.switch.callflow import Flow
from worker.switch.plan import ACCOUNT, BUSY, Ring

ENDPOINT = {"Invite-Format": "endpoint", "Endpoint-URI": f"c0ffee@{ACCOUNT}"}


def held(rig: Rig, **fields: Any) -> Flow:
    flow = rig.place(**fields)
    rig.command(flow, "hold", Insert_At="now")
    return flow


def completion(rig: Rig, flow: Flow) -> object:
    return rig.last(flow.call_id, "CHANNEL_EXECUTE_COMPLETE")["Application-Response"]


def test_an_answered_bridge_ends_the_hold_and_joins_both_legs(rig: Rig) -> None:
    device = rig.device("c0ffee", Ring(answer_after_ms=300))
    flow = held(rig)
    rig.command(flow, "bridge", Endpoints=[ENDPOINT], Timeout=20)
    assert rig.seen(flow.call_id)[-2:] == ["done:hold", "ringing"]
    rig.run(300)
    leg = device.legs[0]
    assert rig.last(flow.call_id, "CHANNEL_BRIDGE")["Other-Leg-Call-ID"] == leg
    assert rig.last(leg, "CHANNEL_BRIDGE")["Other-Leg-Call-ID"] == flow.call_id


def test_the_parker_hanging_up_completes_the_bridge(rig: Rig) -> None:
    device = rig.device("c0ffee", Ring(answer_after_ms=1, talk_ms=100))
    flow = held(rig)
    rig.command(flow, "bridge", Endpoints=[ENDPOINT])
    rig.run(200)
    assert rig.seen(flow.call_id)[-2:] == ["CHANNEL_UNBRIDGE", "done:bridge"]
    assert completion(rig, flow) == "SUCCESS"
    assert rig.seen(device.legs[0])[-2:] == ["CHANNEL_UNBRIDGE", "CHANNEL_DESTROY"]


def test_the_parkee_hanging_up_ends_the_parkers_leg(rig: Rig) -> None:
    device = rig.device("c0ffee", Ring(answer_after_ms=1))
    flow = held(rig)
    rig.command(flow, "bridge", Endpoints=[ENDPOINT])
    rig.run(10)
    rig.core.hang_up(flow.call_id)
    assert rig.seen(flow.call_id)[-1] == "flow-ended"
    assert "CHANNEL_DESTROY" in rig.seen(flow.call_id)
    assert "CHANNEL_DESTROY" in rig.seen(device.legs[0])


@pytest.mark.parametrize(
    ("ring", "timeout", "elapsed_ms", "cause"),
    [
        (Ring(), 20, 20_000, "NO_ANSWER"),
        (Ring(answer_after_ms=3_000), 2, 2_000, "NO_ANSWER"),
        (Ring(), "3", 3_000, "NO_ANSWER"),
        (BUSY, 20, 20, "USER_BUSY"),
    ],
)
def test_an_unanswered_bridge_completes_with_its_cause(
    rig: Rig, ring: Ring, timeout: object, elapsed_ms: int, cause: str
) -> None:
    rig.device("c0ffee", ring)
    flow = held(rig)
    rig.command(flow, "bridge", Endpoints=[ENDPOINT], Timeout=timeout)
    rig.run(elapsed_ms - 1)
    assert completion(rig, flow) == "NONE"
    rig.run(1)
    assert completion(rig, flow) == cause


def test_a_device_that_is_not_registered_fails_the_bridge(rig: Rig) -> None:
    rig.device("c0ffee", Ring(answer_after_ms=1)).registered = False
    flow = held(rig)
    rig.command(flow, "bridge", Endpoints=[ENDPOINT], Timeout=20)
    rig.run(20)
    assert completion(rig, flow) == "USER_NOT_REGISTERED"


@pytest.mark.parametrize(
    "endpoints",
    [
        [],
        [{"Invite-Format": "endpoint", "Endpoint-URI": f"nobody@{ACCOUNT}"}],
        [{"Invite-Format": "endpoint", "Endpoint-URI": "c0ffee@otheraccount"}],
        [{"Invite-Format": "username", "To-User": "user_c0ffee"}],
    ],
)
def test_an_endpoint_that_cannot_be_resolved_ends_in_silence(
    rig: Rig, endpoints: list[dict[str, str]]
) -> None:
    rig.device("c0ffee", Ring(answer_after_ms=1))
    flow = held(rig)
    before = len(rig.seen(flow.call_id))
    rig.command(flow, "bridge", Endpoints=endpoints)
    rig.run(60_000)
    assert rig.seen(flow.call_id)[before:] == ["bridge"]


def test_rings_are_used_up_in_order_and_the_last_stays(rig: Rig) -> None:
    rig.device("c0ffee", BUSY, Ring(answer_after_ms=1))
    flow = held(rig)
    rig.command(flow, "bridge", Endpoints=[ENDPOINT])
    rig.run(20)
    assert completion(rig, flow) == "USER_BUSY"
    rig.command(flow, "bridge", Endpoints=[ENDPOINT])
    rig.run(20)
    assert rig.seen(flow.call_id)[-1] == "CHANNEL_BRIDGE"


def test_a_pickup_usurps_intercepts_ends_the_hold_and_bridges_in_that_order(rig: Rig) -> None:
    parkee, retriever = held(rig), rig.place(number="*5101")
    before = len(rig.seen(parkee.call_id))
    rig.command(retriever, "call_pickup", Target_Call_ID=parkee.call_id, Unbridged_Only=True)
    rig.run(5)
    assert rig.seen(parkee.call_id)[before:] == [
        "usurp_control",
        "flow-ended",
        "CHANNEL_INTERCEPTED",
        "done:hold",
        "CHANNEL_ANSWER",
        "CHANNEL_BRIDGE",
    ]
    assert parkee.ended == "control_usurped"
    assert rig.last(retriever.call_id, "CHANNEL_BRIDGE")["Other-Leg-Call-ID"] == parkee.call_id


def test_publish_usurp_false_leaves_the_parkees_flow_alone(rig: Rig) -> None:
    parkee, retriever = held(rig), rig.place()
    rig.command(retriever, "call_pickup", Target_Call_ID=parkee.call_id, Publish_Usurp=False)
    rig.run(5)
    assert parkee.ended == ""
    assert "CHANNEL_INTERCEPTED" in rig.seen(parkee.call_id)


def test_commands_to_a_usurped_session_go_nowhere(rig: Rig) -> None:
    parkee, retriever = held(rig), rig.place()
    rig.command(retriever, "call_pickup", Target_Call_ID=parkee.call_id)
    rig.command(parkee, "hold", Insert_At="now")
    assert rig.drops[-1].startswith("no control process")


def test_pickup_of_oneself_or_of_nobody_is_an_error(rig: Rig) -> None:
    flow = rig.place()
    rig.command(flow, "call_pickup", Target_Call_ID=flow.call_id)
    assert "same as the caller" in str(rig.last(flow.call_id, "dialplan")["Error-Message"])
    rig.command(flow, "call_pickup", Target_Call_ID="nobody")
    assert "failed to find" in str(rig.last(flow.call_id, "dialplan")["Error-Message"])


def test_the_second_of_two_pickups_fails_and_loses_its_call(rig: Rig) -> None:
    parkee, first, second = held(rig), rig.place(), rig.place()
    for flow in (first, second):
        rig.command(flow, "call_pickup", Target_Call_ID=parkee.call_id, Unbridged_Only=True)
    rig.run(5)
    assert "CHANNEL_BRIDGE" in rig.seen(first.call_id)
    assert rig.seen(second.call_id)[-3:] == ["done:call_pickup", "CHANNEL_DESTROY", "flow-ended"]


def test_a_target_on_another_server_sends_the_retriever_there(rig: Rig) -> None:
    parkee, retriever = held(rig, server=1), rig.place(number="*5101")
    old_fetch = retriever.fetch_id
    rig.command(retriever, "call_pickup", Target_Call_ID=parkee.call_id)
    rig.run(30)
    assert retriever.ended == "control_usurped"
    again = rig.core.callflow.by_call[retriever.call_id]
    assert again.fetch_id != old_fetch
    assert rig.call(again)["Switch-URI"] == rig.call(parkee)["Switch-URI"]
    assert "Redirected-By" in rig.call(again)["Custom-Channel-Vars"]  # type: ignore[operator]


def test_a_refused_pickup_completes_and_ends_the_channel(rig: Rig) -> None:
    parkee, retriever = held(rig), rig.place()
    rig.core.refuse(retriever.call_id, "call_pickup", "failure")
    rig.command(retriever, "call_pickup", Target_Call_ID=parkee.call_id)
    assert "CHANNEL_DESTROY" in rig.seen(retriever.call_id)
    assert rig.core.channels.living(parkee.call_id) is not None


def test_a_fast_pickup_needs_no_command(rig: Rig) -> None:
    parkee = held(rig)
    rig.core.pick_up(parkee.call_id, "phone-leg")
    assert rig.seen(parkee.call_id)[-3:] == ["CHANNEL_INTERCEPTED", "done:hold", "CHANNEL_BRIDGE"]


def test_one_leg_of_an_intercepted_pair_ends_both(rig: Rig) -> None:
    parkee = held(rig)
    rig.core.pick_up(parkee.call_id, "phone-leg")
    rig.core.hang_up("phone-leg")
    assert rig.core.channels.living(parkee.call_id) is None
    assert "CHANNEL_DESTROY" in rig.seen(parkee.call_id)


def test_a_hold_does_not_cancel_a_ringing_bridge_but_follows_it(rig: Rig) -> None:
    rig.device("c0ffee", Ring())
    flow = held(rig)
    rig.command(flow, "bridge", Endpoints=[ENDPOINT], Timeout=2)
    rig.command(flow, "hold", Insert_At="now")
    running = rig.core.channels.by_id[flow.call_id].running
    assert running is not None
    assert running.name == "bridge"
    rig.run(2_000)
    assert completion(rig, flow) == "NO_ANSWER"
    running = rig.core.channels.by_id[flow.call_id].running
    assert running is not None
    assert running.name == "hold"


def test_a_phone_shows_the_slot_while_it_rings_and_the_caller_once_it_answers(rig: Rig) -> None:
    device = rig.device("c0ffee", Ring(answer_after_ms=100))
    flow = held(rig)
    on_answer = {"Set-Caller-ID": {"Custom-Channel-Vars": {"Caller-ID-Name": "Alice"}}}
    endpoint = {
        **ENDPOINT,
        "Outbound-Caller-ID-Name": "Parking slot 101 - Alice",
        "Endpoint-Actions": {"Execute-On-Answer": on_answer},
    }
    rig.command(flow, "bridge", Endpoints=[endpoint])
    assert device.screen == "Parking slot 101 - Alice"
    rig.run(100)
    assert device.screen == "Alice"
    rig.core.hang_up(device.legs[0])
    assert device.screen == ""
