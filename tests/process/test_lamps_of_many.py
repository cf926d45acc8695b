"""Lamps with several workers: one answer to a probe, and dark stays dark."""

from __future__ import annotations

from tests.acceptance.calls import TRANSFER, PeerCall
from tests.process.zone import Scene, SteadyPeer, Zone, assert_retrieved, slot_of

ANSWER_S = 0.4


def probe(peer: SteadyPeer, scene: Scene, user: str) -> list[str]:
    """The states said in answer to one probe."""
    before = len(peer.dialogs(scene.presence_id(user)))
    peer.probe(user, scene.realm)
    peer.quiet(ANSWER_S, lambda: True, "")
    return [update["State"] for update in peer.dialogs(scene.presence_id(user))[before:]]


def reset(peer: SteadyPeer, realm: str, user: str = "*") -> None:
    """Kamailio is told to forget lamps (contract §5.6)."""
    payload = {
        "Event-Category": "presence",
        "Event-Name": "reset",
        "Realm": realm,
        "Username": user,
        "App-Name": "crossbar",
        "App-Version": "4.0.0",
        "Msg-ID": "1",
        "Node": "kazoo_apps@rig",
    }
    peer.publish("presence", f"presence.reset.{realm.replace('.', '%2E')}.{user}", payload)


def never_lit(call: PeerCall) -> bool:
    return call.lamp() in ("", "terminated") and not call.count("early")


def test_probes_are_answered_once(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    """Of an occupied slot by its owner, of a free one by one of the workers, of an unknown user by
    nobody."""
    zone.start("w1", "w2", "w3")
    calls = [scene.parked(str(101 + number), f"p{number}") for number in range(6)]
    for call in calls:
        assert probe(peer, scene, call.number) == ["early"], call.story()
    freed = calls[0]
    freed.hang_up()
    freed.wait("terminated", times=2)
    assert probe(peer, scene, freed.number) == ["terminated"]
    # A free slot's lamp belongs to no switch; everything else is asked of every update.
    peer.problems[:] = [one for one in peer.problems if "free-" not in one]
    assert probe(peer, scene, "nobody") == []
    assert probe(peer, scene, calls[1].number) == ["early"]


def test_probes_are_answered_once_after_a_worker_died(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2", "w3")
    calls = [scene.parked(str(101 + number), f"p{number}") for number in range(6)]
    victim = zone.owner(calls[0])
    mine = [call for call in calls if zone.owner(call) == victim]
    zone.kill(victim)
    for call in mine:
        zone.wait_adopted(call, victim, 5)
    peer.quiet(2.5, lambda: True, "")  # the adopters light their lamps again
    for call in calls:
        assert probe(peer, scene, call.number) == ["early"], call.story()


def test_a_lamp_that_was_never_lit_stays_dark(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    """A reservation has no lamp, whoever looks after it and whatever Kamailio forgets."""
    zone.start("w1", "w2")
    data = {"action": "auto", "default_ringback_timeout": 600_000}
    leg = scene.make("b2", "*3101", data=data, capture_group="101")
    peer.execute(leg)
    leg.wait("say")
    assert probe(peer, scene, "*3101") in ([], ["terminated"])
    reset(peer, scene.realm)
    victim = zone.owner(leg)
    zone.kill(victim)
    zone.wait_adopted(leg, victim, 5)
    peer.quiet(2.5, lambda: never_lit(leg), "the reservation's lamp is dark")
    assert "early" not in probe(peer, scene, "*3101")
    parkee = scene.make("a", "*3101", data=data, capture_group="101", replaces=leg.call_id)
    peer.execute(parkee)
    parkee.wait("early")
    leg.hang_up()
    leg.wait_result(TRANSFER)
    assert never_lit(leg)
    assert probe(peer, scene, "*3101") == ["early"]


def test_a_lamp_of_a_refused_call_stays_dark(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    zone.start("w1", "w2")
    over = scene.make("over", "*4", blind=True, data={"slot": "999", "max_slot_number": 110})
    invalid = scene.make("invalid", "*4", blind=True, data={"action": "juggle"})
    gone = scene.make("gone", "*4", blind=True, status="terminated")
    for call in (over, invalid, gone):
        peer.execute(call)
    for call in (over, invalid, gone):
        call.wait("result", 5)
    reset(peer, scene.realm)
    peer.quiet(1, lambda: all(call.lamp() == "" for call in (over, invalid)), "dark")
    assert never_lit(gone)


def test_after_a_reset_occupied_lamps_are_said_again_by_their_owners(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    zone.start("w1", "w2", "w3")
    calls = [scene.parked(str(101 + number), f"p{number}") for number in range(6)]
    dark = scene.parked("120", "dark")
    dark.hang_up()
    dark.wait("terminated", times=2)
    before = {call.call_id: call.count("early") for call in calls}
    reset(peer, scene.realm)
    for call in calls:
        call.wait("early", 5, times=before[call.call_id] + 1)
    peer.quiet(1, lambda: dark.lamp() == "terminated", "dark")
    for call in calls:
        assert call.count("early") == before[call.call_id] + 1, call.story()
        assert zone.owner(call) == str(call.payloads("early")[-1]["Node"]).partition("@")[0]


def test_a_lamp_follows_its_slot_through_owners_and_calls(
    peer: SteadyPeer, zone: Zone, scene: Scene
) -> None:
    """Lit by one worker, adopted by another, picked up, and the slot taken by the next call."""
    zone.start("w1", "w2")
    first = scene.parked("101", "first")
    victim = zone.owner(first)
    zone.kill(victim)
    zone.wait_adopted(first, victim, 5)
    assert_retrieved(first, scene.retrieve(slot_of(first)))
    second = scene.parked("101", "second")
    zone.start(victim)
    peer.quiet(3, lambda: True, "")
    assert first.lamp() == "terminated", first.story()
    assert second.lamp() == "early", second.story()
    said = [update["State"] for update in peer.dialogs(scene.presence_id("3101"))]
    assert said[-1] == "early"
    assert probe(peer, scene, "3101") == ["early"]
