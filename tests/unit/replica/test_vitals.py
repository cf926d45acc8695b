"""When to beat, bury, snapshot and act: under a virtual clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.parking.model import WorkerId
from worker.replica.vitals import (
    Action,
    Beat,
    Bury,
    Deaf,
    Probe,
    Settle,
    TakeSnapshot,
    Timing,
    Vitals,
)

A, B, C = WorkerId("a"), WorkerId("b"), WorkerId("c")
T = Timing()


class Clock:
    """Vitals of worker ``b`` with a hand on the clock; its beats come back at once."""

    def __init__(self, members: dict[WorkerId, int], timing: Timing = T) -> None:
        self.vitals = Vitals(B, timing)
        self.members = members
        self.now = 1_000_000
        self.settled = True
        self.echo = True
        self.vitals.attached(self.now, members)

    def step(self) -> list[Action]:
        done = self.vitals.due(self.now, self.members, settled=self.settled)
        for action in done:
            if isinstance(action, Beat):
                self.vitals.beat_sent(action.number, self.now)
                if self.echo:
                    self.read_back(action.number)
        return done

    def read_back(self, number: int) -> None:
        self.members[B] = number
        self.vitals.beat_read(number)

    def hear(self, worker: WorkerId) -> None:
        self.members[worker] += 1
        self.vitals.heard(worker, self.now, matters=False)

    def until(self, later_ms: int, *, hearing: tuple[WorkerId, ...] = ()) -> list[Action]:
        """Steps of 100 ms; the workers in ``hearing`` beat every second."""
        seen: list[Action] = []
        for tick in range(later_ms // 100):
            self.now += 100
            if tick % 10 == 0:
                for worker in hearing:
                    self.hear(worker)
            seen += self.step()
        return seen


def settled_in(members: dict[WorkerId, int], timing: Timing = T) -> Clock:
    """Past the probes of the first attachment."""
    clock = Clock(members, timing)
    for probe in [action for action in clock.step() + clock.step() if isinstance(action, Probe)]:
        clock.vitals.probed(probe.worker, probe.beat, there=True)
    return clock


def test_a_member_beats_every_second_with_growing_numbers() -> None:
    clock = Clock({B: 4})
    assert clock.step() == [Beat(number=5)]
    beats = [action for action in clock.until(3000) if isinstance(action, Beat)]
    assert beats == [Beat(number=6), Beat(number=7), Beat(number=8)]


def test_nobody_beats_before_it_has_joined_or_after_it_was_cut_off() -> None:
    clock = Clock({})
    assert clock.step() == []
    clock.members = {B: 0}
    clock.vitals.detached()
    assert clock.until(2000) == []


def test_the_lease_lasts_from_the_sending_of_a_beat_that_was_read_back() -> None:
    clock = Clock({B: 0})
    clock.echo = False
    clock.step()
    sent = clock.now
    assert not clock.vitals.lease_ok(clock.now)
    clock.now += 900
    clock.read_back(1)
    assert clock.vitals.lease_ok(sent + T.lease_ms)
    assert not clock.vitals.lease_ok(sent + T.lease_ms + 1)


def test_the_lease_has_run_out_before_anybody_may_bury() -> None:
    """The others read a beat no earlier than it was sent."""
    owner, other = settled_in({B: 0}), settled_in({B: 0, A: 0})
    beat_ms = owner.now
    other.now = beat_ms
    other.hear(A)
    buried: int | None = None
    while buried is None:
        other.now += 10
        if any(isinstance(action, Bury) for action in other.step()):
            buried = other.now
    assert not owner.vitals.lease_ok(buried)
    assert buried - beat_ms > T.lease_ms + 1000


def test_no_lease_without_a_link_or_once_replaced() -> None:
    clock = settled_in({B: 0})
    assert clock.vitals.lease_ok(clock.now)
    clock.vitals.replaced()
    assert not clock.vitals.lease_ok(clock.now)
    clock.until(1100)
    assert clock.vitals.lease_ok(clock.now)
    clock.vitals.detached()
    assert not clock.vitals.lease_ok(clock.now)


def test_a_beat_sent_in_an_earlier_life_gives_no_lease() -> None:
    clock = Clock({B: 0})
    clock.echo = False
    clock.step()
    clock.vitals.detached()
    clock.vitals.attached(clock.now, clock.members)
    clock.vitals.beat_read(1)
    assert not clock.vitals.lease_ok(clock.now)


def test_on_the_first_attachment_everybody_is_probed_at_once() -> None:
    clock = Clock({A: 3, B: 0, C: 5})
    clock.step()
    probes = [action for action in clock.step() if isinstance(action, Probe)]
    assert probes == [Probe(worker=A, beat=3), Probe(worker=C, beat=5)]
    assert clock.vitals.probed(A, 3, there=False) == [Bury(victim=A, beat=3)]
    assert clock.vitals.probed(C, 5, there=True) == []
    assert clock.until(1000, hearing=(C,))[-1:] != [Bury(victim=A, beat=3)]


def test_after_a_reconnect_the_others_get_time_to_reconnect_as_well() -> None:
    clock = settled_in({A: 0, B: 0})
    clock.vitals.detached()
    clock.vitals.attached(clock.now, clock.members)
    actions = clock.until(T.grace_ms - 200)
    assert not any(isinstance(action, Probe | Bury) for action in actions)


def test_a_silent_worker_is_probed_and_buried_when_its_inbox_is_gone() -> None:
    clock = settled_in({A: 7, B: 0})
    assert not [x for x in clock.until(T.suspect_ms) if isinstance(x, Probe)]
    probes = [x for x in clock.until(1000) if isinstance(x, Probe)]
    assert probes == [Probe(worker=A, beat=7)] * 2
    assert clock.vitals.probed(A, 7, there=False) == [Bury(victim=A, beat=7)]
    assert clock.vitals.probed(A, 7, there=False) == []


def test_a_frozen_worker_is_buried_by_its_silence_alone_and_once() -> None:
    clock = settled_in({A: 7, B: 0, C: 0})
    actions = clock.until(8000, hearing=(C,))
    assert [x for x in actions if isinstance(x, Bury)] == [Bury(victim=A, beat=7)]


def test_a_worker_that_is_heard_is_never_buried() -> None:
    clock = settled_in({A: 0, B: 0, C: 0})
    actions = clock.until(20_000, hearing=(A, C))
    assert not any(isinstance(action, Probe | Bury) for action in actions)


def test_a_worker_may_be_buried_again_in_its_next_life() -> None:
    clock = settled_in({A: 7, B: 0})
    clock.until(4000)
    clock.members[A] = 8
    clock.vitals.heard(A, clock.now, matters=False)
    actions = clock.until(4000)
    assert Bury(victim=A, beat=8) in actions


def test_while_the_log_stands_still_nobody_is_buried() -> None:
    """A broker that hangs for 9 s: nobody's beats come back, ours neither."""
    clock = settled_in({A: 0, B: 0})
    clock.echo = False
    actions = clock.until(9000)
    assert not any(isinstance(action, Bury) for action in actions)
    clock.echo = True
    clock.read_back(clock.members[B] + 9)
    actions = clock.until(1000)
    assert not any(isinstance(action, Bury) for action in actions)
    assert any(isinstance(action, Bury) for action in clock.until(4000))


