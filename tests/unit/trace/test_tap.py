"""What a recorder listens to, and what of it it keeps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.solo import ACCOUNT, make_execute
from worker.trace.lines import Message
from worker.trace.tap import Filters, Tap

INBOX = "kzpark.inbox.0123456789abcdef"


def message(exchange: str, key: str = "k", **fields: Any) -> Message:
    payload = {name.replace("_", "-"): value for name, value in fields.items()}
    return Message(at_ms=1, exchange=exchange, key=key, payload=payload)


def execute(call_id: str, **how: Any) -> Message:
    payload = make_execute(call_id, **how)
    return Message(at_ms=1, exchange="kapps", key="callflow.action.park", payload=payload)


def event(call_id: str, name: str = "CHANNEL_DESTROY", **fields: Any) -> Message:
    return message("callevt", Event_Name=name, Call_ID=call_id, **fields)


def test_topics_are_bound_from_the_start_and_nothing_else() -> None:
    bindings = Tap().bindings()
    assert ("kapps", "callflow.action.*") in bindings
    assert ("callevt", "call.#") in bindings
    assert ("nodes", "") in bindings
    assert {exchange for exchange, _ in bindings}.isdisjoint({"callctl", "targeted", "callmgr"})
    assert ("callmgr", "route.req.audio.*") in Tap(filters=Filters(routes=True)).bindings()


def test_one_call_is_recorded_without_listening_to_all() -> None:
    bindings = Tap(filters=Filters(call_ids=frozenset({"a@b.c"}))).bindings()
    assert [key for exchange, key in bindings if exchange == "callevt"] == ["call.*.a%40b%2Ec"]


def test_direct_queues_are_learned_from_an_execute_once() -> None:
    tap = Tap()
    assert tap.keeps(execute("a"))
    assert tap.wanted() == [("callctl", "ctl-a"), ("targeted", "callflow")]
    assert tap.keeps(execute("a"))
    assert tap.wanted() == []


def test_an_inbox_is_learned_from_whoever_names_it_as_reply_address() -> None:
    tap = Tap()
    asked = message("sysconf", Event_Name="get_req", Server_ID=INBOX, Msg_ID="m")
    assert tap.keeps(asked)
    assert tap.wanted() == [("targeted", INBOX)]
    assert tap.keeps(message("targeted", INBOX, Event_Name="get_resp", Msg_ID="m"))
    assert not tap.keeps(message("sysconf", Event_Name="get_req", Server_ID="other"))


def test_only_calls_that_came_to_parking_are_followed() -> None:
    tap = Tap()
    assert not tap.keeps(event("a"))
    tap.keeps(execute("a"))
    assert tap.keeps(event("a"))
    assert not tap.keeps(event("b"))
    assert not tap.keeps(message("callctl", Event_Name="command", Call_ID="b"))


def test_a_new_id_of_a_call_is_followed_as_well() -> None:
    tap = Tap()
    tap.keeps(execute("a"))
    assert tap.keeps(event("a", "CHANNEL_REPLACED", Replaced_By="b"))
    assert tap.keeps(event("b"))


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        ("callflow.action.park", True),
        ("callflow.action.park_demo_1f", True),
        ("callflow.action.voicemail", False),
        ("callflow.action.parking_lot", False),
    ],
)
def test_only_executes_of_parking_are_kept(key: str, kept: bool) -> None:
    line = Message(at_ms=1, exchange="kapps", key=key, payload=make_execute("a"))
    assert Tap().keeps(line) is kept


def test_lamps_of_phones_are_not_parkings() -> None:
    tap = Tap()
    lamp = {"Event_Name": "dialog_update", "Call_ID": "x", "From_Realm": "r"}
    assert tap.keeps(message("presence", App_Name="park", **lamp))
    assert not tap.keeps(message("presence", App_Name="freeswitch", **lamp))


def test_an_account_keeps_its_own_calls_realms_and_nothing_of_others() -> None:
    tap = Tap(filters=Filters(accounts=frozenset({ACCOUNT})))
    assert tap.keeps(execute("a"))
    assert not tap.keeps(execute("b", call={"Account-ID": "f" * 32}))
    assert tap.keeps(event("a"))
    assert not tap.keeps(event("b"))
    probe = {"Event_Name": "probe", "Username": "*3101"}
    assert tap.keeps(message("presence", Realm="ACME.example.com", **probe))
    assert not tap.keeps(message("presence", Realm="other.example.com", **probe))
    assert tap.keeps(message("nodes", "", Event_Name="advertise"))


def test_routing_teaches_who_parks() -> None:
    tap = Tap(filters=Filters(routes=True))
    request = {"Event_Name": "route_req", "Call_ID": "a", "Server_ID": "pid://<0.1.0>/ctl"}
    assert tap.keeps(message("callmgr", **request))
    assert tap.wanted() == [("targeted", "ctl")]
    response = {"Event_Name": "route_resp", "Call_ID": "a", "Server_ID": "pid://<0.2.0>/flow"}
    assert tap.keeps(message("targeted", **response))
    assert tap.wanted() == [("targeted", "flow")]
    win = {"Event_Name": "route_win", "Call_ID": "a", "Control_Queue": "pid://<0.1.0>/ctl"}
    assert tap.keeps(message("targeted", **win))
    assert tap.wanted() == [("callctl", "ctl")]


def test_an_unreadable_body_is_kept_only_without_filters() -> None:
    line = Message(at_ms=1, exchange="kapps", key="callflow.action.park", body=b"\xff")
    assert Tap().keeps(line)
    assert not Tap(filters=Filters(accounts=frozenset({ACCOUNT}))).keeps(line)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.trace.tap.MOST_CALLS", 3)
    monkeypatch.setattr("worker.trace.tap.MOST_KEYS", 2)
    tap = Tap()
    tap.follow(f"c{n}" for n in range(9))
    assert list(tap.calls) == ["c6", "c7", "c8"]
    for n in range(9):
        tap.learn("callctl", f"q{n}")
    assert len(tap.wanted()) == 2
