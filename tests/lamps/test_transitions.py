"""Every way a parked call can go ends with the right lamp on the phone (issue: must show).

The worker is a process of its own, Kamailio the real one with 16 unordered workers, the phone a
SIP subscriber; only Kazoo's side of the calls is played.
"""

from __future__ import annotations

from collections.abc import Iterator
from secrets import token_hex
from typing import Any

import pytest

from tests.acceptance.calls import PeerCall, recorded_pickup
from tests.acceptance.peer import Peer
from tests.acceptance.scenarios import LONG_MS, Stage, ringback_data
from tests.acceptance.worker_process import WorkerProcess, running_worker
from tests.lamps.desk import Desk

PAIRS = 200


@pytest.fixture(scope="module")
def module_peer(vhost_url: str) -> Iterator[Peer]:
    with Peer.connected(vhost_url) as peer:
        yield peer


@pytest.fixture(scope="module")
def worker(module_peer: Peer, vhost_url: str) -> Iterator[WorkerProcess]:
    with running_worker(vhost_url) as process:
        yield process
        assert process.events("lamp drift") == []


@pytest.fixture(scope="module")
def desk(vhost_url: str) -> Iterator[Desk]:
    with Desk.at_work(vhost_url) as running:
        yield running
        assert running.kamailio.alive()


@pytest.fixture
def stage(module_peer: Peer, worker: WorkerProcess) -> Iterator[Stage]:
    yield Stage(module_peer, token_hex(4))
    problems, module_peer.problems = module_peer.problems, []
    assert problems == []
    assert worker.running


@pytest.fixture
def slot(stage: Stage, desk: Desk) -> str:
    """The watched lamp ``*3101``."""
    presentity = stage.presence_id("*3101")
    desk.subscribe(presentity)
    return presentity


def park(stage: Stage, *, name: str = "parked", **fields: Any) -> PeerCall:
    """A blind transfer to ``*3101``."""
    data = {"action": "park", "default_ringback_timeout": LONG_MS}
    options = {"number": "*3101", "capture_group": "101", "data": data, **fields}
    return stage.blind("101", name=name, **options)


def retrieve(stage: Stage, **fields: Any) -> PeerCall:
    return stage.call("picker", "*5101", capture_group="101", data={"action": "retrieve"}, **fields)


def ring_soon(**fields: Any) -> dict[str, Any]:
    data = ringback_data("101")
    del data["slot"]
    return {"data": data, **fields}


def test_blind_park_and_retrieve(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage)
    lit = desk.wait_lit(slot, parkee.call_id)
    assert lit.lamp == "early"
    assert desk.pick_up(slot) == "sip:10.0.0.1:11000"
    retrieve(stage)
    desk.wait_dark(slot)
    desk.stays(slot, "off")
    assert desk.pick_up(slot) == ""


def test_the_caller_hangs_up(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage)
    desk.wait_lit(slot, parkee.call_id)
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_attended_transfer(stage: Stage, desk: Desk, slot: str) -> None:
    data = {"action": "auto", "default_ringback_timeout": LONG_MS}
    leg = stage.call("parkerleg", "*3101", capture_group="101", data=data, user="parker")
    leg.wait("say")
    assert not desk.lit(slot)
    parkee = stage.call("parkee", "*3101", capture_group="101", data=data, replaces=leg.call_id)
    desk.wait_lit(slot, parkee.call_id)
    leg.hang_up()
    desk.stays(slot, "on")
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_attended_transfer_that_is_not_completed(stage: Stage, desk: Desk, slot: str) -> None:
    data = {"action": "auto", "default_ringback_timeout": LONG_MS}
    leg = stage.call("parkerleg", "*3101", capture_group="101", data=data, user="parker")
    leg.wait("say")
    leg.hang_up()
    desk.stays(slot, "off", 0.5)


