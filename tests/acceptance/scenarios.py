"""The golden scenarios, each told again as a small script against a black-box worker.

Names and numbers follow the recordings; behaviour follows design §8 where it repairs the reference.
Every scenario has an account and a realm of its own, so all share one worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.acceptance.calls import (
    CONTINUE,
    PARKER,
    STOP,
    TRANSFER,
    PeerCall,
    account_of,
    branch,
    pause,
    recorded_pickup,
)
from tests.acceptance.peer import Payload, Peer

RINGBACK_MS = 300
LONG_MS = 120_000
PROMPT = "prompt://{account}/park-{prompt}/en-us"


class Stage:
    """One scenario's account, realm and calls."""

    def __init__(self, peer: Peer, name: str) -> None:
        self.peer = peer
        self.name = name
        self.account = account_of(name)
        self.realm = f"s{name}.example.com"

    def call(self, name: str, number: str, **fields: Any) -> PeerCall:
        """A call reaches its park node now."""
        call = PeerCall(
            name=f"{name}{self.name}",
            number=number,
            account=self.account,
            realm=self.realm,
            **fields,
        )
        return self.peer.execute(call)

    def parked(self, slot: str, *, name: str = "parked", **fields: Any) -> PeerCall:
        """A blind transfer into a slot, up to the point where it is held and the lamp is on."""
        data = {"action": "park", "slot": slot, "default_ringback_timeout": LONG_MS}
        call = self.blind(slot, name=name, **{"data": data, **fields})
        call.wait("PARK_PARKED")
        call.wait("hold")
        call.wait("early")
        return call

    def blind(self, slot: str, *, name: str = "parked", **fields: Any) -> PeerCall:
        fields.setdefault("number", f"3{slot}")
        return self.call(name, fields.pop("number"), blind=True, **fields)

    def retrieve(self, slot: str, *, name: str = "picker", **fields: Any) -> PeerCall:
        data = {"action": "retrieve", "slot": slot}
        rest = {"caller_name": "Picker", "caller_number": "+15550001002", "user": "1002"}
        return self.call(name, f"4{slot}", **{"data": data, **rest, **fields})

    def presence_id(self, user: str) -> str:
        return f"{user}@{self.realm}"


# ---- what is asserted again and again --------------------------------------------------------


def assert_parked(stage: Stage, call: PeerCall, slot: str, presence_user: str) -> None:
    """PARK_PARKED, hold and lamp are as the reference sent them."""
    event = call.wait("PARK_PARKED")
    assert event["Parking-Slot"] == slot
    assert event["Custom-Channel-Vars"]["Account-ID"] == stage.account
    assert event["Custom-Channel-Vars"]["Realm"] == stage.realm
    assert event["Caller-ID-Name"] == call.caller_name
    assert event["Caller-ID-Number"] == call.caller_number
    assert (event["App-Name"], event["Event-Category"]) == ("callflow", "call_event")
    hold = call.wait("hold")
    assert hold["Insert-At"] == "now"
    assert "Hold-Media" not in hold
    assert_lamp(stage, call, call.wait("early"), presence_user)
    assert call.names()[0] == "accepted", call.story()
    assert call.count("PARK_PARKED") == 1, call.story()


def assert_lamp(stage: Stage, call: PeerCall, update: Payload, presence_user: str) -> None:
    uri = f"{presence_user}@{stage.realm}"
    lit = update["State"] != "terminated"
    wanted = {
        "Presence-ID": uri,
        "From": f"sip:{uri}",
        "From-User": presence_user,
        "From-Realm": stage.realm,
        "From-Tag": "A",
        "To": f"{call.user}@{stage.realm}",
        "To-User": call.caller_name,
        "To-Realm": stage.realm,
        "To-Tag": "B",
        "To-URI": f"sip:{uri}",
        "Call-ID": call.call_id,
        "Switch-URI": "sip:10.0.0.1:11000",
        "Direction": "recipient",
        "Event-Package": "dialog",
        "App-Name": "park",
        "Event-Category": "presence",
        "Event-Name": "dialog_update",
    }
    found = {name: update.get(name) for name in wanted}
    assert found == wanted
    if not lit:
        assert update["Expires"] == 10


