"""Which publish a confirm belongs to."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest

from worker.broker.confirms import Confirms
from worker.errors import BrokerLostError


def results(futures: list[asyncio.Future[bool]]) -> list[bool | None]:
    return [future.result() if future.done() else None for future in futures]


async def test_confirms_settle_one_or_everything_before() -> None:
    confirms = Confirms(asyncio.get_running_loop())
    futures = [confirms.add() for _ in range(6)]
    confirms.settle(2, False, True)
    assert results(futures) == [None, True, None, None, None, None]
    confirms.settle(4, True, True)
    assert results(futures) == [True] * 4 + [None] * 2
    confirms.settle(0, True, True)
    assert results(futures) == [True] * 6
    assert len(confirms) == 0


async def test_a_nack_is_false() -> None:
    confirms = Confirms(asyncio.get_running_loop())
    futures = [confirms.add() for _ in range(3)]
    confirms.settle(2, True, False)
    assert results(futures) == [False, False, None]


async def test_a_returned_message_stays_false_when_its_ack_follows() -> None:
    confirms = Confirms(asyncio.get_running_loop())
    futures = [confirms.add(message_id) for message_id in ("a", "b", "c")]
    confirms.returned("b")
    confirms.returned("unknown")
    confirms.settle(3, True, True)
    assert results(futures) == [True, False, True]
    confirms.returned("a")
    assert results(futures) == [True, False, True]


async def test_confirms_in_any_order_settle_each_once() -> None:
    confirms = Confirms(asyncio.get_running_loop())
    futures = [confirms.add(f"m{number}") for number in range(500)]
    tags = list(range(1, 501))
    random.Random(7).shuffle(tags)
    for tag in tags:
        confirms.settle(tag, tag % 50 == 0, True)
        confirms.settle(tag, False, True)  # unknown by now
    assert results(futures) == [True] * 500
    assert len(confirms) == 0


async def test_a_cancelled_waiter_does_not_disturb() -> None:
    confirms = Confirms(asyncio.get_running_loop())
    futures = [confirms.add() for _ in range(2)]
    futures[0].cancel()
    confirms.settle(2, True, True)
    assert futures[1].result() is True


async def test_what_fails_unseen_is_no_complaint() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    confirms = Confirms(asyncio.get_running_loop())
    future = confirms.add("a")
    confirms.fail(BrokerLostError("gone"))
    with pytest.raises(BrokerLostError):
        future.result()
    confirms.add()
    confirms.fail(BrokerLostError("gone"))
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
