"""Several workers, one slot table: shared work, races, and what happens when one goes."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from tests.acceptance.calls import ANSWERS, CONTINUE, STOP, TRANSFER, Payload, PeerCall
from tests.process.zone import (
    Scene,
    SteadyPeer,
    Zone,
    assert_retrieved,
    await_parked,
    eventually,
    ring_lateness_s,
    slot_of,
)

ADOPTED_S = 5.0
HANDED_OVER_S = 1.0


def assert_sound(calls: list[PeerCall]) -> None:
    """Held once, announced once, at most one result."""
    for call in calls:
        assert call.count("hold") <= 1, call.story()
        assert call.count("PARK_PARKED") <= 1, call.story()
        assert len(call.results) <= 1, call.story()


def unanswered(_call: PeerCall, _command: Payload) -> None:
    """A switch that takes its time."""


def assert_stays_dark(peer: SteadyPeer, call: PeerCall) -> None:
    peer.quiet(0.3, lambda: call.lamp() == "terminated", "dark")


def parked_by(zone: Zone, scene: Scene, name: str, most: int = 40) -> PeerCall:
    """A call looked after by that worker; those that went to others are hung up."""
    for number in range(most):
        call = scene.parked(str(200 + number), f"seek{number}")
        if zone.owner(call) == name:
            return call
        call.hang_up()
    raise AssertionError(f"{name} got none of {most} calls")


# ---- sharing -------------------------------------------------------------------------------------


def test_work_is_shared(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    zone.start("w1", "w2", "w3")
    calls = [scene.valet(f"v{number}") for number in range(30)]
    for call in calls:
        await_parked(call)
    shares = Counter(zone.owner(call) for call in calls)
    assert set(shares) == {"w1", "w2", "w3"}
    assert min(shares.values()) >= 3, shares
    assert_sound(calls)


def test_valet_parks_at_the_same_time_get_different_slots(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2", "w3")
    calls = [scene.valet(f"v{number}") for number in range(30)]
    for call in calls:
        await_parked(call)
    slots = sorted(int(slot_of(call)) for call in calls)
    assert slots == list(range(101, 131))
    assert all(call.commands() == ["hold"] for call in calls)


def await_decided(pair: list[PeerCall]) -> None:
    pair[0].wait("accepted")
    eventually(lambda: all(c.count("hold") + c.count("bridge") for c in pair), 8, "decided")


def test_one_slot_is_never_given_to_two_calls(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    """The reference put both callers on hold in up to 25 of 100 such races."""
    zone.start("w1", "w2", "w3")
    for number in range(20):
        slot = str(300 + number)
        pair = [scene.park(slot, f"{side}{number}", bridges=["NO_ANSWER"]) for side in "ab"]
        await_decided(pair)
        held = [call for call in pair if call.count("hold")]
        rung = [call for call in pair if call.count("bridge")]
        assert (len(held), len(rung)) == (1, 1), [call.story() for call in pair]
        assert rung[0].count("PARK_PARKED") == 0
        assert rung[0].lamp() == ""


@pytest.mark.parametrize("crossing", [False, True], ids=["one slot", "many slots"])
def test_of_two_retrievers_one_gets_the_call_and_the_other_hears_nobody_is_there(
    peer: SteadyPeer, zone: Zone, scene: Scene, crossing: bool
) -> None:
    zone.start("w1", "w2", "w3")
    count = 10
    parked = [scene.parked(str(101 + number), f"p{number}") for number in range(count)]
    pairs = [
        [scene.retrieve(str(101 + number), f"{side}{number}") for side in "ab"]
        for number in range(count)
        if crossing or number == 0
    ]
    for number, pair in enumerate(pairs):
        for call in pair:
            call.wait("result", 15)
        winners = [call for call in pair if call.count("call_pickup")]
        losers = [call for call in pair if not call.count("call_pickup")]
        assert len(winners) == 1, [call.story() for call in pair]
        assert_retrieved(parked[number], winners[0])
        played = str(losers[0].payloads("queue") + losers[0].payloads("play"))
        assert "park-no_caller" in played, losers[0].story()
        assert losers[0].results == [STOP], losers[0].story()


def test_two_who_dial_a_free_auto_slot_do_not_both_get_it(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2")
    data = {"action": "auto"}
    pair = [scene.make(side, "*3101", data=data, capture_group="101") for side in "ab"]
    for call in pair:
        peer.execute(call)
    peer.wait(lambda: any(call.count("say") for call in pair), 5, "one hears its number")
    peer.quiet(2, lambda: sum(call.count("say") for call in pair) == 1, "only one")


# ---- a worker is killed --------------------------------------------------------------------------


def test_calls_of_a_killed_worker_are_adopted_and_rung_back_on_time(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    """Adopted within 5 s; a ringback due later comes on time, one that was due in between at once;
    one result each."""
    zone.start("w1", "w2", "w3")
    soon_ms, later_ms = 1_500, 5_500
    calls = []
    for number in range(12):
        ring_ms = later_ms if number % 2 else soon_ms
        slot = str(101 + number)
        calls.append(scene.park(slot, f"p{number}", ring_ms=ring_ms, bridges=["answer"]))
    for call in calls:
        await_parked(call)
    mine = [call for call in calls if zone.owner(call) == "w2"]
    assert mine
    killed_at = zone.kill("w2")
    for call in mine:
        zone.wait_adopted(call, "w2", ADOPTED_S)
    adopted_s = time.monotonic() - killed_at
    assert adopted_s < ADOPTED_S
    for number, call in enumerate(calls):
        ring_ms = later_ms if number % 2 else soon_ms
        call.wait("bridge", 10)
        most_s = 1.0 if number % 2 or call not in mine else ADOPTED_S
        assert -0.1 < ring_lateness_s(call, ring_ms) < most_s, call.story()
        call.wait("PARK_RETRIEVED")
        call.completed("bridge", "SUCCESS", Disposition="SUCCESS")
        call.wait_result(CONTINUE)
        call.status = "terminated"
    peer.quiet(0.5, lambda: all(len(call.results) == 1 for call in calls), "one result each")
    assert_sound(calls)
    for call in calls:
        assert call.count("bridge") == 1, call.story()
        assert call.lamp() == "terminated", call.story()


def test_a_call_can_be_retrieved_while_nobody_looks_after_it(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    """In the moments between its worker's death and the adoption; nobody then holds it again."""
    zone.start("w1", "w2")
    calls = [scene.parked(str(101 + number), f"p{number}") for number in range(8)]
    mine = [call for call in calls if zone.owner(call) == "w1"]
    assert mine
    zone.kill("w1")
    for call in mine:
        slot = slot_of(call)
        retriever = scene.retrieve(slot, f"r{slot}")
        retriever.wait_result(TRANSFER, timeout_s=8)
        call.wait("terminated", 8)
    peer.quiet(3, lambda: all(call.count("hold") == 1 for call in mine), "not held again")
    for call in mine:
        assert call.lamp() == "terminated", call.story()
        assert call.count("PARK_ABANDONED") == 0, call.story()
        assert len(call.results) <= 1, call.story()


