"""The checker is worth something: each rule of the worker, broken on purpose, is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.simulation.agenda import Climate
from tests.simulation.people import People
from tests.simulation.zone import Weather, Zone
from worker.broker.port import Link
from worker.engine.calls import Calls
from worker.engine.ledger import Ledger
from worker.engine.ops import Publish
from worker.parking import holding, ringing
from worker.parking.presence import LampBook
from worker.parking.slot_rules import SlotRules
from worker.replica.follower import Replica
from worker.replica.vitals import Vitals
from worker.run.outbox import Outbox

Break = Callable[[pytest.MonkeyPatch], None]
SEEDS = range(1, 9)
CALLS = (
    People.park_blind, People.park_direct, People.park_blind, People.race, People.retrieve,
    People.race, People.park_attended, People.dial_auto,
)  # fmt: skip


def a_busy_zone(seed: int, fault: Callable[[People], None] | None) -> Zone:
    weather = Weather(
        workers=3,
        climate=Climate(usual_ms=3, worst_ms=20, slow=0.05),
        script_ms=16_000,
        calls=16,
        faults=0,
        foreign=False,
        node_loss=False,
        broker_faults=False,
        kazoo_late=False,
        advertises=True,
        quick_snapshots=False,
        skew_ms=0,
    )
    zone = Zone(seed, weather)
    if fault is not None:
        for at_ms in (6_000, 11_000, 15_000):
            zone.agenda.after(at_ms, lambda: fault(zone.people))
    return zone


def nothing(*_arguments: Any, **_named: Any) -> None:
    """What was to be done is left out."""


def without_lease(patch: pytest.MonkeyPatch) -> None:
    """A worker that was frozen or replaced goes on as if nothing had happened."""
    patch.setattr(Replica, "lease_ok", lambda *_: True)
    patch.setattr(Replica, "_buried", nothing)
    patch.setattr(Ledger, "_let_go", nothing)


def without_fencing(patch: pytest.MonkeyPatch) -> None:
    """Anybody's records about a session count, and nobody stops on losing one."""
    without_lease(patch)

    def anybody(self: SlotRules, session: Any, _author: Any) -> Any:
        return self._store.sessions.get(session)

    patch.setattr(SlotRules, "_spoken_for", anybody)


def slots_given_twice(patch: pytest.MonkeyPatch) -> None:
    """A claim wins whoever is in the slot."""
    place = SlotRules._place

    def always(self: SlotRules, record: Any, row: Any) -> Any:
        occupant = self._store.entry(record.entry.account, record.entry.slot)
        if occupant is not None and occupant.session != row.session:
            self._store.remove(occupant)
        return place(self, record, row)

    patch.setattr(SlotRules, "_place", always)


def nobody_adopts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ledger, "_adopt", nothing)


def the_dead_are_not_buried(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Vitals, "_watch", lambda *_: [])


def results_said_twice(patch: pytest.MonkeyPatch) -> None:
    finish = Calls._finish

    def twice(self: Calls, live: Any, verdict: Any) -> None:
        finish(self, live, verdict)
        finish(self, live, verdict)

    patch.setattr(Calls, "_finish", twice)


def results_swallowed(patch: pytest.MonkeyPatch) -> None:
    send = Outbox._send

    def without(self: Outbox, link: Link, op: Publish, *rest: Any) -> None:
        if op.payload.get("Event-Name") != "action.result":
            send(self, link, op, *rest)

    patch.setattr(Outbox, "_send", without)


def lamps_stay_lit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LampBook, "darken", lambda *_: [])


def nobody_rings_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ringing, "arm", nothing)


def no_second_hold(patch: pytest.MonkeyPatch) -> None:
    """After a ringback that nobody answered the parkee is left in silence."""
    hold_again = holding.hold_again

    def only_the_first(session: Any) -> None:
        if session.ring_ended_at_ms is None:
            hold_again(session)

    patch.setattr(holding, "hold_again", only_the_first)


BREAKS: list[tuple[Break, Callable[[People], None] | None, set[str]]] = [
    (without_lease, People.freeze_long, {"fencing", "lamp", "crash", "result", "announcement"}),
    (without_fencing, People.freeze_long, {"fencing", "slot", "lamp", "result", "crash"}),
    (slots_given_twice, None, {"slot", "crash", "stuck", "announcement", "forgotten"}),
    (nobody_adopts, People.kill, {"forgotten", "left over", "lamp"}),
    (the_dead_are_not_buried, People.kill, {"forgotten", "left over", "lamp"}),
    (results_said_twice, None, {"result"}),
    (results_swallowed, None, {"forgotten"}),
    (lamps_stay_lit, None, {"lamp"}),
    (nobody_rings_back, None, {"ringback"}),
    (no_second_hold, None, {"silence"}),
]


def _name(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("broken", "fault", "rules"), BREAKS, ids=_name)
def test_a_broken_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    broken: Break,
    fault: Callable[[People], None] | None,
    rules: set[str],
) -> None:
    broken(monkeypatch)
    for seed in SEEDS:
        violations = a_busy_zone(seed, fault).play()
        if violations:
            assert violations[0].rule in rules, str(violations[0])
            return
    pytest.fail("nobody noticed")


def test_the_same_zones_are_sound_when_nothing_is_broken() -> None:
    for fault in (None, People.freeze_long, People.kill):
        for seed in SEEDS:
            violations = a_busy_zone(seed, fault).play()
            assert not violations, f"seed {seed}: {violations[0]}"
