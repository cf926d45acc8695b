"""The rig does what the real thing does, so that the other tests mean something."""

from __future__ import annotations

import asyncio

import pytest

from tests.lamps.phone import Phone
from tests.lamps.publisher import Publisher, an_entry
from tests.lamps.rig import Kamailio
from worker.parking.model import PresenceType

DARK = PresenceType.TERMINATED


async def test_a_dialog_update_lights_the_lamp_and_terminated_darkens_it(
    phone: Phone, publisher: Publisher, realm: str
) -> None:
    slot = f"*3101@{realm}"
    await phone.subscribe(slot)
    await phone.wait_for(slot, "off")
    entry = an_entry("*3101", realm, "call-1@10.0.0.1")
    await publisher.say(entry)
    lit = await phone.wait_lit(slot, "call-1@10.0.0.1")
    (dialog,) = lit.dialogs
    assert (dialog.state, dialog.direction) == ("early", "recipient")
    assert dialog.remote_display == "Alice"
    assert dialog.call_id.startswith("kfp+31")
    await publisher.say(entry, DARK, 10)
    await phone.wait_dark(slot)


async def test_a_new_subscription_asks_the_workers_for_the_slots_state(
    phone: Phone, publisher: Publisher, realm: str
) -> None:
    await phone.subscribe(f"*3101@{realm}")
    probe = await asyncio.wait_for(publisher.heard.get(), 5)
    assert (probe["Username"], probe["Realm"]) == ("*3101", realm)
    assert probe["Event-Package"] == "dialog"


async def test_updates_nobody_watches_are_dropped(
    phone: Phone, publisher: Publisher, realm: str
) -> None:
    slot, watched = f"*3101@{realm}", f"*3102@{realm}"
    await phone.subscribe(watched)
    await publisher.say(an_entry("*3101", realm, "call-1"))
    await publisher.say(an_entry("*3102", realm, "call-2"))
    await phone.wait_lit(watched, "call-2")
    await phone.settle(0.3)
    await phone.subscribe(slot)
    await phone.wait_for(slot, "off")


async def test_an_expired_row_vanishes_without_a_word(
    phone: Phone, publisher: Publisher, realm: str
) -> None:
    slot = f"*3101@{realm}"
    await phone.subscribe(slot)
    await publisher.say(an_entry("*3101", realm, "call-1"), expires_s=1)
    await phone.wait_for(slot, "early")
    await asyncio.sleep(3.5)
    assert phone.lamp(slot) == "early"
    await phone.subscribe(slot)
    await phone.wait_for(slot, "off")


async def test_the_switch_of_a_parked_call_is_known_until_any_call_of_the_slot_ends(
    phone: Phone, publisher: Publisher, realm: str
) -> None:
    slot = f"*3101@{realm}"
    await phone.subscribe(slot)
    assert await phone.pick_up(slot) == ""
    await publisher.say(an_entry("*3101", realm, "call-1"))
    await phone.wait_lit(slot, "call-1")
    await publisher.say(an_entry("*3101", realm, "call-2"))
    await phone.settle(0.2)
    assert await phone.pick_up(slot) == "sip:10.26.0.11:11000"
    await publisher.say(an_entry("*3101", realm, "call-1"), DARK, 10)
    await phone.wait_lit(slot, "call-2")
    assert await phone.pick_up(slot) == ""


async def test_back_to_back_updates_overtake_each_other(
    phone: Phone, publisher: Publisher, realm: str
) -> None:
    slots = [f"*3{number}@{realm}" for number in range(101, 161)]
    for slot in slots:
        await phone.subscribe(slot)
    for number, slot in enumerate(slots):
        entry = an_entry(slot.partition("@")[0], realm, f"call-{number}")
        await publisher.say(entry)
        await publisher.say(entry, DARK, 10)
    await phone.settle(0.5)
    stuck = [slot for slot in slots if phone.lit(slot)]
    assert stuck, "16 unordered workers kept every order: the other tests would prove nothing"


@pytest.mark.parametrize("kill", [True, False])
async def test_a_restarted_kamailio_knows_nothing(
    kamailio: Kamailio, phone: Phone, publisher: Publisher, realm: str, kill: bool
) -> None:
    slot = f"*3101@{realm}"
    await phone.subscribe(slot)
    await publisher.say(an_entry("*3101", realm, "call-1"))
    await phone.wait_for(slot, "early")
    await kamailio.stop(kill=kill)
    assert not kamailio.alive()
    await kamailio.start()
    await phone.subscribe_anew(slot)
    await phone.wait_for(slot, "off")
