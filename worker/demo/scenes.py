"""The demo's five scenes. Each plays one thing people do with parking and checks each step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from worker.demo.stage import LAMP, OTHER_LAMP, Stage
from worker.switch import Ring, SimCall

Scene = Callable[[Stage], Awaitable[None]]


async def blind_park_and_ringback(stage: Stage) -> None:
    """A forgotten caller comes back to the one who parked them."""
    stage.bob.rings = [Ring(answer_after_ms=700, talk_ms=800)]
    stage.timeline.say("Bob transfers Alice to *3101 and forgets her")
    alice = await stage.transfer_in("Alice", stage.bob)
    await stage.see(alice, "PARK_PARKED", "Alice is parked in slot 101")
    await stage.see(alice, "hold", "Alice hears hold music")
    await stage.see_lamp(LAMP, "early")
    stage.timeline.phones()
    await stage.see(alice, "ringing", "after the ringback timeout Bob's phone rings")
    stage.timeline.phones()
    await stage.see(alice, "CHANNEL_BRIDGE", "Bob answers and talks to Alice")
    await stage.see(alice, "PARK_RETRIEVED", "PARK_RETRIEVED is announced")
    await stage.see_lamp(LAMP, "off")
    stage.timeline.phones()
    await stage.see_result(alice, "continue", "Bob hangs up: Alice's callflow goes on")
    alice.hangup()


async def attended_park_and_retrieve(stage: Stage) -> None:
    """The parker hears the slot's number first; a colleague picks the call up."""
    stage.timeline.say("Bob puts Anna on hold and dials *3101 on his second line")
    second_line = await stage.dial(stage.bob, "Bob's second line")
    await stage.see(second_line, "say", "Bob hears the slot's number")
    stage.check(stage.switch.lamp(f"{LAMP}@{stage.bob.realm}") == "off", "no lamp yet")
    await stage.breathe()
    stage.timeline.say("Bob completes the transfer")
    anna = await stage.transfer_in("Anna", stage.bob, replaces=second_line.call_id)
    await stage.see(anna, "PARK_PARKED", "Anna is parked in slot 101")
    await stage.see_lamp(LAMP, "early")
    await stage.see(second_line, "CHANNEL_DESTROY", "Bob's second line is gone")
    stage.timeline.phones()
    await stage.breathe()
    stage.timeline.say("Carol sees the lamp and dials *3101")
    carol = await stage.dial(stage.carol, "Carol")
    await stage.see(carol, "CHANNEL_BRIDGE", "Carol talks to Anna")
    stage.check(carol.other_leg == anna.call_id, "it is Anna she talks to")
    await stage.see(carol, "PARK_RETRIEVED", "PARK_RETRIEVED is announced")
    await stage.see_lamp(LAMP, "off")
    await stage.see_result(carol, "transfer", "Carol's callflow is done")
    announced = carol.count("PARK_RETRIEVED") + anna.count("PARK_RETRIEVED")
    stage.check(announced == 1, "exactly once")
    carol.hangup()


async def race_for_a_slot(stage: Stage) -> None:
    """Two parkers choose the same slot at the same moment: only one may have it."""
    stage.bob.rings = [Ring(answer_after_ms=300, talk_ms=400)]
    stage.dave.rings = [Ring(answer_after_ms=300, talk_ms=400)]
    stage.timeline.say("Bob transfers Ben and Dave transfers Dora to *3102 at the same moment")
    racers = await asyncio.gather(
        stage.transfer_in("Ben", stage.bob, slot="102"),
        stage.transfer_in("Dora", stage.dave, slot="102"),
    )
    parked, refused = await _outcome(stage, racers)
    names = stage.timeline.people
    winner, loser = names[parked.call_id], names[refused.call_id]
    await stage.see(parked, "hold", f"{winner} has slot 102 and hears hold music")
    await stage.see_lamp(OTHER_LAMP, "early")
    await stage.see(refused, "ringing", f"{loser} was second: the one who parked is rung at once")
    stage.timeline.phones()
    await stage.see(refused, "CHANNEL_BRIDGE", f"{loser} is back with the one who parked")
    await stage.see(refused, "result", f"{loser}'s callflow goes on")
    stage.check(refused.count("PARK_PARKED") == 0, f"{loser} was never announced as parked")
    stage.check(parked.count("PARK_PARKED") == 1, f"slot 102 holds {winner} and nobody else")
    refused.hangup()
    await stage.breathe()
    stage.timeline.say("Carol dials *3102")
    carol = await stage.dial(stage.carol, "Carol", slot="102")
    await stage.see(carol, "CHANNEL_BRIDGE", f"Carol talks to {winner}")
    await stage.see_lamp(OTHER_LAMP, "off")
    carol.hangup()


async def _outcome(stage: Stage, racers: Sequence[SimCall]) -> tuple[SimCall, SimCall]:
    """(who got the slot, who did not)."""

    def decided() -> bool:
        return any(call.count("PARK_PARKED") for call in racers)

    await stage.switch.wait_until(decided, 4.0, "one of two racers parked")
    first, second = racers
    return (first, second) if first.count("PARK_PARKED") else (second, first)


async def parked_caller_hangs_up(stage: Stage) -> None:
    """Nobody came: the caller gives up, and the slot is free at once."""
    stage.timeline.say("Bob transfers Eve to *3101")
    eve = await stage.transfer_in("Eve", stage.bob)
    await stage.see(eve, "hold", "Eve hears hold music")
    await stage.see_lamp(LAMP, "early")
    await stage.breathe()
    stage.timeline.say("Eve hangs up")
    eve.hangup()
    await stage.see(eve, "PARK_ABANDONED", "PARK_ABANDONED is announced")
    await stage.see_lamp(LAMP, "off")
    stage.timeline.say("Carol dials *3101 all the same")
    carol = await stage.dial(stage.carol, "Carol")
    await stage.see(carol, "answer", "Carol is answered: the slot was free, it is hers to use")
    carol.hangup()
    await stage.see(carol, "flow-ended", "she hangs up: nothing is left behind")


SCENES: tuple[tuple[str, Scene], ...] = (
    ("Blind park, and the ringback is answered", blind_park_and_ringback),
    ("Attended park, and a colleague retrieves", attended_park_and_retrieve),
    ("Two callers race for one slot", race_for_a_slot),
    ("The parked caller hangs up", parked_caller_hangs_up),
)