def test_a_transfer_that_replaces_the_parked_call(stage: Stage, desk: Desk, slot: str) -> None:
    first = park(stage)
    desk.wait_lit(slot, first.call_id)
    data = {"action": "park", "default_ringback_timeout": LONG_MS}
    second = stage.call("second", "*3101", capture_group="101", data=data, replaces=first.call_id)
    desk.wait_lit(slot, second.call_id)
    first.hang_up()
    desk.stays(slot, "on", 1.5)
    second.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_ringback_answered(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage, bridges=["answer"], **ring_soon())
    desk.wait_lit(slot, parkee.call_id)
    parkee.wait("PARK_RETRIEVED", 5)
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_ringback_refused_twice_then_the_caller_hangs_up(
    stage: Stage, desk: Desk, slot: str
) -> None:
    parkee = park(stage, bridges=["USER_BUSY", "USER_BUSY"], **ring_soon())
    desk.wait_lit(slot, parkee.call_id)
    parkee.wait("hold", 5, times=3)
    desk.stays(slot, "on", 0.3)
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_branch_after_an_unanswered_ringback(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage, bridges=["NO_ANSWER"], children=("101", "_"), **ring_soon())
    desk.wait_lit(slot, parkee.call_id)
    parkee.wait("result", 5)
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_the_caller_is_found_dead(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage, **ring_soon())
    desk.wait_lit(slot, parkee.call_id)
    parkee.status = "terminated"
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_picked_up_by_somebody_else(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage)
    desk.wait_lit(slot, parkee.call_id)
    parkee.event("CHANNEL_INTERCEPTED", Intercepted_By="third@10.0.0.3")
    parkee.bridged("third@10.0.0.3")
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_picked_up_as_it_was_recorded(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage)
    desk.wait_lit(slot, parkee.call_id)
    retrieve(stage, answers={"call_pickup": recorded_pickup})
    desk.wait_dark(slot)
    desk.stays(slot, "off")


@pytest.mark.parametrize("how", ["transferee", "usurp"])
def test_control_is_lost(stage: Stage, desk: Desk, slot: str, how: str) -> None:
    parkee = park(stage)
    desk.wait_lit(slot, parkee.call_id)
    if how == "transferee":
        parkee.event("CHANNEL_TRANSFEREE", Transfer_Type="blind")
    else:
        parkee.event("usurp_control", Fetch_ID="other-fetch", Reason="Route-Win")
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_the_call_changes_its_id(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage)
    desk.wait_lit(slot, parkee.call_id)
    new_id = f"replaced-{token_hex(4)}@10.0.0.9"
    stage.peer.calls[new_id] = parkee
    with stage.peer._arrived:  # what comes for the new id finds it
        parkee.event("CHANNEL_REPLACED", Replaced_By=new_id)
        parkee.call_id = new_id
    lit = desk.wait_lit(slot, new_id)
    assert [dialog.parked_call_id for dialog in lit.dialogs] == [new_id]
    desk.stays(slot, "on")
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_the_same_call_is_parked_again_at_once(stage: Stage, desk: Desk, slot: str) -> None:
    parkee = park(stage)
    for _ in range(3):
        desk.wait_lit(slot, parkee.call_id)
        retrieve(stage).wait("PARK_RETRIEVED")
        again = park(stage, name="again", call_id=parkee.call_id)
        again.wait("PARK_PARKED")
    desk.wait_lit(slot, parkee.call_id)
    desk.stays(slot, "on", 2.5)
    again.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_another_call_is_parked_as_soon_as_the_slot_is_free(
    stage: Stage, desk: Desk, slot: str
) -> None:
    first = park(stage)
    desk.wait_lit(slot, first.call_id)
    first.hang_up()
    first.wait("PARK_ABANDONED")
    second = park(stage, name="second")
    desk.wait_lit(slot, second.call_id)
    desk.stays(slot, "on", 2.5)
    assert desk.pick_up(slot) == "sip:10.0.0.1:11000"
    retrieve(stage)
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_a_dead_caller_is_found_when_somebody_parks_there(
    stage: Stage, desk: Desk, slot: str
) -> None:
    first = park(stage)
    desk.wait_lit(slot, first.call_id)
    first.status = "terminated"
    second = park(stage, name="second")
    desk.wait_lit(slot, second.call_id)
    desk.stays(slot, "on")
    second.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_direct_park_with_a_confirmed_lamp(stage: Stage, desk: Desk, slot: str) -> None:
    data = {"action": "direct_park", "default_presence_type": "confirmed"}
    parkee = stage.call("direct", "*3101", capture_group="101", data=data)
    assert desk.wait_lit(slot, parkee.call_id).lamp == "confirmed"
    parkee.hang_up()
    desk.wait_dark(slot)
    desk.stays(slot, "off")


