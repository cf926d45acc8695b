"""Lamps as Kamailio would light them, and the applications a worker asks."""

from __future__ import annotations

import pytest

from tests.unit.switch.conftest import ENVELOPE, Rig
from worker.switch.plan import SwitchPlan

SLOT = "*3101@acme"


def lamp(rig: Rig) -> str:
    return rig.core.kamailio.shown(SLOT)


@pytest.mark.parametrize("state", ["early", "confirmed"])
def test_an_update_lights_the_lamp_and_its_termination_puts_it_out(rig: Rig, state: str) -> None:
    rig.dialog(state)
    assert lamp(rig) == state
    rig.dialog("terminated")
    assert lamp(rig) == "off"


@pytest.mark.parametrize(
    "wrong",
    [{"Call_ID": "other@h"}, {"Switch_URI": "sip:10.0.0.2:11000"}, {"App_Name": "callflow"}],
)
def test_a_termination_that_differs_in_the_key_leaves_the_lamp_lit(
    rig: Rig, wrong: dict[str, str]
) -> None:
    rig.dialog("early")
    rig.dialog("terminated", **wrong)
    assert lamp(rig) == "early"


def test_a_termination_is_forgotten_after_ten_seconds_so_early_shows_again(rig: Rig) -> None:
    rig.dialog("early", "a@h")
    rig.dialog("terminated", "a@h")
    rig.dialog("early", "b@h")
    assert lamp(rig) == "early"


@pytest.mark.parametrize("name", ["From", "From_User", "From_Realm", "To", "State", "Expires"])
def test_an_update_without_a_needed_field_does_not_light(rig: Rig, name: str) -> None:
    rig.dialog("early", **{name: ""})
    assert lamp(rig) == "off"
    assert rig.core.kamailio.faults


def test_an_update_from_another_uri_form_reaches_nobody(rig: Rig) -> None:
    rig.dialog("early", From="*3101@acme")
    assert lamp(rig) == "off"


@pytest.mark.parametrize("name", ["Tom & Jerry", "<script>", 'Al "x"', "bell\x07"])
def test_unescaped_text_blanks_the_lamp(rig: Rig, name: str) -> None:
    rig.dialog("early", To_User=name)
    assert lamp(rig) == "blank"


def test_escaped_text_is_shown(rig: Rig) -> None:
    rig.dialog("early", To_User="Tom &amp; Jerry's &lt;x&gt;")
    assert lamp(rig) == "early"


@pytest.mark.parametrize(
    "fields",
    [{"From_Tag": "A" * 87}, {"To_User": "x" * 8_000}, {"Call_ID": "c" * 1_100}],
)
def test_an_over_long_field_kills_kamailio(rig: Rig, fields: dict[str, str]) -> None:
    rig.dialog("early", **fields)
    assert not rig.core.kamailio.alive


def test_an_expired_row_goes_silently_and_a_fresh_subscription_probes(rig: Rig) -> None:
    rig.dialog("early", Expires=60)
    rig.run(61_000)
    assert lamp(rig) == "early"
    rig.core.kamailio.watch(SLOT)
    rig.run()
    probe = rig.sent[-1]
    assert (probe.exchange, probe.routing_key) == ("presence", "probes.dialog")
    assert (probe.payload["Username"], probe.payload["Realm"]) == ("*3101", "acme")


def test_unwatched_lamps_are_dropped_when_the_plan_says_so() -> None:
    rig = Rig(SwitchPlan(watch_all_lamps=False))
    rig.dialog("early")
    assert lamp(rig) == "off"
    rig.core.kamailio.watch(SLOT)
    rig.dialog("early")
    assert lamp(rig) == "early"


def test_a_restart_forgets_rows_and_probes_for_each_watcher(rig: Rig) -> None:
    rig.core.kamailio.watch(SLOT)
    rig.dialog("early")
    rig.run()
    before = len(rig.sent)
    rig.core.kamailio.restart()
    rig.run()
    assert lamp(rig) == "off"
    assert [message.routing_key for message in rig.sent[before:]] == ["probes.dialog"]


def test_rows_of_a_lost_server_go_out(rig: Rig) -> None:
    rig.dialog("early")
    rig.core.kamailio.server_lost("sip:10.0.0.1:11000")
    assert lamp(rig) == "off"


def test_sysconf_answers_known_keys_and_undefined() -> None:
    rig = Rig(SwitchPlan(sysconf={"default_ringback_timeout": 5000}))
    for key in ("default_ringback_timeout", "default_callback_timeout"):
        request = {
            **ENVELOPE,
            "Event-Category": "sysconf",
            "Event-Name": "get_req",
            "Category": "callflow.park",
            "Key": key,
            "Node": "w@h",
            "Server-ID": "asker",
        }
        rig.receive("sysconf", "sysconf.get", request, {}, queue=rig.core.sysconf_queue)
    assert [message.payload["Value"] for message in rig.sent] == [5000, "undefined"]


def test_the_registrar_knows_registered_devices_only(rig: Rig) -> None:
    device = rig.device("c0ffee")
    request = {
        **ENVELOPE,
        "Event-Category": "directory",
        "Event-Name": "reg_query",
        "Username": device.username,
        "Realm": device.realm,
        "Server-ID": "asker",
    }
    rig.receive("registrar", "x", request, {}, queue=rig.core.registrar_queue)
    names = [message.payload["Event-Name"] for message in rig.sent]
    assert names == ["reg_query_error", "reg_query_resp"]
    fields = rig.sent[-1].payload["Fields"]
    assert fields[0]["Authorizing-ID"] == "c0ffee"  # type: ignore[index]
    device.registered = False
    rig.receive("registrar", "x", request, {}, queue=rig.core.registrar_queue)
    assert [message.payload["Event-Name"] for message in rig.sent[2:]] == ["reg_query_error"] * 2


def test_park_events_are_noted_for_their_call(rig: Rig) -> None:
    event = {
        **ENVELOPE,
        "Event-Category": "call_event",
        "Event-Name": "PARK_PARKED",
        "Call-ID": "p@h",
        "Parking-Slot": "101",
        "Custom-Channel-Vars": {"Account-ID": "a"},
    }
    rig.receive("callevt", "call.PARK_PARKED.x", event, {}, queue=rig.core.watch_queue)
    assert rig.seen("p@h") == ["PARK_PARKED"]
    rig.receive(
        "callevt",
        "call.PARK_PARKED.x",
        {**event, "Parking-Slot": 101},
        {},
        queue=rig.core.watch_queue,
    )
    assert rig.drops == ["PARK_PARKED without a slot as text"]


def test_beside_a_real_kazoo_only_what_is_its_own_is_answered() -> None:
    rig = Rig(SwitchPlan(alone=False))
    flow = rig.place()
    rig.core.vanish(flow.call_id)
    before = len(rig.sent)
    assert rig.status("a real call") == []
    sysconf = {**ENVELOPE, "Event-Category": "sysconf", "Event-Name": "get_req", "Server-ID": "a"}
    rig.receive("sysconf", "sysconf.get", sysconf, {}, queue=rig.core.sysconf_queue)
    query = {**ENVELOPE, "Event-Category": "directory", "Event-Name": "reg_query", "Username": "x"}
    rig.receive("registrar", "x", query, {}, queue=rig.core.registrar_queue)
    assert rig.sent[before:] == []
    assert rig.status(flow.call_id) == ["terminated", "terminated"]
