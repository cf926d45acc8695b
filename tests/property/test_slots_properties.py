"""Whatever is appended in whatever order: the slot table's invariants hold on every replica."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.parking.changes import Change, SessionClosed, SessionOpened
from worker.parking.model import (
    AccountId,
    CallId,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.records import (
    Alive,
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
from worker.parking.slot_members import heir
from worker.parking.slots import SlotTable

WORKERS = [WorkerId(f"w{number}") for number in range(3)]
SESSIONS = [SessionId(f"s{number}") for number in range(12)]
SLOTS = [SlotId(text) for text in ("101", "102", "0101", "sales")]
ACCOUNTS = [AccountId("a"), AccountId("b")]

CALLS = [*(CallId(f"c{number}") for number in range(6)), CallId("c%31")]
START: list[Record] = [
    *(Join(author=worker, at_ms=0) for worker in WORKERS[:2]),
    Settled(author=WORKERS[0], at_ms=0),
]


def account_of(session: SessionId) -> AccountId:
    return ACCOUNTS[int(session[1:]) % 2]


class Scribe:
    """Writes a plausible log: mostly what owners would say, sometimes what they must not."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.table = new_table()
        self.log: list[Record] = []

    def add(self, record: Record) -> None:
        self.table.apply(len(self.log), record)
        self.log.append(record)

    def one_of(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def author(self, session: SessionId) -> WorkerId:
        owner = self.table.owner(session)
        if owner is None or self.random.random() < 0.1:
            return self.random.choice(WORKERS)
        return owner

    def slot(self, session: SessionId) -> SlotId:
        row = self.table.session(session)
        own = row and (row.holds or row.retrieves)
        return own if own and self.random.random() < 0.7 else self.random.choice(SLOTS)

    def claim(self) -> Record:
        session = self.random.choice(SESSIONS)
        return Claim(
            author=self.author(session),
            at_ms=0,
            entry=SlotEntry(
                account=account_of(session),
                slot=self.one_of(*SLOTS, SlotId("")),
                session=session,
                call_id=self.random.choice(CALLS),
                reserved=self.random.random() < 0.2,
                presence_user=self.one_of("", "*4{slot}"),
            ),
            attempt=self.random.randint(1, 4),
            max_slot=self.one_of(None, 100, 102),
            replaces=tuple(self.random.choices(CALLS, k=self.one_of(0, 0, 1, 2))),
            evict=self.one_of(None, None, *SESSIONS[:4]),
            facts=self.one_of("", "facts"),
        )

    def about_session(self) -> Record:
        session = self.random.choice(SESSIONS)
        account, slot = account_of(session), self.slot(session)
        head: dict[str, Any] = {"author": self.author(session), "at_ms": 0}
        there = self.table.entry(account, slot)
        held = self.table.entry_of(session)
        kind = self.random.randint(0, 7)
        if kind <= 1:
            attempt = self.random.randint(1, 4)
            return Retrieve(session=session, account=account, slot=slot, attempt=attempt, **head)
        if kind == 2:
            return Unretrieve(session=session, account=account, slot=slot, **head)
        if kind <= 4:
            holder = there.session if there else self.random.choice(SESSIONS)
            reason = self.random.choice(list(ReleaseReason))
            return Release(
                account=account, slot=slot, holder=holder, by=session, reason=reason, **head
            )
        if kind == 5:
            old = held.call_id if held else self.random.choice(CALLS)
            new = self.random.choice(CALLS)
            return Swap(
                account=account,
                slot=slot,
                holder=session,
                old_call_id=old,
                new_call_id=new,
                **head,
            )
        if kind == 6:
            return Checkpoint(session=session, state=str(self.random.random()), **head)
        return Close(session=session, **head)

    def about_worker(self) -> Record:
        author = self.random.choice(WORKERS)
        beat = self.random.randint(0, 5)
        victim = self.random.choice(WORKERS)
        return self.random.choice(
            [
                Join(author=author, at_ms=0),
                Join(author=author, at_ms=0),
                Alive(author=author, at_ms=0, beat=beat),
                Leave(author=author, at_ms=0),
                Dead(author=author, at_ms=0, victim=victim, beat=beat),
                Settled(author=author, at_ms=0),
            ]
        )

    def write(self, length: int) -> list[Record]:
        writers = [self.claim] * 4 + [self.about_session] * 6 + [self.about_worker]
        for _ in range(length):
            self.add(self.random.choice(writers)())
        return self.log


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    scribe = Scribe(draw(st.integers(0, 2**32)))
    for record in draw(st.sampled_from([START, []])):
        scribe.add(record)
    return scribe.write(draw(st.integers(0, 150)))


def new_table() -> SlotTable:
    return SlotTable(loads=orjson.loads)


def check(table: SlotTable) -> None:
    """One holder a slot, one slot a session, and both sides agree."""
    holders: list[SessionId] = []
    for account in table.accounts():
        found = table.entries(account)
        assert len({entry.slot for entry in found}) == len(found)
        for entry in found:
            holders.append(entry.session)
            assert table.entry_of(entry.session) == entry
            assert "{slot}" not in entry.presence_user
            assert entry.slot != ""
            if entry.retriever is not None:
                row = table.session(entry.retriever)
                assert row is not None
                assert row.retrieves == entry.slot
    assert len(set(holders)) == len(holders)
    for session in SESSIONS:
        row = table.session(session)
        assert row is None or session in table.sessions_of(row.owner)
        assert row is None or not table.is_closed(session)
        if row is not None and row.retrieves is not None:
            there = table.entry(row.account, row.retrieves)
            assert there is not None
            assert there.retriever == session


@given(log=logs())
@settings(max_examples=200, deadline=None)
def test_a_slot_has_one_holder_at_every_offset(log: list[Record]) -> None:
    table = new_table()
    for offset, record in enumerate(log):
        table.apply(offset, record)
        check(table)


@given(log=logs(), cut=st.integers(0, 120))
@settings(max_examples=150, deadline=None)
def test_replicas_are_equal_at_equal_offsets_also_from_a_snapshot(
    log: list[Record], cut: int
) -> None:
    first, late = new_table(), new_table()
    for offset, record in enumerate(log):
        if offset == cut:
            late.restore(orjson.loads(orjson.dumps(first.snapshot())))
        changes = first.apply(offset, record)
        if offset >= cut:
            assert late.apply(offset, record) == changes
            assert late.digest() == first.digest()
            assert late.ignored == first.ignored
    twin = new_table()
    twin.restore(first.snapshot())
    assert twin.digest() == first.digest()
    assert twin.snapshot() == first.snapshot()


@given(
    log=logs(),
    repeats=st.lists(st.tuples(st.integers(0, 119), st.integers(1, 200)), max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_late_duplicates_change_nothing(log: list[Record], repeats: list[tuple[int, int]]) -> None:
    """Stamped as the replica stamps them: each author counts its records."""
    counts: dict[WorkerId, int] = {}
    stamped: list[Record] = []
    for record in log:
        counts[record.author] = counts.get(record.author, 0) + 1
        stamped.append(replace(record, epoch=1, seq=counts[record.author]))
    late: dict[int, list[Record]] = {}
    for index, distance in repeats:
        if index < len(stamped):
            late.setdefault(min(index + distance, len(stamped) - 1), []).append(stamped[index])
    clean, noisy = new_table(), new_table()
    offset = 0
    for index, record in enumerate(stamped):
        assert noisy.apply(offset, record) == clean.apply(index, record)
        offset += 1
        for duplicate in late.get(index, ()):
            before = noisy.digest()
            assert noisy.apply(offset, duplicate) == []
            assert noisy.digest() == before
            offset += 1
    assert holdings(noisy) == holdings(clean)


@given(log=logs())
@settings(max_examples=150, deadline=None)
def test_a_claim_asked_twice_in_a_row_is_answered_twice_and_done_once(log: list[Record]) -> None:
    table = new_table()
    for index, record in enumerate(log):
        changes = table.apply(2 * index, record)
        before = table.digest()
        again = table.apply(2 * index + 1, record)
        if isinstance(record, Claim | Retrieve) and table.settled:
            assert again == changes[len(changes) - len(again) :]
            assert len(again) <= 1
            assert table.digest() == before


@given(log=logs())
@settings(max_examples=150, deadline=None)
def test_no_session_is_lost(log: list[Record]) -> None:
    """What was opened is open with its owner alive, or nobody's, or closed; never just away."""
    table = new_table()
    changes: list[Change] = []
    joined: set[WorkerId] = set()
    for offset, record in enumerate([*START, *log]):
        changes += table.apply(offset, record)
        joined |= set(table.workers)
    opened = {change.session for change in changes if isinstance(change, SessionOpened)}
    closed = {change.session for change in changes if isinstance(change, SessionClosed)}
    for session in opened:
        row = table.session(session)
        assert (row is None) == (session in closed)
        if row is not None:
            assert row.owner is None or row.owner in table.workers or row.owner not in joined
            assert row.owner is not None or not table.workers


@given(
    log=logs(),
    cuts=st.tuples(st.integers(0, 120), st.integers(0, 120)),
    order=st.permutations([0, 1, 2]),
    parts=st.integers(1, 5),
    at_once=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_wiped_log_gets_back_what_its_foremost_replica_knew(
    log: list[Record], cuts: tuple[int, int], order: list[int], parts: int, at_once: bool
) -> None:
    """Replicas at different offsets seed in any order; one of them has read everything."""
    log = [*START, *log]
    known = []
    for cut in (*cuts, len(log)):
        table = new_table()
        for offset, record in enumerate(log[:cut]):
            table.apply(offset, record)
        known.append(table)
    merged = new_table()
    offset = 0
    for worker, index in zip(WORKERS, order, strict=True):
        merged.apply(offset, Join(author=worker, at_ms=0))
        for state in known[index].seed_for(new_table() if at_once else merged, parts):
            offset += 1
            text = orjson.dumps(state).decode()
            merged.apply(offset, Seed(author=worker, at_ms=0, state=text))
        offset += 1
    merged.apply(offset, Settled(author=WORKERS[0], at_ms=0))
    check(merged)
    foremost = known[2]
    assert holdings(merged) == holdings(foremost)
    for session in SESSIONS:
        assert (merged.session(session) is None) == (foremost.session(session) is None)
        assert merged.is_closed(session) == foremost.is_closed(session)
        assert merged.session(session) is None or merged.owner(session) in WORKERS


@given(session=st.text(max_size=8), alive=st.permutations(WORKERS))
def test_dealing_does_not_depend_on_order_and_moves_only_the_dead_ones_share(
    session: str, alive: list[WorkerId]
) -> None:
    chosen = heir(SessionId(session), dict.fromkeys(alive))
    assert chosen == heir(SessionId(session), dict.fromkeys(WORKERS))
    assert chosen is not None
    others = [worker for worker in alive if worker != chosen]
    assert heir(SessionId(session), dict.fromkeys(others)) in others
    assert heir(SessionId(session), dict.fromkeys([*others[1:], chosen])) == chosen
    assert heir(SessionId(session), {}) is None


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(95, 125)), max_size=80),
)
def test_the_lowest_free_number_is_that_of_a_plain_scan(steps: list[tuple[bool, int]]) -> None:
    table = new_table()
    offset = 0
    for offset, record in enumerate(START):
        table.apply(offset, record)
    used: dict[int, SessionId] = {}
    for index, (automatic, number) in enumerate(steps):
        offset += 1
        session = SessionId(f"n{index}")
        if not automatic and number in used:
            gone = used.pop(number)
            table.apply(offset, Close(author=WORKERS[0], at_ms=0, session=gone))
            continue
        slot = SlotId("" if automatic else str(number))
        entry = SlotEntry(account=ACCOUNTS[0], slot=slot, session=session, call_id=CallId(session))
        table.apply(offset, Claim(author=WORKERS[0], at_ms=0, entry=entry))
        lowest = next(free for free in range(101, 300) if free not in used)
        expected = lowest if automatic else number
        stored = table.entry_of(session)
        assert stored is not None
        assert stored.slot == str(expected)
        used[expected] = session


def holdings(table: SlotTable) -> list[SlotEntry]:
    return [entry for account in table.accounts() for entry in table.entries(account)]