def assert_dark(call: PeerCall) -> None:
    """The lamp is put out with the key it was lit with, and stays out."""
    off = call.wait("terminated", 5)
    lit = next(one.payload for name, one in call.log if name in {"early", "confirmed"})
    for field in ("Call-ID", "Switch-URI", "App-Name", "From", "To", "Presence-ID", "To-User"):
        assert off[field] == lit[field], field
    assert call.lamp() == "terminated", call.story()


def assert_abandoned(call: PeerCall, slot: str) -> None:
    assert call.wait("PARK_ABANDONED", 5)["Parking-Slot"] == slot
    assert_dark(call)
    assert call.count("PARK_ABANDONED") == 1, call.story()
    assert call.count("PARK_RETRIEVED") == 0, call.story()
    assert call.results in ([], [STOP]), call.story()


def assert_picked_up(parkee: PeerCall, retriever: PeerCall, slot: str) -> None:
    """One pickup, one PARK_RETRIEVED (the retriever's), lamp off, transfer."""
    pickup = retriever.wait("call_pickup")
    wanted = {
        "Target-Call-ID": parkee.call_id,
        "Unbridged-Only": True,
        "Continue-On-Fail": False,
        "Continue-On-Cancel": True,
        "Park-After-Pickup": False,
    }
    assert {name: pickup.get(name) for name in wanted} == wanted
    retriever.wait_result(TRANSFER)
    assert retriever.wait("PARK_RETRIEVED")["Parking-Slot"] == slot
    assert_dark(parkee)
    assert retriever.commands() == ["call_pickup"], retriever.story()
    assert retriever.count("PARK_RETRIEVED") == 1, retriever.story()
    assert parkee.count("PARK_RETRIEVED") == 0, parkee.story()
    assert parkee.count("PARK_ABANDONED") == 0, parkee.story()
    assert parkee.results in ([], [TRANSFER]), parkee.story()


def assert_prompt(stage: Stage, call: PeerCall, prompt: str, *, timeout_s: float = 3.0) -> None:
    call.wait("answer", timeout_s)
    commands = call.wait("queue", timeout_s)["Commands"]
    assert [command["Application-Name"] for command in commands] == ["noop", "play"]
    media = PROMPT.format(account=stage.account, prompt=prompt)
    assert commands[1]["Media-Name"] == media
    assert set(commands[1]["Terminators"]) == set("0123456789*#")


def assert_rung(stage: Stage, call: PeerCall, slot: str, *, times: int = 1) -> None:
    """Both callee ids are set, then the parker's device is rung."""
    bridge = call.wait("bridge", 5, times=times)
    endpoint = bridge["Endpoints"][0]
    assert len(bridge["Endpoints"]) == 1
    assert endpoint["Invite-Format"] == "endpoint"
    assert endpoint["Endpoint-URI"] == f"{PARKER}@{stage.account}"
    title = f"Parking slot {slot} - {call.caller_name}"
    assert endpoint["Outbound-Caller-ID-Name"] == title
    assert endpoint["Outbound-Caller-ID-Number"] == call.caller_number
    on_answer = endpoint["Endpoint-Actions"]["Execute-On-Answer"]["Set-Caller-ID"]
    assert on_answer["Custom-Channel-Vars"] == {"Caller-ID-Name": call.caller_name}
    assert bridge["Ignore-Early-Media"] == "true"
    assert bridge["Dial-Endpoint-Method"] == "single"
    commands = call.commands()
    before = commands[: commands.index("bridge")]
    assert before.count("set") == 2, call.story()
    values = [command["Custom-Channel-Vars"] for command in call.payloads("set")[:2]]
    assert values == [
        {"Callee-ID-Number": call.caller_number},
        {"Callee-ID-Name": call.caller_name},
    ]


