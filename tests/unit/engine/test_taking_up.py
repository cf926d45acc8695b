"""Thousands of calls change hands at once: none is forgotten, and the worker is never busy long."""

from __future__ import annotations

from dataclasses import replace

from tests.solo import BLIND, World
from worker.engine.engine import Engine
from worker.engine.ledger import TAKE_UP_AT_ONCE, TAKE_UP_EACH_MS
from worker.engine.ops import Bind, Log, Op
from worker.parking.changes import Change
from worker.parking.model import WorkerId
from worker.parking.records import Dead, Join, Record

CALLS = 3 * TAKE_UP_AT_ONCE + 1
DATA = {"action": "park", "default_ringback_timeout": 3_600_000}


class Survivor:
    """Another worker's engine on the same log."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.worker = WorkerId("zz-survivor")
        self.engine = Engine(replace(world.config, worker=self.worker), world.solo.table)
        self.engine.applied(self.append(Join(author=self.worker, at_ms=0)), world.now_ms)
        self.engine.resume(world.now_ms)
        self.engine.take_ops()

    def append(self, record: Record) -> list[Change]:
        return self.world.solo.table.apply(self.world.solo.table.offset + 1, record)

    def bury(self) -> list[Op]:
        """The first worker is held for dead."""
        dead = Dead(author=self.worker, at_ms=0, victim=self.world.config.worker, beat=1_000_000)
        self.engine.applied(self.append(dead), self.world.now_ms)
        return self.engine.take_ops()

    def wait(self, ms: int) -> list[list[Op]]:
        """What is done at each deadline within that time."""
        until_ms = self.world.now_ms + ms
        done = []
        while (at_ms := self.engine.next_deadline_ms()) is not None and at_ms <= until_ms:
            self.world.now_ms = max(at_ms, self.world.now_ms)
            self.engine.tick(self.world.now_ms)
            done.append(self.engine.take_ops())
        self.world.now_ms = until_ms
        return done


def many_parked() -> World:
    world = World()
    for number in range(CALLS):
        world.execute(f"c{number}", data=DATA, **BLIND)
    return world


def adopted(ops: list[Op]) -> list[str]:
    return [
        str(op.fields["call_id"])
        for op in ops
        if isinstance(op, Log) and op.event == "session adopted"
    ]


def test_the_calls_of_a_dead_worker_are_adopted_in_slices() -> None:
    survivor = Survivor(many_parked())
    slices = [adopted(survivor.bury())]
    slices += [adopted(ops) for ops in survivor.wait(5 * TAKE_UP_EACH_MS)]
    assert max(len(one) for one in slices) == TAKE_UP_AT_ONCE
    everybody = [call for one in slices for call in one]
    assert sorted(everybody) == sorted(f"c{number}" for number in range(CALLS))
    assert survivor.engine.sessions == CALLS


def test_few_calls_are_adopted_at_once() -> None:
    world = World()
    world.execute("a", data=DATA, **BLIND)
    assert adopted(Survivor(world).bury()) == ["a"]


def test_after_an_outage_the_own_calls_are_listened_to_again_in_slices() -> None:
    world = many_parked()
    engine = world.solo.engine
    engine.links_lost()
    engine.resume(world.now_ms)
    bound = [sum(isinstance(op, Bind) for op in engine.take_ops())]
    while (at_ms := engine.next_deadline_ms()) is not None and at_ms <= world.now_ms + 1_000:
        engine.tick(at_ms)
        bound.append(sum(isinstance(op, Bind) for op in engine.take_ops()))
    assert max(bound) == TAKE_UP_AT_ONCE
    assert sum(bound) == CALLS


def test_a_second_outage_before_all_are_taken_up_forgets_nobody() -> None:
    survivor = Survivor(many_parked())
    first = adopted(survivor.bury())
    assert len(first) == TAKE_UP_AT_ONCE
    survivor.engine.links_lost()
    survivor.engine.resume(survivor.world.now_ms)
    ops = survivor.engine.take_ops() + [op for ops in survivor.wait(1_000) for op in ops]
    assert len({op.call_id for op in ops if isinstance(op, Bind)}) == CALLS
    assert sorted(first + adopted(ops)) == sorted(f"c{number}" for number in range(CALLS))
