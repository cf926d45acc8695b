"""Sessions of a dead worker whose rows another version wrote (design §5)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.solo import BLIND, World
from worker.engine.engine import Engine
from worker.engine.ops import Append, Op, Publish
from worker.kapi.results import decode_result
from worker.parking.model import SessionId, WorkerId
from worker.parking.records import Close, Dead, Join, Record

SESSION = SessionId("exec-a")
SUCCESSOR = WorkerId("w2")


def taken_over(*, facts: dict[str, Any] | None = None, state: str | None = None) -> list[Op]:
    """What the successor does with ``a``, parked in 101, whose row says something odd."""
    world = World()
    world.execute("a", capture="101", **BLIND)
    table = world.solo.table
    row = table.session(SESSION)
    assert row is not None
    if facts is not None:
        row.facts = json.dumps(json.loads(row.facts) | facts)
    if state is not None:
        row.state = state
    engine = Engine(replace(world.config, worker=SUCCESSOR), table)

    def append(record: Record) -> None:
        engine.applied(table.apply(table.offset + 1, record), world.now_ms)

    append(Join(author=SUCCESSOR, at_ms=0))
    append(Dead(author=SUCCESSOR, at_ms=0, victim=world.config.worker, beat=1_000_000))
    ops = engine.take_ops()
    engine.tick(world.now_ms + 10_000)
    return ops + engine.take_ops()


def results(ops: list[Op]) -> list[str]:
    published = [op.payload for op in ops if isinstance(op, Publish)]
    terms = [payload["Result"] for payload in published if "Result" in payload]
    return [decode_result(str(term)).atom for term in terms]


def closes(ops: list[Op]) -> list[Record]:
    return [op.record for op in ops if isinstance(op, Append) and isinstance(op.record, Close)]


def test_a_node_this_version_refuses_lets_the_caller_go_on() -> None:
    ops = taken_over(facts={"Data": {"action": "teleport"}})
    assert results(ops) == ["continue"]
    assert len(closes(ops)) == 1


def test_a_call_that_has_its_result_gets_no_second_one() -> None:
    ops = taken_over(facts={"Data": {"action": "teleport"}}, state='{"finished": true}')
    assert results(ops) == []
    assert len(closes(ops)) == 1


def test_facts_that_name_no_call_free_the_slot() -> None:
    ops = taken_over(facts={"Call": None})
    assert results(ops) == []
    assert len(closes(ops)) == 1


@pytest.mark.parametrize(
    "state",
    ["", "{", "[]", "7", "{}", '{"state":"dreaming","timers":{"step":"soon"},"attempt":"x"}'],
)
def test_a_checkpoint_this_version_cannot_read_leaves_the_call_on_hold(state: str) -> None:
    ops = taken_over(state=state)
    assert results(ops) == []
    assert closes(ops) == []