def ringback_data(slot: str, **fields: Any) -> Payload:
    return {
        "action": "park",
        "slot": slot,
        "default_ringback_timeout": RINGBACK_MS,
        "default_callback_timeout": 1000,
        **fields,
    }


# ---- the scenarios ---------------------------------------------------------------------------


def blind_park_then_retrieve(stage: Stage) -> None:
    parkee = stage.parked("901")
    assert_parked(stage, parkee, "901", "3901901")
    retriever = stage.retrieve("901")
    assert_picked_up(parkee, retriever, "901")
    assert_lamp(stage, parkee, parkee.wait("terminated"), "3901901")
    # Racing workers inside Kamailio may apply the first one too early: it is said twice.
    parkee.wait("terminated", times=2)
    stage.peer.quiet(0.3, lambda: parkee.lamp() == "terminated", "the lamp stays dark")


def recorded_interception(stage: Stage) -> None:
    parkee = stage.parked("961")
    retriever = stage.retrieve("961", answers={"call_pickup": recorded_pickup})
    assert_picked_up(parkee, retriever, "961")


def auto_parks_when_empty(stage: Stage) -> None:
    dialler = stage.call("dialer", "3902", data={"action": "auto", "slot": "902"})
    assert_prompt(stage, dialler, "call_placed_in_spot")
    say = dialler.wait("say")
    assert (say["Say-Text"], say["Type"], say["Method"]) == ("902", "name_spelled", "pronounced")
    pause(0.2)
    assert dialler.results == []
    dialler.hang_up()
    dialler.wait_result(TRANSFER)
    assert dialler.commands() == ["answer", "queue", "say"], dialler.story()
    assert dialler.count("PARK_PARKED") == 0
    assert "early" not in dialler.names()
    # The reservation ends with nobody in it: the slot can be used again.
    pause(0.8)
    stage.parked("902", name="next")


def auto_retrieves_when_occupied(stage: Stage) -> None:
    parkee = stage.parked("903")
    retriever = stage.call(
        "picker", "3903", data={"action": "auto", "slot": "903"}, caller_name="Picker"
    )
    assert_picked_up(parkee, retriever, "903")


def retrieve_empty(stage: Stage) -> None:
    retriever = stage.retrieve("904")
    assert_prompt(stage, retriever, "no_caller")
    retriever.wait_result(STOP)
    assert retriever.commands() == ["answer", "queue"], retriever.story()


def retrieve_emptied(stage: Stage) -> None:
    parkee = stage.parked("904")
    parkee.hang_up()
    assert_abandoned(parkee, "904")
    retriever = stage.retrieve("904")
    assert_prompt(stage, retriever, "no_caller")
    retriever.wait_result(STOP)


def occupied_ringback_answered(stage: Stage) -> None:
    first = stage.parked("905", name="first")
    second = stage.blind(
        "905",
        name="second",
        data={"action": "park", "slot": "905"},
        caller_name="Caller Two",
        caller_number="+15550001003",
        bridges=["answer"],
        children=("_",),
    )
    assert_rung(stage, second, "905")
    if not second.results:
        pause(0.1)
        second.completed("bridge", "SUCCESS", Disposition="SUCCESS")
    second.wait_result(CONTINUE, TRANSFER)
    assert second.count("PARK_PARKED") == 0
    assert second.lamp() == ""
    assert (first.lamp(), first.results) == ("early", [])
    assert first.commands() == ["hold"], first.story()
    first.hang_up()
    assert_abandoned(first, "905")