def test_a_worker_that_was_frozen_buries_nobody_on_waking() -> None:
    clock = settled_in({A: 0, B: 0})
    clock.now += 20_000
    actions = clock.step() + clock.until(900, hearing=(A,))
    assert not any(isinstance(action, Bury | Deaf) for action in actions)


def test_beats_that_never_come_back_mean_the_stream_is_lost() -> None:
    clock = settled_in({B: 0})
    clock.echo = False
    actions = clock.until(12_000)
    assert actions[-1] == Deaf()
    assert sum(isinstance(action, Beat) for action in actions) == T.deaf_beats


def test_an_unsettled_log_is_settled_after_a_while_and_again() -> None:
    clock = settled_in({B: 0})
    clock.settled = False
    actions = [x for x in clock.until(2 * T.settle_ms) if isinstance(x, Settle)]
    assert actions == [Settle(), Settle()]


@pytest.mark.parametrize(("lowest", "takes"), [(A, False), (C, True)])
def test_the_lowest_live_worker_takes_the_snapshots(lowest: WorkerId, takes: bool) -> None:
    clock = settled_in({lowest: 0, B: 0}, replace(T, snapshot_records=10))
    for _ in range(10):
        clock.vitals.heard(lowest, clock.now, matters=True)
    assert (TakeSnapshot() in clock.step()) == takes


def test_snapshots_come_by_number_and_by_age_if_anything_changed() -> None:
    clock = settled_in({B: 0}, replace(T, snapshot_records=100, snapshot_ms=5000))
    assert TakeSnapshot() not in clock.until(10_000)
    clock.vitals.heard(A, clock.now, matters=True)
    assert clock.step() == [TakeSnapshot()]
    clock.vitals.snapshot_taken(clock.now)
    clock.vitals.heard(A, clock.now, matters=True)
    assert TakeSnapshot() not in clock.until(4000)
    assert TakeSnapshot() in clock.until(1500)
