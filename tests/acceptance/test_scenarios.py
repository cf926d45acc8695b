"""The six end-to-end scenarios of the MakeBusy suite (contract §11), with short timers.

A 4001 is the parkee, B the parker, C 4003 the retriever. Flows ``*3…`` auto, ``*4`` valet,
``*5…`` retrieve, as that suite configures them.
"""

from __future__ import annotations

import pytest

from tests.acceptance.calls import CONTINUE, STOP, TRANSFER, PeerCall, pause
from tests.acceptance.peer import Peer
from tests.acceptance.scenarios import (
    Stage,
    assert_abandoned,
    assert_dark,
    assert_parked,
    assert_picked_up,
    assert_prompt,
    assert_rung,
)

RINGBACK_MS = 500
AUTO = {"action": "auto", "default_ringback_timeout": RINGBACK_MS}
SLOW = {"action": "auto"}
C = {"caller_name": "C", "caller_number": "4003", "user": "4003"}


@pytest.fixture
def stage(peer: Peer, request: pytest.FixtureRequest) -> Stage:
    return Stage(peer, request.node.name.removeprefix("test_").replace("_", "-"))


def consultation(stage: Stage, number: str = "*3101", **fields: object) -> PeerCall:
    """B's second leg dials the slot and hears its number."""
    group = number.removeprefix("*3") if number.startswith("*3") else ""
    leg = stage.call("b2", number, data=SLOW, capture_group=group, user="4002", **fields)
    assert_prompt(stage, leg, "call_placed_in_spot")
    assert leg.wait("say")["Say-Text"] == "101"
    return leg


def completed_transfer(stage: Stage, leg: PeerCall, **fields: object) -> PeerCall:
    """B's REFER with Replaces brings A into the slot; B's second leg goes."""
    fields = {"data": AUTO, "capture_group": "101", **fields}
    parkee = stage.call("a", leg.number, replaces=leg.call_id, **fields)
    parkee.wait("PARK_PARKED")
    leg.hang_up()
    leg.wait_result(TRANSFER)
    return parkee


def test_blind_park(stage: Stage) -> None:
    parkee = stage.blind(
        "101", name="a", number="*3101", data=SLOW, capture_group="101", referred_by=""
    )
    assert_parked(stage, parkee, "101", "*3101")
    stage.peer.quiet(0.5, lambda: parkee.results == [], "no result while parked")
    retriever = stage.call("c", "*3101", data=SLOW, capture_group="101", **C)
    assert_picked_up(parkee, retriever, "101")


def test_blind_park_to_occupied(stage: Stage) -> None:
    first = stage.blind(
        "101", name="a", number="*3101", data=SLOW, capture_group="101", referred_by=""
    )
    first.wait("early")
    second = stage.blind(
        "101",
        name="c",
        number="*3101",
        data=SLOW,
        capture_group="101",
        bridges=["answer"],
        **C,
    )
    assert_rung(stage, second, "101")
    if not second.results:
        pause(0.1)
        second.completed("bridge", "SUCCESS", Disposition="SUCCESS")
    second.wait_result(CONTINUE, TRANSFER)
    assert second.count("PARK_PARKED") == 0
    assert (first.lamp(), first.commands(), first.results) == ("early", ["hold"], [])


def test_attended_park_with_the_retriever_ahead_of_the_completion(stage: Stage) -> None:
    leg = consultation(stage)
    retriever = stage.call("c", "*3101", data=SLOW, capture_group="101", **C)
    retriever.wait("accepted")
    pause(0.3)
    parkee = completed_transfer(stage, leg, data=SLOW)
    retriever.wait("call_pickup", 4)
    assert_picked_up(parkee, retriever, "101")
    assert "call_pickup" not in leg.names()


def test_attended_park_ringback(stage: Stage) -> None:
    leg = consultation(stage)
    parkee = completed_transfer(stage, leg, bridges=["answer"], children=("_",))
    assert_parked(stage, parkee, "101", "*3101")
    assert_rung(stage, parkee, "101")
    assert parkee.wait("PARK_RETRIEVED")["Parking-Slot"] == "101"
    assert_dark(parkee)
    parkee.completed("bridge", "SUCCESS", Disposition="SUCCESS")
    parkee.wait_result(CONTINUE)


def test_attended_park_ignore_ringback(stage: Stage) -> None:
    leg = consultation(stage)
    parkee = completed_transfer(stage, leg, bridges=["NO_ANSWER", "answer"], children=("_",))
    assert_rung(stage, parkee, "101")
    parkee.wait("hold", times=2)
    assert_rung(stage, parkee, "101", times=2)
    assert parkee.wait("PARK_RETRIEVED")["Parking-Slot"] == "101"
    assert_dark(parkee)
    parkee.completed("bridge", "SUCCESS", Disposition="SUCCESS")
    parkee.wait_result(CONTINUE)
    assert parkee.count("PARK_ABANDONED") == 0, parkee.story()


def test_attended_valet_retrieve(stage: Stage) -> None:
    leg = consultation(stage, "*4")
    parkee = completed_transfer(stage, leg, data=SLOW, capture_group="")
    assert_parked(stage, parkee, "101", "*4101")
    retriever = stage.call("c", "*5101", data={"action": "retrieve"}, capture_group="101", **C)
    assert_picked_up(parkee, retriever, "101")


def test_a_reservation_that_is_never_completed_is_not_intercepted(stage: Stage) -> None:
    leg = consultation(stage)
    retriever = stage.call("c", "*3101", data=SLOW, capture_group="101", **C)
    assert_prompt(stage, retriever, "already_in_use", timeout_s=5)
    retriever.wait_result(STOP)
    assert "call_pickup" not in retriever.commands()
    assert leg.commands() == ["answer", "queue", "say"], leg.story()
    leg.hang_up()
    leg.wait_result(TRANSFER)


def test_a_parkee_that_hangs_up_during_the_ringback_is_abandoned(stage: Stage) -> None:
    leg = consultation(stage)
    parkee = completed_transfer(stage, leg)
    assert_rung(stage, parkee, "101")
    parkee.hang_up("ORIGINATOR_CANCEL")
    assert_abandoned(parkee, "101")
