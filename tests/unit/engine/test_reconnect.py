"""The connection is lost in the middle of things, and comes back to the same worker (design §5)."""

from __future__ import annotations

import pytest

from tests.solo import BLIND, World


def parked() -> World:
    """``a`` is on hold in 101."""
    world = World()
    world.execute("a", capture="101", **BLIND)
    world.heard()
    return world


def picking_up() -> World:
    """``b`` has sent its pickup of ``a``."""
    world = parked()
    world.execute("b", capture="101", data={"action": "retrieve"})
    assert world.heard() == ["b: accepted", "b: call_pickup"]
    return world


def outage(world: World, ms: int) -> None:
    """No connection for ``ms``; what is published meanwhile is lost."""
    world.solo.engine.links_lost()
    world.now_ms += ms
    world.solo.engine.resume(world.now_ms)
    world._settle(world.solo.run(world.now_ms))


@pytest.mark.parametrize("ms", [500, 30_000])
def test_a_pickup_that_succeeded_unheard_is_a_pickup(ms: int) -> None:
    world = picking_up()
    world.answers |= {"a": "active b", "b": "active a"}
    outage(world, ms)
    world.wait(20_000)
    heard = world.heard()
    assert "b: PARK_RETRIEVED" in heard
    assert world.results("b") == []
    assert [line for line in heard if line.startswith("b: ")] == [
        "b: PARK_RETRIEVED",
        "b: result transfer",
    ]
    assert "a: result transfer" in heard
    assert world.slots == {}


def test_a_pickup_that_did_not_reach_the_switch_is_tried_once_more() -> None:
    world = picking_up()
    outage(world, 12_000)
    world.wait(3_000)
    assert [line for line in world.heard() if line.startswith("b: ")] == ["b: call_pickup"]
    world.bridge("b", "a")
    assert "b: PARK_RETRIEVED" in world.heard()


def test_a_retriever_that_hung_up_meanwhile_gives_the_slot_back() -> None:
    world = picking_up()
    world.answers["b"] = "terminated"
    outage(world, 500)
    world.wait(3_000)
    assert [line for line in world.heard() if line.startswith("b: ")] == ["b: result stop"]
    entry = world.solo.table.entries(world.solo.table.accounts()[0])[0]
    assert entry.retriever is None


def test_the_registrar_is_asked_again() -> None:
    world = parked()
    world.execute("b", capture="101", **BLIND)
    outage(world, 500)
    for op in world.published:
        if op.payload["Event-Name"] == "reg_query":
            found = {"Authorizing-ID": "phone", "Authorizing-Type": "device"}
            answer = {"Event-Name": "reg_query_resp", "Fields": [found]}
            world.message(answer | {"Msg-ID": op.payload["Msg-ID"]}, "targeted")
    assert "b: bridge" in world.heard()