def occupied_ringback_failed(stage: Stage) -> None:
    first = stage.parked("905", name="first")
    second = stage.blind(
        "905", name="second", data={"action": "park", "slot": "905"}, bridges=["NO_ANSWER"]
    )
    assert_rung(stage, second, "905")
    assert second.wait("hangup")["Insert-At"] == "now"
    stage.peer.wait(lambda: second.results in ([], [STOP]), 1, "stop or nothing")
    assert (first.lamp(), first.results) == ("early", [])
    first.hang_up()
    assert_abandoned(first, "905")


def stale_slot_reused(stage: Stage) -> None:
    first = stage.parked("905", name="first")
    first.status = "terminated"
    second = stage.blind("905", name="second", data={"action": "park", "slot": "905"})
    assert_parked(stage, second, "905", "3905905")
    assert first.asked >= 1
    assert_dark(first)
    second.hang_up()
    assert_abandoned(second, "905")


def parked_caller_hangs_up(stage: Stage) -> None:
    parkee = stage.parked("906")
    parkee.hang_up()
    assert_abandoned(parkee, "906")
    assert parkee.commands() == ["hold"], parkee.story()


def disconnected_still_up(stage: Stage) -> None:
    parkee = stage.parked("906")
    parkee.event("CHANNEL_DISCONNECTED", App_Name="ecallmgr")
    parkee.wait("hold", times=2)
    assert parkee.asked >= 1
    assert parkee.lamp() == "early"
    parkee.hang_up()
    assert_abandoned(parkee, "906")


def ringback_answered(stage: Stage) -> None:
    parkee = stage.blind("907", data=ringback_data("907"), bridges=["answer"], children=("_",))
    assert_rung(stage, parkee, "907")
    assert parkee.asked >= 1
    assert parkee.wait("PARK_RETRIEVED")["Parking-Slot"] == "907"
    assert_dark(parkee)
    pause(0.2)
    assert parkee.results == [], parkee.story()
    parkee.completed("bridge", "SUCCESS", Disposition="SUCCESS")
    parkee.wait_result(CONTINUE)
    assert parkee.count("PARK_RETRIEVED") == 1
    assert parkee.count("PARK_ABANDONED") == 0


def ringback_channel_gone(stage: Stage) -> None:
    parkee = stage.blind("907", data=ringback_data("907"))
    parkee.wait("early")
    parkee.status = "terminated"
    assert_abandoned(parkee, "907")
    parkee.wait_result(STOP)
    assert parkee.count("bridge") == 0


def ringback_unanswered_child(stage: Stage) -> None:
    parkee = stage.blind(
        "908", data=ringback_data("908"), bridges=["NO_ANSWER"], children=("908", "_")
    )
    parkee.wait_result(branch("908"))
    assert_rung(stage, parkee, "908")
    assert parkee.wait("PARK_ABANDONED")["Parking-Slot"] == "908"
    assert_dark(parkee)
    assert parkee.count("PARK_ABANDONED") == 1


def ringback_fails_repark_twice(stage: Stage) -> None:
    parkee = stage.blind(
        "909",
        data=ringback_data("909"),
        bridges=["USER_BUSY", "USER_BUSY"],
        children=("_",),
    )
    assert_rung(stage, parkee, "909")
    parkee.wait("hold", times=2)
    assert_rung(stage, parkee, "909", times=2)
    parkee.wait("hold", 5, times=3)
    commands = parkee.commands()
    for place, name in enumerate(commands):
        if name == "hold" and place:
            assert commands[place - 1] == "break", commands
    assert parkee.results == []
    assert parkee.lamp() == "early"
    parkee.hang_up()
    assert_abandoned(parkee, "909")


def attended_transfer(stage: Stage) -> None:
    data = {"action": "auto", "slot": "910", "default_ringback_timeout": LONG_MS}
    leg = stage.call("parkerleg", "3910", data=data, user="parker")
    assert_prompt(stage, leg, "call_placed_in_spot")
    assert leg.wait("say")["Say-Text"] == "910"
    parkee = stage.call("parkee", "3910", data=data, replaces=leg.call_id)
    assert_parked(stage, parkee, "910", "3910910")
    leg.hang_up()
    leg.wait_result(TRANSFER)
    assert leg.count("PARK_PARKED") == 0
    assert leg.lamp() == ""
    # Longer than the reservation's grace: the completed transfer keeps the slot.
    stage.peer.quiet(0.8, lambda: parkee.lamp() == "early", "parked")
    parkee.hang_up()
    assert_abandoned(parkee, "910")


