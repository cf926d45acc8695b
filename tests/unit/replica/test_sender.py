"""Own records: stamped, in order, each with effect once, across connections. With a toy log."""

from __future__ import annotations

import random

import orjson
import pytest

from worker.parking.model import AccountId, CallId, SessionId, SlotEntry, SlotId, WorkerId
from worker.parking.records import Alive, Barrier, Checkpoint, Claim, Dead, Join, Record, Settled
from worker.parking.slots import Ignored, SlotTable
from worker.replica.sender import Phase, Sender

W, OTHER = WorkerId("w"), WorkerId("other")
S1 = SessionId("s1")


class Toy:
    """A table, a log, and a wire that may lose or hold records."""

    def __init__(self) -> None:
        self.table = SlotTable(loads=orjson.loads)
        self.wire: list[Record] = []
        self.offset = 0
        self.sender = Sender(W, self.table, self.wire.append)
        self.states: list[str] = []
        self.reopen = False
        for record in (
            Join(author=OTHER, at_ms=0),
            Join(author=W, at_ms=0),
            Settled(author=OTHER, at_ms=0),
        ):
            self.store(record)

    def store(self, record: Record) -> None:
        """The log takes a record and it is read back."""
        self.table.apply(self.offset, record)
        self.offset += 1
        ignored = self.table.ignored
        if record.author != W or not record.epoch:
            return
        if isinstance(record, Checkpoint) and ignored is None:
            self.states.append(record.state)
        if self.sender.is_our_barrier(record):
            assert ignored in (None, Ignored.GONE, Ignored.STALE)
            if ignored is Ignored.STALE:
                self.sender.open(0)
            else:
                member = W in self.table.workers
                self.sender.barrier_seen([] if member else [Join(author=W, at_ms=0)])
        elif not self.sender.seen(record, ignored):
            self.reopen = True

    def flow(self) -> None:
        """Everything on the wire arrives."""
        while self.wire:
            self.store(self.wire.pop(0))

    def say(self, state: str) -> None:
        self.sender.append(Checkpoint(author=W, at_ms=0, session=S1, state=state))


def claim() -> Claim:
    entry = SlotEntry(account=AccountId("a"), slot=SlotId("101"), session=S1, call_id=CallId("c"))
    return Claim(author=W, at_ms=0, entry=entry)


@pytest.fixture
def toy() -> Toy:
    toy = Toy()
    toy.sender.open(0)
    toy.sender.append(claim())
    toy.flow()
    assert toy.table.owner(S1) == W
    return toy


def test_nothing_is_sent_before_the_barrier_is_read() -> None:
    toy = Toy()
    toy.sender.append(claim())
    toy.sender.open(0)
    assert [type(record) for record in toy.wire] == [Barrier]
    toy.flow()
    assert toy.table.owner(S1) == W
    assert len(toy.sender) == 0
    assert toy.sender.phase is Phase.OPEN


def test_records_are_numbered_in_order(toy: Toy) -> None:
    for state in ("a", "b", "c"):
        toy.say(state)
    assert [record.seq for record in toy.wire] == [3, 4, 5]
    toy.flow()
    assert toy.states == ["a", "b", "c"]


def test_a_lost_record_takes_its_followers_with_it_and_all_are_sent_again(toy: Toy) -> None:
    for state in ("a", "b", "c"):
        toy.say(state)
    del toy.wire[0]
    toy.flow()
    assert toy.states == []
    assert toy.reopen
    toy.sender.open(0)
    toy.flow()
    assert toy.states == ["a", "b", "c"]
    assert len(toy.sender) == 0


def test_what_landed_before_the_connection_died_is_not_sent_again(toy: Toy) -> None:
    toy.say("a")
    toy.say("b")
    toy.sender.shut()
    toy.store(toy.wire.pop(0))
    toy.wire.clear()
    toy.sender.open(0)
    toy.flow()
    assert toy.states == ["a", "b"]


def test_what_was_still_on_its_way_when_the_new_epoch_began_has_no_effect(toy: Toy) -> None:
    toy.say("a")
    late = toy.wire.pop(0)
    toy.sender.shut()
    toy.sender.open(0)
    toy.flow()
    assert toy.states == ["a"]
    toy.say("b")
    toy.flow()
    toy.store(late)
    assert toy.states == ["a", "b"]


def test_beats_are_not_repeated_in_the_next_epoch(toy: Toy) -> None:
    toy.sender.append(Alive(author=W, at_ms=0, beat=1), lasting=False)
    toy.wire.clear()
    toy.sender.open(0)
    toy.flow()
    assert toy.table.workers[W].beat == 0


def test_a_worker_declared_dead_joins_and_says_no_more_about_what_it_lost(toy: Toy) -> None:
    toy.store(Dead(author=OTHER, at_ms=0, victim=W, beat=0))
    toy.say("too late")
    toy.flow()
    toy.sender.open(0)
    toy.flow()
    assert toy.states == []
    assert toy.sender.dropped == 1
    assert W in toy.table.workers
    assert toy.table.owner(S1) == OTHER


def test_a_claim_made_while_dead_is_made_again() -> None:
    toy = Toy()
    toy.sender.open(0)
    toy.flow()
    toy.store(Dead(author=OTHER, at_ms=0, victim=W, beat=0))
    toy.sender.append(claim())
    toy.flow()
    assert not toy.table.is_known(S1)
    toy.sender.open(0)
    toy.flow()
    assert toy.table.owner(S1) == W


def test_an_epoch_used_by_somebody_else_in_our_name_is_passed_over() -> None:
    toy = Toy()
    toy.store(Barrier(author=W, at_ms=0, nonce="x", epoch=7, seq=1))
    toy.sender.epoch = 3
    toy.sender.open(0)
    assert toy.sender.epoch == 8


def test_a_record_that_cannot_be_sent_is_dropped(toy: Toy) -> None:
    toy.say("a")
    toy.say("b")
    toy.sender.drop(toy.wire.pop(0))
    toy.flow()
    toy.sender.open(0)
    toy.flow()
    assert toy.states == ["b"]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_wire_loses_or_delays_each_record_counts_once_and_in_order(
    seed: int,
) -> None:
    """Random losses, broken connections and records that arrive after their connection died."""
    chance = random.Random(seed)
    toy = Toy()
    toy.sender.open(0)
    toy.sender.append(claim())
    said = [str(number) for number in range(60)]
    waiting = list(said)
    ghosts: list[Record] = []
    while waiting or len(toy.sender) or toy.sender.phase is not Phase.OPEN:
        dice = chance.random()
        if waiting and dice < 0.4:
            toy.say(waiting.pop(0))
        elif toy.wire and dice < 0.8:
            toy.store(toy.wire.pop(0))
        elif toy.wire and dice < 0.83:
            toy.wire.pop(0)
        elif dice < 0.86:
            toy.sender.shut()
            ghosts += toy.wire
            toy.wire.clear()
            toy.reopen = True
        elif ghosts and dice < 0.95:
            toy.store(ghosts.pop(0))
        if (toy.reopen or not toy.wire) and (toy.sender.phase is not Phase.OPEN or toy.reopen):
            toy.reopen = False
            toy.wire.clear()
            toy.sender.open(0)
        elif not toy.wire and len(toy.sender) and not waiting:
            toy.sender.open(0)
    assert toy.states == said
