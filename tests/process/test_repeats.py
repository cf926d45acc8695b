"""The same execute again: never parked twice, never answered twice (design §8)."""

from __future__ import annotations

from tests.acceptance.calls import STOP, PeerCall
from tests.process.zone import Scene, SteadyPeer, Zone, assert_retrieved, eventually

SETTLE_S = 0.4


def again(peer: SteadyPeer, call: PeerCall) -> None:
    """The identical execute, as a broker delivers it a second time."""
    payload = call.execute_payload(
        f"pid://{call.control_pid}/{peer.control_queue}",
        f"pid://{call.flow_pid}/{peer.controller_queue}",
    )
    peer.publish("kapps", "callflow.action.park", payload, mandatory=True)


def assert_unmoved(peer: SteadyPeer, call: PeerCall) -> None:
    before = list(call.names())
    for _ in range(3):
        again(peer, call)
    peer.quiet(SETTLE_S, lambda: call.names() == before, f"nothing new for {call.call_id}")


def test_a_repeat_while_the_call_is_parked_is_ignored(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1")
    call = scene.parked("101")
    assert_unmoved(peer, call)
    assert_retrieved(call, scene.retrieve("101"))


def test_a_repeat_after_the_end_is_ignored(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    zone.start("w1")
    call = scene.parked("101")
    call.hang_up()
    call.wait_result(STOP)
    call.wait("terminated", times=2)
    call.status = "active"
    assert_unmoved(peer, call)
    assert len(zone.logged("execute repeated")) >= 3


def test_a_repeat_of_an_execute_that_was_refused_is_ignored(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1")
    call = scene.make("p", "3101", blind=True, data={"action": "juggle"})
    peer.execute(call)
    call.wait("result")
    assert_unmoved(peer, call)


def test_repeats_at_other_workers_are_ignored_while_parked_and_after(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    """Three workers share the queue, so three repeats in a row reach all of them."""
    zone.start("w1", "w2", "w3")
    call = scene.parked("101")
    assert_unmoved(peer, call)
    assert_unmoved(peer, call)
    seen_by = {line["session"] for line in zone.logged("execute repeated")}
    assert seen_by == {call.action_id}
    refusers = [name for name, worker in zone.workers.items() if worker.events("execute repeated")]
    assert len(refusers) == 3, refusers
    call.hang_up()
    call.wait_result(STOP)
    call.wait("terminated", times=2)
    call.status = "active"
    assert_unmoved(peer, call)


def test_a_repeat_after_a_restart_is_ignored(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    zone.start("w1")
    ended, parked = scene.parked("101", "ended"), scene.parked("102", "parked")
    ended.hang_up()
    ended.wait_result(STOP)
    ended.wait("terminated", times=2)
    zone.kill("w1")
    zone.start("w1")
    ended.status = "active"
    assert_unmoved(peer, ended)
    eventually(lambda: parked.lamp() == "early", 5, "the lamp is lit")
    before = [name for name in parked.names() if name != "early"]
    for _ in range(3):
        again(peer, parked)
    peer.quiet(
        SETTLE_S,
        lambda: [name for name in parked.names() if name != "early"] == before,
        "nothing but the lamp",
    )


def test_two_copies_at_once_park_one_call_once(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    """The copies go to two workers in the same moment: the log decides for one."""
    zone.start("w1", "w2")
    calls = [scene.make(f"p{number}", f"3{100 + number}", blind=True) for number in range(10)]
    for call in calls:
        call.data = {"action": "park", "slot": call.number[1:], "default_ringback_timeout": 60_000}
        peer.execute(call)
        again(peer, call)
    for call in calls:
        call.wait("early")
    peer.quiet(SETTLE_S, lambda: True, "")
    for call in calls:
        assert call.count("hold") == 1, call.story()
        assert call.count("PARK_PARKED") == 1, call.story()
        assert call.results == [], call.story()
        call.hang_up()
    for call in calls:
        call.wait("result")
    peer.quiet(SETTLE_S, lambda: all(len(c.results) == 1 for c in calls), "one result each")