def test_a_slot_may_have_no_lamp(stage: Stage, desk: Desk, slot: str) -> None:
    data = {"action": "park", "slots": {"101": {"presence_type": "terminated"}}}
    parkee = park(stage, data=data)
    parkee.wait("hold")
    desk.stays(slot, "off", 0.5)
    retrieve(stage).wait("PARK_RETRIEVED")
    desk.stays(slot, "off", 0.5)


def test_two_slots_share_a_lamp(stage: Stage, desk: Desk) -> None:
    lot = stage.presence_id("parking-lot")
    desk.subscribe(lot)
    data = {
        "action": "park",
        "custom_presence_id": True,
        "presence_id": "parking-lot",
        "default_ringback_timeout": LONG_MS,
    }
    first = stage.blind("101", name="first", data={**data, "slot": "101"})
    desk.wait_lit(lot, first.call_id)
    second = stage.blind("102", name="second", data={**data, "slot": "102"})
    second.wait("early")
    first.hang_up()
    desk.wait_lit(lot, second.call_id)
    desk.stays(lot, "on", 1.5)
    assert desk.pick_up(lot) == "sip:10.0.0.1:11000"
    second.hang_up()
    desk.wait_dark(lot)
    desk.stays(lot, "off")


def test_the_newer_trees_presence_user(stage: Stage, desk: Desk, slot: str) -> None:
    data = {"action": "park", "force_presence_user": True, "default_ringback_timeout": LONG_MS}
    parkee = park(stage, number="*4101", data=data)
    desk.wait_lit(slot, parkee.call_id)
    parkee.hang_up()
    desk.wait_dark(slot)


def test_two_hundred_parks_and_retrievals_back_to_back_leave_no_lamp_on(
    stage: Stage, desk: Desk
) -> None:
    numbers = [str(number) for number in range(201, 201 + PAIRS)]
    slots = [stage.presence_id(f"*3{number}") for number in numbers]
    desk.subscribe(*slots)
    parked = [
        park(stage, name=f"p{number}-", number=f"*3{number}", capture_group=number)
        for number in numbers
    ]
    for number, parkee in zip(numbers, parked, strict=True):
        parkee.wait("PARK_PARKED", 30)
        stage.call(f"r{number}-", f"*5{number}", capture_group=number, data={"action": "retrieve"})
    for parkee in parked:
        parkee.wait("terminated", 30, times=2)
    desk.settle(1.0)
    desk.subscribe(*slots)
    desk.settle(0.5)
    assert [slot for slot in slots if desk.lit(slot)] == []
    assert all(parkee.count("early") >= 1 for parkee in parked)
    assert desk.kamailio.alive()


def test_two_hundred_callers_who_hang_up_at_once_leave_no_lamp_on(stage: Stage, desk: Desk) -> None:
    numbers = [str(number) for number in range(201, 201 + PAIRS)]
    slots = [stage.presence_id(f"*3{number}") for number in numbers]
    desk.subscribe(*slots)
    parked = []
    for number in numbers:
        parkee = park(stage, name=f"p{number}-", number=f"*3{number}", capture_group=number)
        parkee.answers = {"hold": lambda call, _command: call.hang_up()}
        parked.append(parkee)
    for parkee in parked:
        parkee.wait("terminated", 30, times=2)
    desk.settle(1.0)
    desk.subscribe(*slots)
    desk.settle(0.5)
    assert [slot for slot in slots if desk.lit(slot)] == []