def test_a_hangup_while_nobody_looks_after_the_call_is_found_out(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2")
    call = parked_by(zone, scene, "w1")
    zone.kill("w1")
    call.hang_up()
    call.wait("PARK_ABANDONED", 8)
    call.wait("terminated", 8)
    call.wait_result(STOP)


def test_a_retriever_whose_worker_dies_in_mid_pickup_keeps_its_call(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    """Killed after call_pickup went out: the bridge stands, the slot is freed, one result."""
    zone.start("w1", "w2")
    for number in range(3):
        slot = str(101 + number)
        parkee = scene.parked(slot, f"p{number}")
        retriever = scene.make(f"r{number}", f"5{slot}", data={"action": "retrieve", "slot": slot})
        retriever.answers["call_pickup"] = unanswered
        peer.execute(retriever)
        command = retriever.wait("call_pickup")
        name = zone.owner(retriever)
        zone.kill(name)
        # Only now does the switch connect the two.
        ANSWERS["call_pickup"](retriever, command)
        parkee.wait("terminated", 10)
        retriever.wait_result(TRANSFER, timeout_s=10)
        assert retriever.count("call_pickup") == 1, retriever.story()
        assert parkee.count("hold") == 1, parkee.story()
        assert_stays_dark(peer, parkee)
        zone.start(name)


def test_a_call_being_rung_back_is_not_rung_twice_when_its_worker_dies(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2")
    call = scene.parked("101", ring_ms=1_000)
    call.wait("bridge", 3)
    zone.kill(zone.owner(call))
    peer.quiet(4, lambda: call.count("bridge") == 1, "one bridge command")
    call.bridged("parkerleg-1")
    call.wait("PARK_RETRIEVED", 5)
    call.wait("terminated")
    call.completed("bridge", "SUCCESS", Disposition="SUCCESS")
    call.wait_result(CONTINUE, timeout_s=5)


# ---- a worker stops ------------------------------------------------------------------------------


def test_sigterm_hands_over_within_a_second_and_the_ringback_comes_once(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2")
    ring_ms = 3_000
    calls = [
        scene.park(str(101 + number), f"p{number}", ring_ms=ring_ms, bridges=["answer"])
        for number in range(8)
    ]
    for call in calls:
        await_parked(call)
    mine = [call for call in calls if zone.owner(call) == "w1"]
    assert mine
    began = time.monotonic()
    process = zone.workers["w1"]
    ended = threading.Thread(target=process.stop)
    ended.start()
    for call in mine:
        zone.wait_adopted(call, "w1", HANDED_OVER_S)
    assert time.monotonic() - began < HANDED_OVER_S
    ended.join()
    assert process.stop() == 0
    for call in calls:
        call.wait("bridge", 6)
        assert -0.1 < ring_lateness_s(call, ring_ms) < 1.0, call.story()
        call.wait("PARK_RETRIEVED")
        call.completed("bridge", "SUCCESS", Disposition="SUCCESS")
        call.wait_result(CONTINUE)
        call.status = "terminated"
    peer.quiet(0.5, lambda: all(call.count("bridge") == 1 for call in calls), "rung once")
    assert_sound(calls)


def test_executes_in_hand_at_sigterm_are_lost_by_nobody(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2")
    calls = [scene.valet(f"a{number}") for number in range(20)]
    code, _ = zone.stop("w1")
    assert code == 0
    calls += [scene.valet(f"b{number}") for number in range(10)]
    for call in calls:
        await_parked(call, 8)
    slots = [slot_of(call) for call in calls]
    assert len(set(slots)) == len(calls)
    assert all(not call.results for call in calls)
    assert_sound(calls)


# ---- a worker is frozen --------------------------------------------------------------------------


def frozen_owner(peer: SteadyPeer, zone: Zone, scene: Scene, frozen_s: float) -> None:
    """An owner stops for that long and wakes: nothing is doubled, whatever fell due meanwhile."""
    zone.start("w1", "w2", "w3")
    ring_ms = int(frozen_s * 500)
    calls = [
        scene.park(str(101 + number), f"p{number}", ring_ms=ring_ms, bridges=["answer"])
        for number in range(12)
    ]
    for call in calls:
        await_parked(call)
    left = scene.parked("140", "left")
    mine = [call for call in calls if zone.owner(call) == "w1"]
    assert mine
    frozen_at = zone.freeze("w1")
    left.hang_up()
    for call in calls:
        call.wait("bridge", frozen_s)
        call.wait("PARK_RETRIEVED")
    left.wait("PARK_ABANDONED", frozen_s)
    assert time.monotonic() - frozen_at < frozen_s
    peer.quiet(frozen_at + frozen_s - time.monotonic(), lambda: True, "")
    before = {call.call_id: list(call.names()) for call in [*calls, left]}
    woken_at = zone.thaw("w1")
    peer.quiet(3, lambda: True, "")
    ids = set(before)
    said = [
        one
        for one in peer.seen
        if one.at > woken_at
        and one.payload.get("Node") == zone.node("w1")
        and one.payload.get("Call-ID") in ids
    ]
    assert [f"{one} {one.payload.get('State', '')}" for one in said] == []
    after = {call.call_id: list(call.names()) for call in [*calls, left]}
    news = {key: after[key][len(before[key]) :] for key in after}
    assert {name for names in news.values() for name in names} <= {"terminated"}
    for call in calls:
        call.completed("bridge", "SUCCESS", Disposition="SUCCESS")
        call.wait_result(CONTINUE)
        call.status = "terminated"
        assert call.count("bridge") == 1, call.story()
    assert_sound([*calls, left])
    again = parked_by(zone, Scene(peer, "woken"), "w1")
    assert again.count("hold") == 1


def test_a_frozen_owner_that_wakes_says_nothing_more_for_its_calls(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    frozen_owner(peer, zone, scene, 6.5)


def test_a_short_freeze_costs_nothing(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    zone.start("w1", "w2")
    call = parked_by(zone, scene, "w1")
    zone.freeze("w1")
    peer.quiet(0.8, lambda: True, "")
    zone.thaw("w1")
    peer.quiet(2, lambda: call.count("hold") == 1 and not call.results, "as it was")
    assert zone.logged("session adopted") == []
    call.hang_up()
    call.wait_result(STOP)
    assert zone.owner(call) == "w1"


# ---- rolling restart -----------------------------------------------------------------------------


def rolling_restart(
    peer: SteadyPeer, zone: Zone, scene: Scene, *, per_s: float, rounds: int
) -> list[PeerCall]:
    """Every worker is stopped and started in turn under a stream of parks and retrieves."""
    zone.start("w1", "w2", "w3")
    calls: list[PeerCall] = []
    retrievers: list[PeerCall] = []
    stop = threading.Event()

    def feed() -> None:
        number = 0
        began = time.monotonic()
        while not stop.is_set():
            number += 1
            calls.append(scene.valet(f"v{number}"))
            if number % 4 == 0 and len(calls) > 20:
                old = calls[number - 20]
                if old.count("PARK_PARKED"):
                    slot = slot_of(old)
                    retrievers.append(scene.retrieve(slot, f"r{number}"))
            stop.wait(max(0.0, began + number / per_s - time.monotonic()))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for _ in range(rounds):
            for name in ("w1", "w2", "w3"):
                stop.wait(0.5)
                code, _ = zone.stop(name)
                assert code == 0
                zone.start(name)
    finally:
        stop.set()
        feeder.join()
    for call in calls:
        await_parked(call, 10)
    for call in retrievers:
        call.wait_result(TRANSFER, timeout_s=10)
        assert call.count("call_pickup") == 1, call.story()
    assert_sound(calls)
    taken = {call.payloads("call_pickup")[0]["Target-Call-ID"] for call in retrievers}
    assert len(taken) == len(retrievers)
    for call in calls:
        if call.call_id in taken:
            call.wait("terminated", 5)
            assert set(call.results) <= {TRANSFER}, call.story()
        else:
            assert call.results == [], call.story()
            assert call.lamp() == "early", call.story()
    return calls


def test_a_rolling_restart_under_load_loses_no_caller(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    calls = rolling_restart(peer, zone, scene, per_s=20, rounds=1)
    assert len(calls) > 40