def direct_park(stage: Stage) -> None:
    parkee = stage.call("direct", "3911", data={"action": "direct_park", "slot": "911"})
    assert_parked(stage, parkee, "911", "3911911")
    assert_picked_up(parkee, stage.retrieve("911"), "911")


def max_slot_exceeded(stage: Stage) -> None:
    for action in ("direct_park", "park", "auto"):
        data = {"action": action, "slot": "912", "max_slot_number": 10}
        call = stage.call(action, "3912", data=data, children=("MAX_SLOT_EXCEEDED", "_"))
        call.wait_result(branch("MAX_SLOT_EXCEEDED"))
        assert call.names() == ["accepted", "result"], call.story()


def capture_group(stage: Stage) -> None:
    data = {"action": "park", "default_ringback_timeout": LONG_MS}
    parkee = stage.blind("913", number="*3913", capture_group="913", data=data)
    assert_parked(stage, parkee, "913", "*3913")
    retriever = stage.call("picker", "*4913", capture_group="913", data={"action": "retrieve"})
    assert_picked_up(parkee, retriever, "913")


def automatic_slot(stage: Stage) -> None:
    data = {"action": "park", "default_ringback_timeout": LONG_MS}
    first = stage.blind("", name="first", number="3900", data=data)
    assert_parked(stage, first, "101", "3900101")
    second = stage.blind("", name="second", number="3900", data=data)
    assert_parked(stage, second, "102", "3900102")
    first.hang_up()
    assert_abandoned(first, "101")
    third = stage.blind("", name="third", number="3900", data=data)
    assert_parked(stage, third, "101", "3900101")


def presence_type_and_id(stage: Stage) -> None:
    data = {
        "action": "park",
        "slot": "914",
        "custom_presence_id": True,
        "slots": {"914": {"presence_type": "confirmed", "presence_id": "park-bay-14"}},
    }
    parkee = stage.blind("914", data=data)
    update = parkee.wait("confirmed")
    assert_lamp(stage, parkee, update, "park-bay-14")
    parkee.wait("hold")
    parkee.hang_up()
    assert_abandoned(parkee, "914")


def direct_dial_occupied(stage: Stage) -> None:
    parkee = stage.parked("915")
    dialler = stage.call("dial", "3915", data={"action": "park", "slot": "915"})
    assert_prompt(stage, dialler, "already_in_use")
    dialler.wait_result(STOP)
    assert dialler.commands() == ["answer", "queue"], dialler.story()
    assert (parkee.lamp(), parkee.results) == ("early", [])
    assert parkee.commands() == ["hold"], parkee.story()


def presence_probe(stage: Stage) -> None:
    data = {"action": "park", "default_ringback_timeout": LONG_MS}
    parkee = stage.blind("3916", number="3916", capture_group="3916", data=data)
    assert_parked(stage, parkee, "3916", "3916")
    before = parkee.count("early")
    stage.peer.probe("3916", stage.realm)
    answer = parkee.wait("early", times=before + 1)
    assert_lamp(stage, parkee, answer, "3916")
    parkee.hang_up()
    assert_abandoned(parkee, "3916")
    dark = len(stage.peer.dialogs(stage.presence_id("3916")))
    stage.peer.probe("3916", stage.realm)
    stage.peer.probe("nobody", stage.realm)
    stage.peer.quiet(
        0.3,
        lambda: all(
            update["State"] == "terminated"
            for update in stage.peer.dialogs(stage.presence_id("3916"))[dark:]
        ),
        "a free slot is never shown lit",
    )
    assert stage.peer.dialogs(stage.presence_id("nobody")) == []


