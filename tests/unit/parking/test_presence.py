"""The lamp book in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.parking.model import (
    AccountId,
    CallId,
    PresenceType,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.presence import DriftKind, Lamp, LampBook, LampUpdate, Reason, hashed_jitter

REALM = "acme.example.com"
OTHER = WorkerId("other")


def a_slot(slot: str = "101", call_id: str = "call-1", **fields: object) -> SlotEntry:
    entry = SlotEntry(
        account=AccountId("acc"),
        slot=SlotId(slot),
        session=SessionId(f"session-{call_id}"),
        call_id=CallId(call_id),
        switch_uri="sip:10.26.0.11:11000",
        presence_user=f"*3{slot}",
        presence_realm=REALM,
        caller_name="Alice",
        caller_uri="alice@acme.example.com",
    )
    return replace(entry, **fields)  # type: ignore[arg-type]


def a_book(**options: object) -> LampBook:
    return LampBook(jitter=lambda _: 0.5, **options)  # type: ignore[arg-type]


def shape(updates: list[LampUpdate]) -> list[tuple[str, str]]:
    return [(update.lamp.call_id, update.state.value) for update in updates]


def drain(book: LampBook, until_ms: int) -> list[tuple[int, LampUpdate]]:
    said = []
    while (at_ms := book.next_deadline_ms()) is not None and at_ms <= until_ms:
        said += [(at_ms, update) for update in book.due(at_ms)]
    return said


def everybody(_: str) -> bool:
    return True


def nobody(_: str) -> bool:
    return False


def test_a_parked_call_is_lit_with_its_presence_type_and_the_configured_expires() -> None:
    (update,) = a_book(expires_s=600).light(a_slot(presence_type=PresenceType.CONFIRMED), 0)
    assert update.state is PresenceType.CONFIRMED
    assert update.expires_s == 600
    assert update.lamp.caller_name == "Alice"
    assert (update.lamp.user, update.lamp.realm) == ("*3101", REALM)


def test_terminated_repeats_the_identity_that_was_lit_and_lives_ten_seconds() -> None:
    book = a_book()
    (lit,) = book.light(a_slot(), 0)
    (dark,) = book.darken(a_slot(caller_name="somebody else"), 1_000)
    assert dark.lamp == lit.lamp
    assert dark.state is PresenceType.TERMINATED
    assert dark.expires_s == 10


def test_terminated_is_said_twice_more_and_then_no_more() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.darken(a_slot(), 1_000)
    repeats = drain(book, 10_000_000)
    assert [(at_ms, update.state) for at_ms, update in repeats] == [
        (1_300, PresenceType.TERMINATED),
        (2_500, PresenceType.TERMINATED),
    ]
    assert book.stats().lit == book.stats().ending == 0


def test_a_second_darken_says_nothing() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.darken(a_slot(), 1_000)
    assert book.darken(a_slot(), 1_010) == []
    drain(book, 100_000)
    assert book.darken(a_slot(), 100_000) == []


def test_darkening_what_was_never_lit_here_is_said_all_the_same() -> None:
    assert shape(a_book().darken(a_slot(), 0)) == [("call-1", "terminated")]


def test_lighting_the_same_call_again_stops_the_terminated_and_outlasts_it() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.darken(a_slot(), 1_000)
    again = replace(a_slot(), session=SessionId("again"))
    assert shape(book.light(again, 1_100)) == [("call-1", "early")]
    assert [(at_ms, update.state.value) for at_ms, update in drain(book, 10_000)] == [
        (1_600, "early"),
        (2_800, "early"),
    ]


def test_a_new_call_in_a_slot_ends_the_old_dialog_first() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    swapped = replace(a_slot(), call_id=CallId("call-2"))
    assert shape(book.light(swapped, 1_000)) == [("call-1", "terminated"), ("call-2", "early")]
    assert book.darken(a_slot(), 1_001) == []


def test_another_switch_uri_is_another_dialog() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    moved = a_slot(switch_uri="sip:10.26.0.12:11000")
    dark, lit = book.light(moved, 1_000)
    assert (dark.state, dark.lamp.switch_uri) == (PresenceType.TERMINATED, "sip:10.26.0.11:11000")
    assert (lit.state, lit.lamp.switch_uri) == (PresenceType.EARLY, "sip:10.26.0.12:11000")


def test_an_old_session_cannot_darken_what_a_newer_one_shows() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    again = replace(a_slot(), session=SessionId("again"))
    book.saw_occupied(again)
    book.light(again, 1_000)
    assert book.darken(a_slot(), 1_001) == []
    assert book.stats().lit == 1


def test_a_lit_lamp_is_said_again_at_two_thirds_of_its_expires_less_some_jitter() -> None:
    book = a_book(expires_s=600)
    book.light(a_slot(), 0)
    said = drain(book, 1_000_000)
    assert [at_ms for at_ms, _ in said] == [371_429, 742_858]
    assert {update.reason for _, update in said} == {Reason.REFRESHED}


def test_a_long_expires_is_refreshed_before_kazoos_pick_up_table_forgets_the_call() -> None:
    book = a_book(expires_s=3_600)
    book.light(a_slot(), 0)
    assert book.next_deadline_ms() == 501_429


def test_hashed_jitter_spreads_refreshes() -> None:
    book = LampBook(expires_s=600)
    for number in range(101, 201):
        book.light(a_slot(str(number), f"call-{number}"), 0)
    times = {at_ms for at_ms, _ in drain(book, 400_000)}
    assert len(times) > 90
    assert min(times) >= 339_000


def test_an_invisible_slot_says_nothing_but_is_known() -> None:
    book = a_book()
    hidden = a_slot(presence_type=PresenceType.TERMINATED)
    assert book.light(hidden, 0) == []
    assert book.darken(hidden, 1) == []
    assert [update.state for update in book.probe(REALM, "*3101")] == [PresenceType.TERMINATED]


def test_a_reservation_lights_nothing() -> None:
    book = a_book()
    book.saw_occupied(a_slot(reserved=True))
    assert book.light(a_slot(reserved=True), 0) == []
    assert book.stats().foreign == 0


def test_two_calls_on_one_presentity_when_one_ends_the_other_is_said_again() -> None:
    book = a_book()
    first = a_slot("101", "call-1", presence_user="*3000")
    second = a_slot("102", "call-2", presence_user="*3000")
    book.light(first, 0)
    book.light(second, 10)
    assert shape(book.darken(first, 60_000)) == [("call-1", "terminated")]
    said = [
        (at_ms, update.lamp.call_id, update.state.value) for at_ms, update in drain(book, 90_000)
    ]
    assert said == [
        (60_300, "call-1", "terminated"),
        (60_500, "call-2", "early"),
        (61_500, "call-1", "terminated"),
        (61_700, "call-2", "early"),
    ]


def test_one_call_shown_by_two_slots_stays_lit_until_both_are_free() -> None:
    book = a_book()
    first = a_slot("101", presence_user="*3000")
    second = a_slot("102", presence_user="*3000")
    book.light(first, 0)
    book.light(second, 1)
    assert book.darken(first, 2) == []
    assert shape(book.darken(second, 3)) == [("call-1", "terminated")]


# ---- probes --------------------------------------------------------------------------------------


def test_a_probe_of_an_occupied_slot_is_answered_with_its_lamp() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    (answer,) = book.probe(REALM, "*3101")
    assert (answer.state, answer.lamp.call_id) == (PresenceType.EARLY, "call-1")
    assert answer.reason is Reason.PROBED


def test_a_probe_of_an_unknown_user_is_met_with_silence() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    assert book.probe(REALM, "2001") == []
    assert book.probe("other.example.com", "*3101") == []


def test_a_probe_of_a_known_free_slot_is_answered_with_a_stable_terminated() -> None:
    book = a_book()
    book.know("*3101", REALM)
    (first,) = book.probe(REALM, "*3101")
    (second,) = book.probe(REALM, "*3101")
    assert first == second
    assert first.state is PresenceType.TERMINATED
    assert first.lamp.call_id.startswith("free-")


def test_a_slot_that_was_lit_once_is_known() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.darken(a_slot(), 1)
    drain(book, 10_000)
    assert [update.state for update in book.probe(REALM, "*3101")] == [PresenceType.TERMINATED]


def test_a_phone_that_spells_it_differently_is_served_in_its_own_case_from_then_on() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    (answer,) = book.probe("ACME.Example.com", "*3101")
    assert answer.lamp.realm == "ACME.Example.com"
    assert [update.lamp.realm for update in book.darken(a_slot(), 1_000)] == [
        REALM,
        "ACME.Example.com",
    ]
    drain(book, 60_000)
    assert [update.lamp.realm for update in book.light(a_slot(call_id="call-2"), 60_000)] == [
        REALM,
        "ACME.Example.com",
    ]


def test_slots_that_differ_by_case_alone_are_told_apart() -> None:
    book = a_book()
    book.light(a_slot("101", "call-1", presence_user="park"), 0)
    book.light(a_slot("102", "call-2", presence_user="PARK"), 0)
    assert [update.lamp.call_id for update in book.probe(REALM, "PARK")] == ["call-2"]
    assert [update.lamp.call_id for update in book.probe(REALM, "Park")] == ["call-1", "call-2"]
    assert [
        update.lamp.user for update in book.darken(a_slot("102", "call-2", presence_user="PARK"), 1)
    ] == [
        "PARK",
        "Park",
    ]


def test_letter_cases_learned_per_presentity_are_bounded() -> None:
    book = a_book()
    book.light(a_slot(presence_user="parkinglot"), 0)
    for number in range(10):
        letters = [
            char.upper() if number >> at & 1 else char for at, char in enumerate("parkinglot")
        ]
        book.probe(REALM, "".join(letters))
    assert len(book.light(a_slot(presence_user="parkinglot"), 1)) <= 5


def test_when_all_workers_hear_a_probe_only_one_answers() -> None:
    owner, other = a_book(), a_book()
    owner.saw_occupied(a_slot())
    owner.light(a_slot(), 0)
    other.saw_occupied(a_slot())
    assert len(owner.probe(REALM, "*3101", nobody)) == 1
    assert other.probe(REALM, "*3101", everybody) == []
    for book in (owner, other):
        book.know("*3102", REALM)
    assert len(owner.probe(REALM, "*3102", everybody)) == 1
    assert other.probe(REALM, "*3102", nobody) == []


def test_who_alone_hears_a_probe_answers_for_the_lamps_of_others() -> None:
    book = a_book()
    book.saw_occupied(a_slot())
    assert shape(book.probe(REALM, "*3101")) == [("call-1", "early")]
    book.saw_free(a_slot(), OTHER, 1)
    assert [update.state for update in book.probe(REALM, "*3101")] == [PresenceType.TERMINATED]


# ---- Kamailio forgets ----------------------------------------------------------------------------


@pytest.mark.parametrize(("realm", "user"), [("ACME.example.com", "*3101"), (REALM, "*")])
def test_after_a_reset_the_lit_lamps_are_said_again(realm: str, user: str) -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.reset(realm, user, 10_000)
    said = drain(book, 20_000)
    assert [(update.state.value, update.reason) for _, update in said] == [("early", Reason.RESET)]
    assert said[0][0] >= 10_300


def test_a_reset_of_somebody_else_says_nothing() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.reset("other.example.com", "*", 10_000)
    book.reset(REALM, "*3102", 10_000)
    assert drain(book, 20_000) == []


def test_when_kamailio_is_back_lit_lamps_are_said_again_not_all_at_once() -> None:
    book = LampBook()
    for number in range(101, 201):
        book.light(a_slot(str(number), f"call-{number}"), 0)
    book.kamailio_back(10_000)
    said = drain(book, 20_000)
    assert len(said) == 100
    assert {update.reason for _, update in said} == {Reason.RETURNED}
    assert len({at_ms // 200 for at_ms, _ in said}) >= 9


def test_when_kamailio_is_back_the_calls_that_ended_meanwhile_are_said_to_have_ended() -> None:
    book = a_book(expires_s=600)
    book.light(a_slot(), 0)
    book.darken(a_slot(), 1_000)
    drain(book, 60_000)
    book.kamailio_back(60_000)
    said = drain(book, 120_000)
    assert {(update.lamp.call_id, update.state.value) for _, update in said} == {
        ("call-1", "terminated")
    }
    assert said[0][1].reason is Reason.RETURNED
    book.kamailio_back(700_000)
    assert drain(book, 800_000) == []


# ---- other workers -------------------------------------------------------------------------------


def test_a_lamp_that_moved_away_is_not_spoken_of_any_more() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.forget(a_slot())
    assert book.next_deadline_ms() is None
    assert book.stats().lit == 0
    assert book.stats().foreign == 1


def test_when_another_worker_lights_the_same_call_our_terminated_is_not_repeated() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    book.darken(a_slot(), 1_000)
    book.saw_occupied(replace(a_slot(), session=SessionId("again")))
    assert drain(book, 10_000) == []


def test_who_lights_where_another_worker_has_just_ended_a_call_says_it_again() -> None:
    book = a_book()
    book.saw_occupied(a_slot())
    book.saw_free(a_slot(), OTHER, 1_000)
    book.light(replace(a_slot(), session=SessionId("again")), 1_010)
    assert [at_ms for at_ms, _ in drain(book, 10_000)] == [1_510, 2_710]


def test_what_a_dead_owner_may_not_have_darkened_is_darkened_by_one_survivor() -> None:
    one, two = a_book(), a_book()
    for book in (one, two):
        book.saw_occupied(a_slot())
        book.saw_free(a_slot(), OTHER, 1_000)
    one.owner_gone(OTHER, 5_000, everybody)
    two.owner_gone(OTHER, 5_000, nobody)
    said = drain(one, 60_000)
    assert {update.state for _, update in said} == {PresenceType.TERMINATED}
    assert said[0][1].reason is Reason.ORPHANED
    assert drain(two, 60_000) == []
    one.owner_gone(OTHER, 61_000, everybody)
    assert drain(one, 120_000) == []


@pytest.mark.parametrize("again", [True, False])
def test_a_dead_owners_old_or_taken_slots_are_left_alone(again: bool) -> None:
    book = a_book()
    book.saw_occupied(a_slot())
    book.saw_free(a_slot(), OTHER, 1_000)
    if again:
        book.saw_occupied(replace(a_slot(), session=SessionId("again")))
    book.owner_gone(OTHER, 5_000 if again else 62_000, everybody)
    assert drain(book, 100_000) == []


def test_a_swap_by_our_own_session_ends_the_old_dialog_when_it_lights_the_new_one() -> None:
    book = a_book()
    book.saw_occupied(a_slot())
    book.light(a_slot(), 0)
    swapped = replace(a_slot(), call_id=CallId("call-2"))
    book.saw_occupied(swapped)
    assert shape(book.light(swapped, 10)) == [("call-1", "terminated"), ("call-2", "early")]
    assert book.stats().lit == 1


def test_a_slot_of_others_that_changes_hands_shows_only_the_last_call() -> None:
    book = a_book()
    book.saw_occupied(a_slot())
    book.saw_occupied(a_slot(call_id="call-2"))
    assert shape(book.probe(REALM, "*3101")) == [("call-2", "early")]


def test_after_an_outage_only_what_the_table_holds_is_shown_by_others() -> None:
    book = a_book()
    book.saw_occupied(a_slot("101", "call-1"))
    book.saw_occupied(a_slot("102", "call-2"))
    book.light(a_slot("103", "call-3"), 0)
    book.saw_table([a_slot("102", "call-2"), a_slot("103", "call-3")])
    assert [update.state for update in book.probe(REALM, "*3101")] == [PresenceType.TERMINATED]
    assert shape(book.probe(REALM, "*3102")) == [("call-2", "early")]
    assert (book.stats().lit, book.stats().foreign) == (1, 1)


# ---- drift ---------------------------------------------------------------------------------------


def test_no_drift_while_lamps_and_slots_agree() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    for now_ms in range(0, 100_000, 2_000):
        drain(book, now_ms)
        assert book.audit([a_slot()], now_ms) == []


def test_a_slot_without_its_lamp_is_lit_after_a_grace() -> None:
    book = a_book()
    assert book.audit([a_slot()], 0) == []
    (drift,) = book.audit([a_slot()], 5_000)
    assert (drift.kind, drift.lamp) == (DriftKind.DARK, Lamp.of(a_slot()))
    assert shape([update for _, update in drain(book, 5_000)]) == [("call-1", "early")]
    assert book.audit([a_slot()], 20_000) == []
    assert book.stats().drift == 1


def test_a_lamp_without_its_slot_is_darkened_after_a_grace() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    assert book.audit([], 1_000) == []
    (drift,) = book.audit([], 6_000)
    assert drift.kind is DriftKind.LIT
    said = drain(book, 60_000)
    assert {update.state for _, update in said} == {PresenceType.TERMINATED}
    assert [at_ms for at_ms, _ in said] == [6_000, 6_300, 7_500]


def test_a_difference_that_goes_away_is_not_drift() -> None:
    book = a_book()
    book.audit([a_slot()], 0)
    book.light(a_slot(), 100)
    assert book.audit([a_slot()], 5_000) == []


def test_another_caller_than_the_slot_says_is_repaired() -> None:
    book = a_book()
    book.light(a_slot(), 0)
    bob = a_slot(caller_name="Bob")
    book.audit([bob], 1_000)
    (drift,) = book.audit([bob], 7_000)
    assert drift.kind is DriftKind.DIFFERENT
    assert [update.lamp.caller_name for _, update in drain(book, 7_000)] == ["Bob"]


def test_a_lamp_that_was_not_said_again_in_time_is_overdue() -> None:
    book = a_book(expires_s=60)
    book.light(a_slot(), 0)
    book.audit([a_slot()], 100_000)
    (drift,) = book.audit([a_slot()], 106_000)
    assert drift.kind is DriftKind.OVERDUE


# ---- bounds --------------------------------------------------------------------------------------


def test_the_memory_of_free_slots_is_bounded() -> None:
    book = a_book(known_limit=100, ended_limit=50)
    for number in range(1_000):
        book.light(a_slot(str(number), f"call-{number}"), number)
        book.darken(a_slot(str(number), f"call-{number}"), number)
    drain(book, 10_000)
    stats = book.stats()
    assert (stats.known, stats.ended, stats.lit, stats.ending) == (100, 50, 0, 0)


def test_lighting_the_same_lamp_for_ever_does_not_grow_the_agenda() -> None:
    book = a_book()
    for now_ms in range(20_000):
        book.light(a_slot(), now_ms)
    assert len(book._dialogs._agenda) <= 1_100


def test_hashed_jitter_is_a_stable_fraction() -> None:
    assert hashed_jitter("a") == hashed_jitter("a") != hashed_jitter("b")
    assert 0 <= hashed_jitter("\ud800") < 1
