"""What must hold of the lamp book whatever happens, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.parking.lamp import LampKey
from worker.parking.model import (
    AccountId,
    CallId,
    PresenceType,
    SessionId,
    SlotEntry,
    SlotId,
    WorkerId,
)
from worker.parking.presence import Lamp, LampBook, LampUpdate

REALM = "acme.example.com"
EXPIRES_S = 30
SETTLED_MS = 1_000_000

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["park", "free", "swap", "leave", "return", "probe", "reset", "back", "audit", "wait"]
        ),
        st.sampled_from(["101", "102", "103"]),
        st.sampled_from([0, 1, 50, 299, 301, 1_499, 4_000, 25_000]),
    ),
    max_size=40,
)


@dataclass
class World:
    """A book, the slots it speaks for, and what it has published so far."""

    shared: bool
    book: LampBook = field(default_factory=lambda: LampBook(expires_s=EXPIRES_S))
    now_ms: int = 0
    slots: dict[str, SlotEntry] = field(default_factory=dict)
    away: dict[str, SlotEntry] = field(default_factory=dict)
    calls: int = 0
    last: dict[LampKey, tuple[int, LampUpdate]] = field(default_factory=dict)
    ended: set[LampKey] = field(default_factory=set)

    def publish(self, updates: list[LampUpdate]) -> None:
        for update in updates:
            self.last[update.lamp.key] = (self.now_ms, update)

    def pass_time(self, wait_ms: int) -> None:
        until_ms = self.now_ms + wait_ms
        while (at_ms := self.book.next_deadline_ms()) is not None and at_ms <= until_ms:
            assert at_ms >= self.now_ms - wait_ms
            self.now_ms = max(self.now_ms, at_ms)
            self.publish(self.book.due(self.now_ms))
            later_ms = self.book.next_deadline_ms()
            assert later_ms is None or later_ms > self.now_ms
        self.now_ms = until_ms

    def entry(self, slot: str, call: int) -> SlotEntry:
        return SlotEntry(
            account=AccountId("acc"),
            slot=SlotId(slot),
            session=SessionId(f"session-{call}"),
            call_id=CallId(f"call-{call % 7}"),
            switch_uri="sip:10.0.0.1",
            presence_user="*3000" if self.shared and slot != "103" else f"*3{slot}",
            presence_realm=REALM,
        )

    def park(self, slot: str) -> None:
        if slot in self.slots or slot in self.away:
            return
        self.calls += 1
        entry = self.slots[slot] = self.entry(slot, self.calls)
        self.book.saw_occupied(entry)
        self.publish(self.book.light(entry, self.now_ms))

    def free(self, slot: str) -> None:
        if slot in self.slots:
            entry = self.slots.pop(slot)
            self.book.saw_free(entry, None, self.now_ms)
            self.publish(self.book.darken(entry, self.now_ms))
            self.ended.add(Lamp.of(entry).key)

    def swap(self, slot: str) -> None:
        if slot in self.slots:
            self.calls += 1
            before = self.slots[slot]
            after = self.slots[slot] = self.entry(slot, self.calls)
            self.ended.add(Lamp.of(before).key)
            self.book.saw_occupied(after)
            self.publish(self.book.darken(before, self.now_ms))
            self.publish(self.book.light(after, self.now_ms))

    def leave(self, slot: str) -> None:
        if slot in self.slots:
            entry = self.away[slot] = self.slots.pop(slot)
            self.book.forget(entry)

    def come_back(self, slot: str) -> None:
        if slot in self.away:
            entry = self.slots[slot] = self.away.pop(slot)
            self.publish(self.book.light(entry, self.now_ms))

    def take(self, step: str, slot: str) -> None:
        if step == "park":
            self.park(slot)
        elif step == "free":
            self.free(slot)
        elif step == "swap":
            self.swap(slot)
        elif step == "leave":
            self.leave(slot)
        elif step == "return":
            self.come_back(slot)
        elif step == "probe":
            self.book.probe(REALM, "*3101")
        elif step == "reset":
            self.book.reset(REALM, "*", self.now_ms)
        elif step == "back":
            self.book.kamailio_back(self.now_ms)
        elif step == "audit":
            self.book.audit(self.slots.values(), self.now_ms)


@given(steps=steps, shared=st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_last_word_about_every_dialog_is_the_truth_and_is_said_in_time(
    steps: list[tuple[str, str, int]], shared: bool
) -> None:
    world = World(shared)
    for step, slot, wait_ms in steps:
        world.take(step, slot)
        world.pass_time(wait_ms)
    world.pass_time(SETTLED_MS)

    wanted = {Lamp.of(entry).key for entry in world.slots.values()}
    elsewhere = {Lamp.of(entry).key for entry in world.away.values()}
    for key in wanted:
        at_ms, update = world.last[key]
        assert update.state is PresenceType.EARLY
        assert world.now_ms - at_ms <= EXPIRES_S * 1000 * 2 // 3
    for key in world.ended - wanted - elsewhere:
        assert world.last[key][1].state is PresenceType.TERMINATED
    assert world.book.audit(world.slots.values(), world.now_ms) == []
    stats = world.book.stats()
    assert (stats.lit, stats.ending) == (len(wanted), 0)
    assert stats.drift == 0


@given(steps=steps)
@settings(max_examples=100, deadline=None)
def test_no_lit_lamp_is_ever_older_than_its_expires(steps: list[tuple[str, str, int]]) -> None:
    world = World(shared=False)
    for step, slot, wait_ms in [*steps, ("wait", "101", 100_000)]:
        if step in ("leave", "return"):
            continue
        world.take(step, slot)
        world.pass_time(wait_ms)
        for entry in world.slots.values():
            assert world.now_ms - world.last[Lamp.of(entry).key][0] <= EXPIRES_S * 1000


@dataclass
class Zone:
    """Two workers that read one log, each with some lag, and a Kamailio that keeps no order.

    An update takes effect up to ``len(delays)`` x 10 ms after it was published, whatever else was
    published before or after it; the last one to take effect wins.
    """

    lags_ms: tuple[int, int]
    delays: list[int]
    books: tuple[LampBook, LampBook] = field(default_factory=lambda: (LampBook(), LampBook()))
    landing: list[tuple[int, int, LampUpdate]] = field(default_factory=list)
    published: int = 0

    def publish(self, updates: list[LampUpdate], now_ms: int) -> None:
        for update in updates:
            delay_ms = 10 * self.delays[self.published % len(self.delays)]
            self.landing.append((now_ms + delay_ms, self.published, update))
            self.published += 1

    def play(self, log: list[tuple[int, int, bool, SlotEntry]], until_ms: int) -> None:
        """``log``: when, whose session, occupied or freed, the entry."""
        for number, book in enumerate(self.books):
            for at_ms, owner, occupied, entry in log:
                now_ms = at_ms + self.lags_ms[number]
                self.wake(book, now_ms)
                if occupied:
                    book.saw_occupied(entry)
                else:
                    book.saw_free(entry, WorkerId(str(owner)), now_ms)
                if owner == number:
                    react = book.light if occupied else book.darken
                    self.publish(react(entry, now_ms), now_ms)
            self.wake(book, until_ms)

    def wake(self, book: LampBook, now_ms: int) -> None:
        while (at_ms := book.next_deadline_ms()) is not None and at_ms <= now_ms:
            self.publish(book.due(at_ms), at_ms)

    def rows(self) -> dict[LampKey, PresenceType]:
        return {update.lamp.key: update.state for _, _, update in sorted(self.landing, key=_when)}


def _when(landed: tuple[int, int, LampUpdate]) -> tuple[int, int]:
    return landed[0], landed[1]


@given(
    lags_ms=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    delays=st.lists(st.integers(0, 12), min_size=1, max_size=16),
    moves=st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 3), st.sampled_from([0, 5, 100, 400, 2_000])),
        min_size=1,
        max_size=12,
    ),
)
@settings(max_examples=300, deadline=None)
def test_with_two_lagging_workers_and_an_unordered_kamailio_the_lamp_ends_true(
    lags_ms: tuple[int, int], delays: list[int], moves: list[tuple[int, int, int]]
) -> None:
    log: list[tuple[int, int, bool, SlotEntry]] = []
    held: tuple[int, SlotEntry] | None = None
    now_ms = 0
    for number, (owner, call, wait_ms) in enumerate(moves):
        if held is None:
            entry = SlotEntry(
                account=AccountId("acc"),
                slot=SlotId("101"),
                session=SessionId(f"session-{number}"),
                call_id=CallId(f"call-{call}"),
                presence_user="*3101",
                presence_realm=REALM,
            )
            held = owner, entry
            log.append((now_ms, owner, True, entry))
        else:
            log.append((now_ms, held[0], False, held[1]))
            held = None
        now_ms += wait_ms
    zone = Zone(lags_ms, delays)
    zone.play(log, now_ms + 60_000)
    lit = {key for key, state in zone.rows().items() if state is not PresenceType.TERMINATED}
    assert lit == ({Lamp.of(held[1]).key} if held else set())


@given(
    users=st.lists(st.text(min_size=1, max_size=5), max_size=60),
    probes=st.lists(st.text(max_size=5), max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_probes_and_lamps_of_any_spelling_stay_within_bounds(
    users: list[str], probes: list[str]
) -> None:
    book = LampBook(known_limit=20, ended_limit=10)
    for now_ms, user in enumerate(users):
        entry = SlotEntry(
            account=AccountId("acc"),
            slot=SlotId(user),
            session=SessionId(user),
            call_id=CallId(f"call-{now_ms}"),
            presence_user=user,
            presence_realm=REALM,
        )
        for update in [*book.light(entry, now_ms), *book.darken(entry, now_ms)]:
            assert update.lamp.user.lower() == user.lower()
        for probed in probes:
            for update in book.probe(REALM, probed):
                assert update.lamp.user == probed
    while (at_ms := book.next_deadline_ms()) is not None:
        book.due(at_ms)
    stats = book.stats()
    assert stats.lit == stats.ending == stats.foreign == 0
    assert stats.known <= 20
    assert stats.ended <= 10