def ringback_intercepted(stage: Stage) -> None:
    parkee = stage.blind("917", data=ringback_data("917"), bridges=["intercept"])
    assert_rung(stage, parkee, "917")
    assert parkee.wait("PARK_RETRIEVED")["Parking-Slot"] == "917"
    assert_dark(parkee)
    parkee.wait_result(TRANSFER)
    assert parkee.count("PARK_RETRIEVED") == 1


def transferee_while_parked(stage: Stage) -> None:
    parkee = stage.parked("922")
    _leaves(stage, parkee, "922", lambda: parkee.event("CHANNEL_TRANSFEREE", Transfer_Type="blind"))


def usurped_while_parked(stage: Stage) -> None:
    parkee = stage.parked("923")
    _leaves(
        stage,
        parkee,
        "923",
        lambda: parkee.event(
            "usurp_control",
            Fetch_ID="other-fetch",
            Reason="Route-Win",
            Media_Node="freeswitch@fs1.rig.example.com",
        ),
    )


def _leaves(stage: Stage, parkee: PeerCall, slot: str, happens: Callable[[], None]) -> None:
    """Control is lost: lamp off and slot free within 5 s, no command and no result any more."""
    commands = len(parkee.commands())
    happens()
    parkee.wait("terminated", 5)
    assert_dark(parkee)
    retriever = stage.retrieve(slot)
    assert_prompt(stage, retriever, "no_caller")
    stage.peer.quiet(
        0.5,
        lambda: len(parkee.commands()) == commands and not parkee.results,
        "no command and no result after control was lost",
    )
    assert parkee.count("PARK_ABANDONED") == 0


def no_ringback_without_a_parker(stage: Stage) -> None:
    parkee = stage.blind("924", data=ringback_data("924"), referred_by="")
    assert_parked(stage, parkee, "924", "3924924")
    stage.peer.quiet(1.2, lambda: parkee.commands() == ["hold"], "held without ringback")
    parkee.hang_up()
    assert_abandoned(parkee, "924")


SCENARIOS: dict[str, Callable[[Stage], None]] = {
    "01-blind-park-then-retrieve": blind_park_then_retrieve,
    "01-recorded-interception": recorded_interception,
    "02-auto-parks-when-empty": auto_parks_when_empty,
    "03-auto-retrieves-when-occupied": auto_retrieves_when_occupied,
    "04-retrieve-empty": retrieve_empty,
    "04b-retrieve-emptied-doc": retrieve_emptied,
    "05a-occupied-ringback-answered": occupied_ringback_answered,
    "05b-occupied-ringback-failed": occupied_ringback_failed,
    "05g-occupied-stale-slot-reused": stale_slot_reused,
    "06-parked-caller-hangs-up": parked_caller_hangs_up,
    "06b-disconnected-still-up": disconnected_still_up,
    "07-ringback-answered": ringback_answered,
    "07c-ringback-channel-gone": ringback_channel_gone,
    "08-ringback-unanswered-child": ringback_unanswered_child,
    "09-ringback-fails-repark-twice": ringback_fails_repark_twice,
    "10-attended-transfer": attended_transfer,
    "11-direct-park": direct_park,
    "12-max-slot-exceeded": max_slot_exceeded,
    "13-capture-group": capture_group,
    "13b-auto-slot-number": automatic_slot,
    "14-presence-type-confirmed-custom-id": presence_type_and_id,
    "15-direct-dial-occupied": direct_dial_occupied,
    "16-presence-probe": presence_probe,
    "17-ringback-intercepted": ringback_intercepted,
    "22-transferee-while-parked": transferee_while_parked,
    "23-usurp-while-parked": usurped_while_parked,
    "24-no-ringback-id-infinite": no_ringback_without_a_parker,
}
"""Golden file → script."""
