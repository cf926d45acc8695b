"""Several workers under one clock and one log."""

from __future__ import annotations

import json
from typing import Any

from tests.solo import BLIND, make_config, make_execute
from worker.engine.engine import Engine
from worker.engine.ops import Append, Publish
from worker.parking.model import CallId, SessionId, SlotEntry, SlotId, WorkerId
from worker.parking.records import Claim, Leave, Record
from worker.trace.fleet import BIND_MS, LOG_MS, WAIT_MS, Fleet, RecordedOrder

NOW_MS = 1_800_000_000_000


def fleet(*names: str, order: RecordedOrder | None = None) -> Fleet:
    one = Fleet(order=order or RecordedOrder(), now_ms=NOW_MS)
    for name in names:
        worker = WorkerId(name)
        one.start(make_config(worker=worker, node=f"kzpark@{name}"), resumes=False)
    one.advance(NOW_MS)
    one.take_said()
    return one


def give(one: Fleet, worker: str, call_id: str, **how: Any) -> None:
    body = json.dumps(make_execute(call_id, **how)).encode()
    now_ms = one.now_ms

    def apply(engine: Engine) -> None:
        engine.execute(
            body,
            tag=1,
            sent_at_ms=now_ms,
            redelivered=False,
            exchange="kapps",
            routing_key="callflow.action.park",
            now_ms=now_ms,
        )

    one.feed(apply, WorkerId(worker))


def claim_of(call_id: str) -> Record:
    entry = SlotEntry(
        account=make_execute(call_id)["Call"]["Account-ID"],
        slot=SlotId("101"),
        session=SessionId(f"exec-{call_id}"),
        call_id=CallId(call_id),
    )
    return Claim(author=WorkerId("w"), at_ms=0, entry=entry)


def holder(one: Fleet) -> str:
    [account] = one.table.accounts()
    return str(one.table.entries(account)[0].call_id)


def commands(one: Fleet) -> list[tuple[str, str]]:
    """(worker, command) of everything said."""
    return [
        (said.worker, str(said.op.payload["Application-Name"]))
        for said in one.take_said()
        if isinstance(said.op, Publish) and said.op.exchange == "callctl"
    ]


def test_a_record_counts_when_it_is_read_back() -> None:
    one = fleet("w1")
    give(one, "w1", "a", capture="101", **BLIND)
    assert one.table.accounts() == []
    assert [type(s.op) for s in one.take_said()].count(Append) == 1
    one.advance(NOW_MS + max(BIND_MS, LOG_MS))
    assert holder(one) == "a"


def test_the_first_to_append_gets_the_slot() -> None:
    one = fleet("w1", "w2")
    give(one, "w1", "a", capture="101", **BLIND)
    give(one, "w2", "b", capture="101", **BLIND)
    one.advance(NOW_MS + 50)
    assert holder(one) == "a"


def test_the_recorded_order_decides_who_gets_the_slot() -> None:
    order = RecordedOrder([claim_of("b"), claim_of("a")])
    one = fleet("w1", "w2", order=order)
    give(one, "w1", "a", capture="101", **BLIND)
    one.advance(NOW_MS + 20)
    assert one.table.accounts() == []
    give(one, "w2", "b", capture="101", **BLIND)
    one.advance(NOW_MS + 40)
    assert holder(one) == "b"


def test_a_record_that_never_comes_is_not_waited_for_without_end() -> None:
    one = fleet("w1", order=RecordedOrder([claim_of("b"), claim_of("a")]))
    give(one, "w1", "a", capture="101", **BLIND)
    one.advance(NOW_MS + WAIT_MS + LOG_MS)
    assert holder(one) == "a"


def test_a_worker_that_leaves_hands_its_calls_over() -> None:
    one = fleet("w1", "w2")
    give(one, "w1", "a", capture="101", **BLIND)
    one.advance(NOW_MS + 200)
    assert commands(one) == [("w1", "hold")]
    one.append(Leave(author=WorkerId("w1"), at_ms=0))
    one.settle()
    one.stop(WorkerId("w1"))
    [session] = one.table.sessions_of(WorkerId("w2"))
    assert session == "exec-a"
    assert one.engines[WorkerId("w2")].sessions == 1
    one.advance(NOW_MS + 4_000)
    said = {said.worker for said in one.take_said()}
    assert said == {"w2"}


def test_a_stopped_worker_says_nothing_more() -> None:
    one = fleet("w1")
    give(one, "w1", "a", capture="101", **BLIND)
    one.stop(WorkerId("w1"))
    one.take_said()
    one.advance(NOW_MS + 200_000)
    assert one.take_said() == []
    assert one.table.accounts() == []


def test_the_same_inputs_give_the_same_operations() -> None:
    runs = []
    for _ in range(2):
        one = fleet("w1", "w2")
        give(one, "w1", "a", capture="101", **BLIND)
        give(one, "w2", "c", capture="101", data={"action": "auto"})
        one.advance(NOW_MS + 130_000)
        runs.append([(said.at_ms, said.worker, said.op) for said in one.take_said()])
    assert runs[0] == runs[1]
    assert len(runs[0]) > 20
