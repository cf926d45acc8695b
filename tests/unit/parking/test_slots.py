"""The slot table's rules, one record at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import orjson
import pytest

from worker.errors import MalformedMessageError
from worker.parking.changes import (
    Change,
    ClaimDecided,
    ClaimOutcome,
    Released,
    ReleaseRefused,
    RetrieveDecided,
    RetrieveEnded,
    RetrieveOutcome,
    SessionClosed,
    SessionMoved,
    SessionOpened,
    Swapped,
    WorkerGone,
    WorkerJoined,
)
from worker.parking.model import (
    AccountId,
    CallId,
    PresenceType,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.records import (
    Alive,
    Barrier,
    Checkpoint,
    Claim,
    Close,
    Dead,
    Join,
    Leave,
    Record,
    Release,
    Retrieve,
    Seed,
    Settled,
    Swap,
    Unretrieve,
)
from worker.parking.slots import Ignored, SlotTable

ACME = AccountId("acme")
W1, W2, W3 = WorkerId("w1"), WorkerId("w2"), WorkerId("w3")
S1, S2, S3 = SessionId("s1"), SessionId("s2"), SessionId("s3")


Decided = TypeVar("Decided", ClaimDecided, RetrieveDecided)


def entry(session: SessionId, slot: str = "101", **more: Any) -> SlotEntry:
    return replace(
        SlotEntry(
            account=ACME, slot=SlotId(slot), session=session, call_id=CallId(f"call-{session}")
        ),
        **more,
    )


def claim(
    session: SessionId,
    slot: str = "101",
    author: WorkerId = W1,
    *,
    attempt: int = 1,
    max_slot: int | None = None,
    replaces: tuple[CallId, ...] = (),
    evict: SessionId | None = None,
    **more: Any,
) -> Claim:
    return Claim(
        author=author,
        at_ms=0,
        entry=entry(session, slot, **more),
        attempt=attempt,
        max_slot=max_slot,
        replaces=replaces,
        evict=evict,
        facts=f"facts of {session}",
    )


def retrieve(
    session: SessionId, slot: str = "101", author: WorkerId = W2, attempt: int = 1
) -> Retrieve:
    return Retrieve(
        author=author,
        at_ms=0,
        session=session,
        account=ACME,
        slot=SlotId(slot),
        attempt=attempt,
        facts=f"facts of {session}",
    )


class Log:
    """A table with a pen: appends records at growing offsets."""

    def __init__(self, *, settled: bool = True) -> None:
        self.table = SlotTable(loads=orjson.loads)
        self.offset = 0
        if settled:
            for worker in (W1, W2):
                self.add(Join(author=worker, at_ms=0))
            self.add(Settled(author=W1, at_ms=0))

    def add(self, record: Record) -> list[Change]:
        changes = self.table.apply(self.offset, record)
        self.offset += 1
        return changes

    def claim(
        self, session: SessionId, slot: str = "101", author: WorkerId = W1, **more: Any
    ) -> ClaimDecided:
        return decided(self.add(claim(session, slot, author, **more)), ClaimDecided)

    def retrieve(
        self, session: SessionId, slot: str = "101", author: WorkerId = W2, attempt: int = 1
    ) -> RetrieveDecided:
        return decided(self.add(retrieve(session, slot, author, attempt)), RetrieveDecided)

    def release(
        self,
        holder: SessionId,
        by: SessionId,
        author: WorkerId = W1,
        reason: ReleaseReason = ReleaseReason.ABANDONED,
        slot: str = "101",
    ) -> list[Change]:
        return self.add(
            Release(
                author=author,
                at_ms=0,
                account=ACME,
                slot=SlotId(slot),
                holder=holder,
                by=by,
                reason=reason,
            )
        )


def decided(changes: list[Change], kind: type[Decided]) -> Decided:
    found = [change for change in changes if isinstance(change, kind)]
    assert len(found) == 1, changes
    return found[0]


# ---- claims --------------------------------------------------------------------------------------


def test_the_first_claim_of_a_slot_wins_and_opens_its_session() -> None:
    log = Log()
    changes = log.add(claim(S1))
    assert changes == [
        SessionOpened(session=S1, owner=W1),
        ClaimDecided(session=S1, attempt=1, outcome=ClaimOutcome.WON, entry=entry(S1)),
    ]
    assert log.table.entry(ACME, SlotId("101")) == entry(S1)
    assert log.table.entry_of(S1) == entry(S1)
    assert log.table.owner(S1) == W1
    row = log.table.session(S1)
    assert row is not None
    assert (row.facts, row.opened, row.generation) == ("facts of s1", 3, 0)


def test_the_second_claim_of_a_slot_is_told_the_holder() -> None:
    log = Log()
    log.claim(S1)
    lost = log.claim(S2, author=W2)
    assert (lost.outcome, lost.entry, lost.previous) == (ClaimOutcome.OCCUPIED, None, entry(S1))
    assert log.table.entry_of(S2) is None
    assert log.table.is_known(S2)


def test_the_same_slot_in_another_account_is_another_slot() -> None:
    log = Log()
    log.claim(S1)
    assert log.claim(S2, account=AccountId("other")).outcome is ClaimOutcome.WON


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "101"),
        (["101", "103"], "102"),
        (["205"], "101"),
        (["0101", "sales", "7", "-5", "٣"], "101"),
        ([str(number) for number in range(101, 120)], "120"),
    ],
)
def test_an_automatic_slot_is_the_lowest_free_number_from_101(
    taken: list[str], expected: str
) -> None:
    log = Log()
    for number, slot in enumerate(taken):
        log.claim(SessionId(f"t{number}"), slot)
    won = log.claim(S1, "", presence_user="*4{slot}")
    assert won.entry == entry(S1, expected, presence_user=f"*4{expected}")
    assert log.table.entry(ACME, SlotId(expected)) == won.entry


def test_an_automatic_slot_takes_the_gap_a_release_left() -> None:
    log = Log()
    for number in range(5):
        log.claim(SessionId(f"t{number}"), "")
    log.release(SessionId("t1"), SessionId("t1"), slot="102")
    log.release(SessionId("t3"), SessionId("t3"), slot="104")
    log.claim(SessionId("explicit"), "102")
    won = [log.claim(SessionId(f"n{number}"), "").entry for number in range(2)]
    assert [item.slot for item in won if item] == ["104", "106"]


def test_the_placeholder_is_filled_in_for_an_explicit_slot_too() -> None:
    won = Log().claim(S1, "sales", presence_user="*4{slot}")
    assert won.entry is not None
    assert won.entry.presence_user == "*4sales"


@pytest.mark.parametrize(
    ("slot", "max_slot", "outcome"),
    [
        ("102", 101, ClaimOutcome.EXCEEDED),
        ("101", 101, ClaimOutcome.WON),
        ("0102", 101, ClaimOutcome.EXCEEDED),
        ("9" * 5000, 10**9, ClaimOutcome.EXCEEDED),
        ("sales", 101, ClaimOutcome.WON),
        ("1_000", 101, ClaimOutcome.WON),
        ("", 100, ClaimOutcome.EXCEEDED),
        ("", 101, ClaimOutcome.WON),
    ],
)
def test_max_slot_limits_numbers_only(slot: str, max_slot: int, outcome: ClaimOutcome) -> None:
    log = Log()
    assert log.claim(S1, slot, max_slot=max_slot).outcome is outcome
    assert (log.table.entry_of(S1) is None) == (outcome is ClaimOutcome.EXCEEDED)


def test_a_session_that_holds_a_slot_gets_no_second_one() -> None:
    log = Log()
    log.claim(S1)
    again = log.claim(S1, "102", attempt=2)
    assert (again.outcome, again.entry) == (ClaimOutcome.WON, entry(S1))
    assert log.table.entry(ACME, SlotId("102")) is None


def test_a_repeated_claim_gets_its_first_answer_even_when_things_have_changed() -> None:
    log = Log()
    log.claim(S1)
    lost = log.claim(S2, author=W2)
    log.release(S1, S1)
    before = log.table.digest()
    assert log.add(claim(S2, author=W2)) == [lost]
    assert log.table.ignored is Ignored.DUPLICATE
    assert log.table.entry(ACME, SlotId("101")) is None
    assert log.table.digest() == before
    assert log.claim(S2, author=W2, attempt=2).outcome is ClaimOutcome.WON


def test_an_attempt_whose_answer_was_dropped_is_not_decided_again() -> None:
    log = Log()
    log.claim(S1)
    for attempt in range(1, 31):
        log.claim(S2, author=W2, attempt=attempt)
    log.release(S1, S1)
    assert log.add(claim(S2, author=W2, attempt=3)) == []
    assert log.table.entry(ACME, SlotId("101")) is None


def test_a_closed_session_is_never_opened_again() -> None:
    log = Log()
    log.claim(S1)
    log.add(Close(author=W1, at_ms=0, session=S1))
    for record in (claim(S1), claim(S1, attempt=2), retrieve(S1, author=W1)):
        assert log.add(record) == []
        assert log.table.ignored is Ignored.CLOSED
    assert log.table.is_known(S1)
    assert log.table.is_closed(S1)
    assert log.table.session(S1) is None


def test_a_holder_proven_dead_is_evicted_and_the_claim_wins_in_one_step() -> None:
    log = Log()
    log.claim(S1, author=W2)
    changes = log.add(claim(S2, evict=S1))
    assert changes[1:] == [
        Released(entry=entry(S1), reason=ReleaseReason.EVICTED, by=S2, author=W1, owner=W2),
        ClaimDecided(session=S2, attempt=1, outcome=ClaimOutcome.WON, entry=entry(S2)),
    ]


def test_an_eviction_of_somebody_who_left_meanwhile_evicts_nobody_else() -> None:
    log = Log()
    log.claim(S1)
    log.release(S1, S1)
    log.claim(S3)
    assert log.claim(S2, evict=S1).previous == entry(S3)
    assert log.table.entry_of(S3) == entry(S3)


# ---- attended transfers --------------------------------------------------------------------------

RESERVED: dict[str, Any] = {
    "reserved": True,
    "call_id": CallId("b2%40host"),
    "presence_user": "*3101",
    "presence_realm": "acme.example",
    "presence_type": PresenceType.CONFIRMED,
    "endpoint_id": "device-b",
    "hold_media": "waltz",
    "caller_name": "Bob",
}


@pytest.mark.parametrize("replaced", ["b2%40host", "b2@host"])
def test_a_completion_takes_the_reservation_over(replaced: str) -> None:
    log = Log()
    reserved = log.claim(S1, **RESERVED).entry
    assert reserved is not None
    arrived: dict[str, Any] = {
        "call_id": CallId("a1"),
        "caller_name": "Alice",
        "from_tag": "f",
        "parked_at_ms": 9,
    }
    done = log.claim(
        S2, "777", W2, replaces=(CallId("unknown"), CallId(replaced)), max_slot=50, **arrived
    )
    assert (done.outcome, done.previous) == (ClaimOutcome.COMPLETED, reserved)
    assert done.entry == replace(
        reserved,
        session=S2,
        call_id=CallId("a1"),
        caller_name="Alice",
        from_tag="f",
        parked_at_ms=9,
        reserved=False,
    )
    assert log.table.entry(ACME, SlotId("101")) == done.entry
    assert log.table.entry_of(S1) is None
    assert log.table.entry_of(S2) == done.entry
    assert log.add(Close(author=W1, at_ms=0, session=S1)) == [SessionClosed(session=S1)]
    assert log.table.entry_of(S2) == done.entry


def test_a_completion_keeps_the_reservations_device_and_music() -> None:
    log = Log()
    log.claim(S1, **RESERVED)
    done = log.claim(S2, replaces=(CallId("b2@host"),), endpoint_id="device-x", hold_media="jazz")
    assert done.entry is not None
    assert (done.entry.endpoint_id, done.entry.hold_media) == ("device-b", "waltz")


def test_a_completion_without_a_lamp_so_far_brings_its_own() -> None:
    log = Log()
    log.claim(S1, reserved=True)
    done = log.claim(
        S2,
        "",
        replaces=(CallId("call-s1"),),
        presence_user="*4{slot}",
        presence_type=PresenceType.CONFIRMED,
    )
    assert done.entry is not None
    assert done.entry.presence_user == "*4101"
    assert done.entry.presence_type is PresenceType.CONFIRMED


def test_an_unknown_replaces_is_an_ordinary_claim() -> None:
    assert Log().claim(S1, replaces=(CallId("nobody"),)).outcome is ClaimOutcome.WON


def test_a_reservation_in_another_account_is_not_completed() -> None:
    log = Log()
    log.claim(S1, account=AccountId("other"), reserved=True)
    assert log.claim(S2, replaces=(CallId("call-s1"),)).outcome is ClaimOutcome.WON


# ---- retrievals ----------------------------------------------------------------------------------


def test_one_of_two_retrievers_wins() -> None:
    log = Log()
    log.claim(S1)
    won, busy = log.retrieve(S2), log.retrieve(S3, author=W1)
    assert (won.outcome, won.entry) == (RetrieveOutcome.WON, entry(S1, retriever=S2))
    assert (busy.outcome, busy.entry) == (RetrieveOutcome.BUSY, entry(S1, retriever=S2))


def test_an_empty_slot_has_nobody_to_retrieve() -> None:
    assert Log().retrieve(S2).outcome is RetrieveOutcome.EMPTY


def test_a_reservation_is_pending() -> None:
    log = Log()
    log.claim(S1, reserved=True)
    assert log.retrieve(S2).outcome is RetrieveOutcome.PENDING
    assert log.table.entry_of(S1) == entry(S1, reserved=True)


def test_the_retriever_may_ask_again_for_what_it_has() -> None:
    log = Log()
    log.claim(S1)
    log.retrieve(S2)
    assert log.retrieve(S2, attempt=2).outcome is RetrieveOutcome.WON


def test_a_failed_pickup_lets_others_try() -> None:
    log = Log()
    log.claim(S1)
    log.retrieve(S2)
    over = log.add(Unretrieve(author=W2, at_ms=0, session=S2, account=ACME, slot=SlotId("101")))
    assert over == [RetrieveEnded(entry=entry(S1), session=S2)]
    assert log.retrieve(S3).outcome is RetrieveOutcome.WON
    assert (
        log.add(Unretrieve(author=W2, at_ms=0, session=S2, account=ACME, slot=SlotId("101"))) == []
    )


def test_a_retriever_that_closes_gives_the_retrieval_back() -> None:
    log = Log()
    log.claim(S1)
    log.retrieve(S2)
    assert log.add(Close(author=W2, at_ms=0, session=S2)) == [
        RetrieveEnded(entry=entry(S1), session=S2),
        SessionClosed(session=S2),
    ]


def test_a_retrieval_ends_silently_with_the_slot() -> None:
    log = Log()
    log.claim(S1)
    log.retrieve(S2)
    released = log.release(S1, S2, W2, ReleaseReason.RETRIEVED)
    assert released == [
        Released(
            entry=entry(S1, retriever=S2),
            reason=ReleaseReason.RETRIEVED,
            by=S2,
            author=W2,
            owner=W1,
        )
    ]
    row = log.table.session(S2)
    assert row is not None
    assert row.retrieves is None


def test_a_completion_ends_the_retrieval_of_the_call_it_replaces() -> None:
    log = Log()
    log.claim(S1)
    log.retrieve(S2)
    changes = log.add(claim(S3, replaces=(CallId("call-s1"),)))
    assert RetrieveEnded(entry=entry(S3), session=S2) in changes
    assert log.retrieve(SessionId("s4")).outcome is RetrieveOutcome.WON


def test_a_repeated_retrieval_gets_its_first_answer() -> None:
    log = Log()
    first = log.retrieve(S2)
    log.claim(S1)
    assert log.add(retrieve(S2)) == [first]
    assert log.table.entry_of(S1) == entry(S1)


# ---- releases, swaps, checkpoints ----------------------------------------------------------------


def test_a_release_names_the_owner_who_darkens_the_lamp() -> None:
    log = Log()
    log.claim(S1, author=W2)
    log.retrieve(S2, author=W1)
    change = log.release(S1, S2, W1, ReleaseReason.RETRIEVED)[0]
    assert isinstance(change, Released)
    assert (change.owner, change.author, change.by) == (W2, W1, S2)
    assert log.table.entry(ACME, SlotId("101")) is None


def test_the_second_of_two_releases_is_refused() -> None:
    log = Log()
    log.claim(S1)
    log.release(S1, S1)
    log.claim(S2)
    assert log.release(S1, S1) == [ReleaseRefused(holder=S1, by=S1, reason=ReleaseReason.ABANDONED)]
    assert log.table.entry_of(S2) == entry(S2)


def test_closing_releases_what_is_still_held() -> None:
    log = Log()
    log.claim(S1)
    assert log.add(Close(author=W1, at_ms=0, session=S1)) == [
        Released(entry=entry(S1), reason=ReleaseReason.WITHDRAWN, by=S1, author=W1, owner=W1),
        SessionClosed(session=S1),
    ]


def test_a_swap_moves_the_slot_to_the_new_call_id() -> None:
    log = Log()
    log.claim(S1)
    swap = Swap(
        author=W1,
        at_ms=0,
        account=ACME,
        slot=SlotId("101"),
        holder=S1,
        old_call_id=CallId("call-s1"),
        new_call_id=CallId("new"),
    )
    after = entry(S1, call_id=CallId("new"))
    assert log.add(swap) == [Swapped(before=entry(S1), after=after)]
    assert log.add(swap) == []
    assert log.table.entry_of(S1) == after
    assert log.claim(S2, replaces=(CallId("new"),)).outcome is ClaimOutcome.COMPLETED


def test_a_checkpoint_is_what_a_successor_reads() -> None:
    log = Log()
    log.claim(S1)
    assert log.add(Checkpoint(author=W1, at_ms=0, session=S1, state="round 2")) == []
    row = log.table.session(S1)
    assert row is not None
    assert row.state == "round 2"


# ---- fencing -------------------------------------------------------------------------------------


def test_nobody_but_the_owner_speaks_for_a_session() -> None:
    log = Log()
    log.claim(S1)
    log.retrieve(S2, author=W1)
    before = log.table.digest()
    late: list[Record] = [
        claim(S1, "102", W2, attempt=2),
        claim(S1, author=W2),
        retrieve(S1, "102", W2),
        Unretrieve(author=W2, at_ms=0, session=S2, account=ACME, slot=SlotId("101")),
        Checkpoint(author=W2, at_ms=0, session=S1, state="stale"),
        Close(author=W2, at_ms=0, session=S1),
        Swap(
            author=W2,
            at_ms=0,
            account=ACME,
            slot=SlotId("101"),
            holder=S1,
            old_call_id=CallId("call-s1"),
            new_call_id=CallId("x"),
        ),
        Release(
            author=W2,
            at_ms=0,
            account=ACME,
            slot=SlotId("101"),
            holder=S1,
            by=S1,
            reason=ReleaseReason.ABANDONED,
        ),
        Release(
            author=W2,
            at_ms=0,
            account=ACME,
            slot=SlotId("101"),
            holder=S1,
            by=S2,
            reason=ReleaseReason.RETRIEVED,
        ),
    ]
    for record in late:
        assert log.add(record) == []
        assert log.table.ignored is Ignored.FENCED
    assert log.table.digest() == before


def test_an_offset_that_was_applied_is_not_applied_again() -> None:
    log = Log()
    log.claim(S1)
    assert log.table.apply(3, claim(S2, "102")) == []
    assert log.table.ignored is Ignored.SEEN
    assert not log.table.is_known(S2)


# ---- workers -------------------------------------------------------------------------------------


def test_a_dead_workers_sessions_go_to_the_living() -> None:
    log = Log()
    log.add(Join(author=W3, at_ms=0, name="third"))
    sessions = sorted(SessionId(f"x{number}") for number in range(40))
    for session in sessions:
        log.claim(session, "")
    changes = log.add(Dead(author=W2, at_ms=0, victim=W1, beat=0))
    assert changes[0] == WorkerGone(worker=W1, dead=True)
    moved = [change for change in changes if isinstance(change, SessionMoved)]
    assert [change.session for change in moved] == sessions
    assert {change.previous for change in moved} == {W1}
    assert {change.owner for change in moved} == {W2, W3}
    for change in moved:
        row = log.table.session(change.session)
        assert row is not None
        assert (row.owner, row.generation) == (change.owner, 1)
    assert log.table.sessions_of(W1) == []
    assert len(log.table.sessions_of(W2)) + len(log.table.sessions_of(W3)) == 40
    assert log.table.entry_of(sessions[0]) is not None


def test_a_worker_that_leaves_hands_over() -> None:
    log = Log()
    log.claim(S1)
    assert log.add(Leave(author=W1, at_ms=0)) == [
        WorkerGone(worker=W1, dead=False),
        SessionMoved(session=S1, owner=W2, previous=W1),
    ]
    assert list(log.table.workers) == [W2]


def test_with_nobody_left_a_session_waits_for_the_next_worker() -> None:
    log = Log()
    log.claim(S1)
    log.add(Leave(author=W2, at_ms=0))
    log.add(Leave(author=W1, at_ms=0))
    assert log.table.owner(S1) is None
    assert log.table.sessions_of(None) == [S1]
    assert log.add(Join(author=W3, at_ms=0)) == [
        WorkerJoined(worker=W3),
        SessionMoved(session=S1, owner=W3, previous=None),
    ]


def test_a_death_is_void_when_the_victim_was_heard_after() -> None:
    log = Log()
    log.add(Alive(author=W1, at_ms=0, beat=7))
    assert log.add(Dead(author=W2, at_ms=0, victim=W1, beat=6)) == []
    assert log.table.ignored is Ignored.VOID
    assert W1 in log.table.workers
    assert log.add(Dead(author=W2, at_ms=0, victim=W1, beat=7)) != []


def test_only_the_first_of_two_deaths_counts() -> None:
    log = Log()
    log.claim(S1)
    log.add(Dead(author=W2, at_ms=0, victim=W1, beat=0))
    assert log.add(Dead(author=W2, at_ms=0, victim=W1, beat=0)) == []
    assert log.table.owner(S1) == W2


def test_a_replaced_worker_that_wakes_up_is_not_heard_until_it_joins_again() -> None:
    log = Log()
    log.claim(S1)
    log.add(Dead(author=W2, at_ms=0, victim=W1, beat=0))
    before = log.table.digest()
    frozen: list[Record] = [
        Alive(author=W1, at_ms=0, beat=9),
        claim(S3, "103"),
        Close(author=W1, at_ms=0, session=S1),
        Dead(author=W1, at_ms=0, victim=W2, beat=99),
        Settled(author=W1, at_ms=0),
    ]
    for record in frozen:
        assert log.add(record) == []
        assert log.table.ignored is Ignored.GONE
    assert log.table.digest() == before
    assert log.add(Join(author=W1, at_ms=0)) == [WorkerJoined(worker=W1)]
    assert log.table.owner(S1) == W2
    assert log.claim(S3, "103").outcome is ClaimOutcome.WON
    assert log.add(Close(author=W1, at_ms=0, session=S1)) == []


def test_a_second_death_needs_beats_of_the_second_life() -> None:
    log = Log()
    log.add(Alive(author=W1, at_ms=0, beat=5))
    log.add(Dead(author=W2, at_ms=0, victim=W1, beat=5))
    log.add(Join(author=W1, at_ms=0))
    assert log.add(Dead(author=W2, at_ms=0, victim=W1, beat=5)) == []
    assert log.table.workers[W1].beat == 6


def test_a_barrier_and_an_unknown_record_change_nothing() -> None:
    log = Log()
    before = log.table.digest()
    assert log.add(Barrier(author=W1, at_ms=0, nonce="n")) == []
    assert log.add(Record(author=W1, at_ms=0)) == []
    assert log.table.digest() == before


# ---- turns ---------------------------------------------------------------------------------------


def stamped(record: Record, epoch: int, seq: int) -> Record:
    return replace(record, epoch=epoch, seq=seq)


def test_a_record_counts_once_and_only_in_turn() -> None:
    log = Log()
    log.claim(S1)
    state: dict[str, Any] = {"author": W1, "at_ms": 0, "session": S1}
    log.add(stamped(Barrier(author=W1, at_ms=0, nonce=""), 5, 1))
    assert log.add(stamped(Checkpoint(state="three", **state), 5, 3)) == []
    assert log.table.ignored is Ignored.STALE
    log.add(stamped(Checkpoint(state="two", **state), 5, 2))
    log.add(stamped(Checkpoint(state="three", **state), 5, 3))
    log.add(stamped(Checkpoint(state="two", **state), 5, 2))
    assert log.table.ignored is Ignored.STALE
    row = log.table.session(S1)
    assert row is not None
    assert row.state == "three"


def test_a_new_epoch_shuts_out_what_the_old_connection_still_had() -> None:
    log = Log()
    nothing = Record(author=W1, at_ms=0)
    log.add(stamped(nothing, 5, 1))
    assert log.table.epoch(W1) == 5
    log.add(stamped(nothing, 6, 1))
    assert log.table.ignored is None
    for epoch, seq in ((5, 2), (6, 1), (7, 2), (6, 3)):
        log.add(stamped(nothing, epoch, seq))
        assert log.table.ignored is Ignored.STALE, (epoch, seq)
    log.add(stamped(claim(S1), 6, 2))
    assert log.table.owner(S1) == W1
    log.add(stamped(nothing, 1, 1))
    assert log.table.ignored is Ignored.STALE


# ---- a new log -----------------------------------------------------------------------------------


def seed_of(table: SlotTable, author: WorkerId, newer: SlotTable | None = None) -> list[Seed]:
    states = table.seed_for(newer or SlotTable(loads=orjson.loads))
    return [Seed(author=author, at_ms=0, state=orjson.dumps(state).decode()) for state in states]


def test_claims_wait_until_the_log_is_settled_and_are_decided_in_order() -> None:
    log = Log(settled=False)
    log.add(Join(author=W1, at_ms=0))
    assert log.add(claim(S1)) == []
    assert log.table.ignored is Ignored.KEPT
    assert log.add(claim(S2)) == []
    assert log.add(Close(author=W1, at_ms=0, session=S1)) == []
    assert log.table.is_known(S1)
    changes = log.add(Settled(author=W1, at_ms=0))
    assert changes == [
        SessionOpened(session=S1, owner=W1),
        ClaimDecided(session=S1, attempt=1, outcome=ClaimOutcome.WON, entry=entry(S1)),
        SessionOpened(session=S2, owner=W1),
        ClaimDecided(session=S2, attempt=1, outcome=ClaimOutcome.OCCUPIED, previous=entry(S1)),
        Released(entry=entry(S1), reason=ReleaseReason.WITHDRAWN, by=S1, author=W1, owner=W1),
        SessionClosed(session=S1),
    ]
    assert log.add(Settled(author=W1, at_ms=0)) == []


def test_a_wiped_log_gets_its_calls_back() -> None:
    old = Log()
    old.claim(S1, author=W1)
    old.claim(S2, "102", author=W2)
    old.claim(S3, "103", author=W1)
    old.retrieve(SessionId("r"), "103", W2)
    old.add(Close(author=W1, at_ms=0, session=S1))
    new = Log(settled=False)
    new.add(Join(author=W2, at_ms=0))
    changes = new.add(seed_of(old.table, W2)[0])
    assert SessionOpened(session=S3, owner=W1) in changes
    assert new.table.entries(ACME) == old.table.entries(ACME)
    assert new.table.is_closed(S1)
    assert new.table.owner(S3) == W1
    assert new.add(claim(S1, "104", W2)) == []
    settled = new.add(Settled(author=W2, at_ms=0))
    assert settled == [SessionMoved(session=S3, owner=W2, previous=W1)]
    assert new.retrieve(SessionId("r2"), "103", W2).outcome is RetrieveOutcome.BUSY


def test_a_worker_that_joins_while_settling_keeps_its_sessions() -> None:
    old = Log()
    old.claim(S3, author=W1)
    new = Log(settled=False)
    new.add(Join(author=W2, at_ms=0))
    new.add(seed_of(old.table, W2)[0])
    new.add(Join(author=W1, at_ms=0))
    assert new.add(Settled(author=W2, at_ms=0)) == []
    assert new.table.owner(S3) == W1


def test_of_two_seeds_the_newer_row_wins_in_either_order() -> None:
    behind = Log()
    behind.claim(S1, author=W1)
    ahead = Log()
    ahead.claim(S1, author=W1)
    ahead.release(S1, S1)
    ahead.add(Checkpoint(author=W1, at_ms=0, session=S1, state="later"))
    for first, second in ((behind, ahead), (ahead, behind)):
        new = Log(settled=False)
        new.add(Join(author=W1, at_ms=0))
        changes = new.add(seed_of(first.table, W1)[0]) + new.add(seed_of(second.table, W1)[0])
        row = new.table.session(S1)
        assert row is not None
        assert row.state == "later"
        assert new.table.entry(ACME, SlotId("101")) is None
        told = [change for change in changes if isinstance(change, Released)]
        assert len(told) == (1 if first is behind else 0)


def test_a_seeded_session_that_is_over_elsewhere_is_closed() -> None:
    behind, ahead = Log(), Log()
    for log in (behind, ahead):
        log.claim(S1, author=W1)
    ahead.add(Close(author=W1, at_ms=0, session=S1))
    new = Log(settled=False)
    new.add(Join(author=W1, at_ms=0))
    new.add(seed_of(behind.table, W1)[0])
    changes = new.add(seed_of(ahead.table, W1)[0])
    assert changes[-1] == SessionClosed(session=S1)
    assert new.table.entries(ACME) == []


def test_a_seeded_session_whose_slot_is_taken_is_told() -> None:
    late = Log()
    late.claim(S1, author=W1)
    new = Log()
    new.claim(S2, author=W2)
    changes = new.add(seed_of(late.table, W1)[0])
    assert changes == [
        SessionOpened(session=S1, owner=W1),
        Released(entry=entry(S1), reason=ReleaseReason.EVICTED, by=S2, author=W1, owner=W1),
    ]
    assert new.table.entry_of(S1) is None
    assert new.table.entry_of(S2) == entry(S2)


def test_a_seed_after_settling_deals_the_sessions_of_absent_workers() -> None:
    late = Log()
    late.add(Join(author=W3, at_ms=0))
    late.claim(S1, author=W3)
    new = Log()
    changes = new.add(seed_of(late.table, W1)[0])
    assert changes[0] == SessionOpened(session=S1, owner=W3)
    assert isinstance(changes[1], SessionMoved)
    assert new.table.owner(S1) in (W1, W2)


def test_a_seed_says_only_what_the_log_does_not_know() -> None:
    old = Log()
    for number in range(5):
        old.claim(SessionId(f"x{number}"), "")
    new = Log(settled=False)
    for seed in seed_of(old.table, W1):
        new.add(seed)
    (rest,) = old.table.seed_for(new.table)
    assert (rest["sessions"], rest["closed"]) == ([], [])
    parts = old.table.seed_for(SlotTable(loads=orjson.loads), most=2)
    sizes = [len(part["sessions"]) for part in parts if isinstance(part["sessions"], list)]
    assert sizes == [2, 2, 1]


def test_a_seed_that_is_junk_is_void() -> None:
    log = Log(settled=False)
    for junk in ("", "[]", "{}", '{"v":1}', '{"v":1,"sessions":[3]}'):
        assert log.add(Seed(author=W1, at_ms=0, state=junk)) == []
        assert log.table.ignored is Ignored.VOID


# ---- snapshots and bounds ------------------------------------------------------------------------


def test_a_restored_table_is_the_same_table() -> None:
    log = Log()
    log.add(stamped(Alive(author=W1, at_ms=0, beat=3), 4, 1))
    log.claim(S1, "", presence_user="*4{slot}")
    log.claim(S2, author=W2)
    log.retrieve(S3)
    log.add(Dead(author=W2, at_ms=0, victim=W1, beat=3))
    log.add(Close(author=W2, at_ms=0, session=S2))
    twin = SlotTable(loads=orjson.loads)
    twin.restore(orjson.loads(orjson.dumps(log.table.snapshot())))
    assert twin.snapshot() == log.table.snapshot()
    assert twin.digest() == log.table.digest()
    assert twin.offset == log.table.offset
    following = claim(SessionId("s9"), "", W2)
    assert twin.apply(99, following) == log.table.apply(99, following)
    assert twin.digest() == log.table.digest()


def test_the_digest_kept_up_to_date_is_the_digest_made_anew() -> None:
    log = Log()
    log.table.digest()
    log.claim(S1)
    log.retrieve(S2)
    log.table.digest()
    log.release(S1, S1)
    log.add(Close(author=W1, at_ms=0, session=S1))
    log.add(Leave(author=W2, at_ms=0))
    twin = SlotTable(loads=orjson.loads)
    twin.restore(log.table.snapshot())
    assert log.table.digest() == twin.digest()


def test_closed_sessions_are_remembered_up_to_a_bound() -> None:
    log = Log()
    for number in range(8292):
        session = SessionId(f"c{number}")
        log.claim(session, "")
        log.add(Close(author=W1, at_ms=0, session=session))
    assert log.table.closed_count == 8192
    assert not log.table.is_known(SessionId("c99"))
    assert log.table.is_known(SessionId("c100"))
    assert log.table.session_count == 0
    assert log.table.entries(ACME) == []


@pytest.mark.parametrize(
    "junk",
    [
        None,
        {},
        {"v": 2},
        {"v": 1, "sessions": [], "closed": [], "live": {"w": 3}},
        {"v": 1, "sessions": [{"session": 1}]},
    ],
)
def test_a_broken_snapshot_is_refused_and_leaves_the_table_as_it_was(junk: object) -> None:
    log = Log()
    log.claim(S1)
    before = log.table.digest()
    with pytest.raises(MalformedMessageError):
        log.table.restore(junk)
    assert log.table.digest() == before
