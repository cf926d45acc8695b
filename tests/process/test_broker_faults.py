"""The broker goes away and comes back, with its data or without: nobody parked notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.acceptance.calls import CONTINUE, STOP, TRANSFER, PeerCall
from tests.process.zone import (
    Scene,
    SteadyPeer,
    Zone,
    assert_retrieved,
    await_parked,
    ring_lateness_s,
    slot_of,
)
from worker.broker.private_node import PrivateCluster, PrivateNode

BACK_S = 15.0
WIPED_CALLS = 200


@pytest.fixture(scope="module")
def node_peer(own_node: PrivateNode) -> Iterator[SteadyPeer]:
    with SteadyPeer.connected(own_node.url) as peer:
        yield peer


@pytest.fixture
def node_zone(own_node: PrivateNode, node_peer: SteadyPeer) -> Iterator[Zone]:
    node_peer.problems.clear()
    node_peer.up.wait(30)
    zone = Zone(own_node.url, node_peer, {})
    try:
        yield zone
    finally:
        zone.close()
    assert zone.crashes() == []
    assert node_peer.problems == []


def scene_of(zone: Zone, name: str) -> Scene:
    return Scene(zone.peer, name)


def park_many(scene: Scene, count: int, **fields: Any) -> list[PeerCall]:
    calls = [scene.valet(f"p{number}", **fields) for number in range(count)]
    for call in calls:
        await_parked(call, 20)
    # What the broker had not confirmed when it fell is said again: let it confirm.
    scene.peer.quiet(0.5, lambda: True, "")
    return calls


def assert_still_parked(calls: list[PeerCall]) -> None:
    for call in calls:
        assert call.results == [], call.story()
        assert call.count("hold") == 1, call.story()
        assert call.count("PARK_PARKED") == 1, call.story()
        assert call.lamp() == "early", call.story()


def await_lit_since(calls: list[PeerCall], since: float, timeout_s: float) -> float:
    """Until each lamp was asserted after ``since``; how long after it that was."""

    def lit() -> bool:
        return all(
            any(name == "early" and one.at > since for name, one in call.log) for call in calls
        )

    calls[0]._peer.wait(lit, timeout_s, "every lamp asserted again")
    return (
        max(
            next(one.at for name, one in call.log if name == "early" and one.at > since)
            for call in calls
        )
        - since
    )


def close_connections(node: PrivateNode) -> None:
    node.ctl("close_all_connections", "test")


def restart_app(node: PrivateNode) -> None:
    node.ctl("stop_app")
    node.ctl("start_app")


def kill_and_start(node: PrivateNode) -> None:
    node.kill()
    node.start()


def kill_wipe_start(node: PrivateNode) -> None:
    node.kill()
    node.wipe()
    node.start()


FAULTS: dict[str, Callable[[PrivateNode], None]] = {
    "connections closed": close_connections,
    "stopped and started": restart_app,
    "killed and started": kill_and_start,
    "killed, wiped and started": kill_wipe_start,
}

IN_CI = ("connections closed", "killed, wiped and started")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=() if name in IN_CI else pytest.mark.chaos) for name in FAULTS],
)
def test_calls_outlive_the_broker(own_node: PrivateNode, node_zone: Zone, fault: str) -> None:
    """Parked, rung back, reserved, hung up meanwhile: each goes on as if nothing had been."""
    zone, peer, scene = node_zone, node_zone.peer, scene_of(node_zone, "outlive")
    zone.start("w1", "w2")
    calls = park_many(scene, 12)
    ring_ms = 10_000
    rung = [
        scene.parked(str(500 + number), f"rung{number}", ring_ms=ring_ms, bridges=["answer"])
        for number in range(3)
    ]
    gone = [scene.parked(str(520 + number), f"gone{number}") for number in range(3)]
    data = {"action": "auto", "default_ringback_timeout": 600_000}
    leg = scene.make("b2", "*3540", data=data, capture_group="540")
    peer.execute(leg)
    leg.wait("say")
    peer.quiet(0.5, lambda: True, "")

    for call in gone:  # the switch hangs them up in a moment when nobody can hear it
        call.status = "terminated"
    FAULTS[fault](own_node)
    returned = time.monotonic()
    assert peer.up.wait(30)

    for call in gone:
        call.wait("PARK_ABANDONED", BACK_S)
        call.wait("terminated", BACK_S)
        call.wait_result(STOP, timeout_s=BACK_S)
    await_lit_since(calls, returned, BACK_S)
    assert_still_parked(calls)
    new = scene.valet("new")
    await_parked(new, BACK_S)
    assert slot_of(new) == "113", "the lowest that is free"
    parkee = scene.make("a", "*3540", data=data, capture_group="540", replaces=leg.call_id)
    peer.execute(parkee)
    await_parked(parkee, BACK_S)
    leg.hang_up()
    leg.wait_result(TRANSFER, timeout_s=5)
    for number, call in enumerate(calls[:6]):
        assert_retrieved(call, scene.retrieve(slot_of(call), f"r{number}"))
    for call in rung:
        call.wait("bridge", 30)
        late_s = ring_lateness_s(call, ring_ms)
        rung_at = next(one.at for name, one in call.log if name == "bridge")
        assert late_s > -0.1, call.story()
        assert late_s < 1.0 or rung_at - returned < BACK_S, call.story()
        call.wait("PARK_RETRIEVED")
        call.completed("bridge", "SUCCESS", Disposition="SUCCESS")
        call.wait_result(CONTINUE)
        assert call.count("bridge") == 1, call.story()
        assert call.count("hold") == 1, call.story()
    assert_still_parked([*calls[6:], new])


def test_two_hundred_calls_outlive_a_broker_that_comes_back_empty(
    own_node: PrivateNode, node_zone: Zone
) -> None:
    """All 200 parked, their lamps right, retrievable, within 15 s of the broker's return."""
    zone, peer, scene = node_zone, node_zone.peer, scene_of(node_zone, "wiped")
    zone.start("w1", "w2", "w3")
    calls = park_many(scene, WIPED_CALLS)
    kill_wipe_start(own_node)
    returned = time.monotonic()
    assert peer.up.wait(30)
    lit_s = await_lit_since(calls, returned, BACK_S)
    assert_still_parked(calls)
    newcomer = scene.valet("new")
    await_parked(newcomer, BACK_S)
    assert slot_of(newcomer) == str(101 + WIPED_CALLS)
    retrievers = [scene.retrieve(slot_of(call), f"r{number}") for number, call in enumerate(calls)]
    for call, retriever in zip(calls, retrievers, strict=True):
        assert_retrieved(call, retriever, BACK_S)
    all_s = time.monotonic() - returned
    print(f"{WIPED_CALLS} calls: lamps after {lit_s:.1f} s, all retrieved after {all_s:.1f} s")
    assert all_s < BACK_S
    assert_still_parked([newcomer])


@pytest.mark.chaos  # the observer is cut off as well, and may miss what it waits for
def test_executes_while_connections_are_cut_are_served_once(
    own_node: PrivateNode, node_zone: Zone
) -> None:
    """Connections are closed again and again under a stream of parks."""
    zone, peer, scene = node_zone, node_zone.peer, scene_of(node_zone, "cut")
    zone.start("w1", "w2")
    calls: list[PeerCall] = []
    stop = threading.Event()

    def feed() -> None:
        number = 0
        while not stop.wait(0.05):
            if peer.up.is_set():
                number += 1
                calls.append(scene.valet(f"v{number}"))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for _ in range(3):
            close_connections(own_node)
            stop.wait(1)
    finally:
        stop.set()
        feeder.join()
    peer.quiet(1, lambda: True, "")
    lost = [call for call in calls if not call.count("accepted")]
    assert len(lost) <= 6, "executes that the peer's own connection lost"
    served = [call for call in calls if call not in lost]
    for call in served:
        call.wait("hold", BACK_S)  # also when the switch's own queue was away for a moment
    # An event that nobody was bound for, our recorder included, is lost for good.
    told = [call for call in served if call.count("PARK_PARKED")]
    assert len(told) > 0.9 * len(served)
    assert len({slot_of(call) for call in told}) == len(told)
    for call in served:
        assert call.results == [], call.story()


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_calls_outlive_the_leader_of_a_cluster(own_cluster: PrivateCluster) -> None:
    """Three nodes; the one that leads the slot log is killed, started, and the next one."""
    with SteadyPeer.connected(own_cluster.url) as peer:
        zone, scene = Zone(own_cluster.url, peer, {}), Scene(peer, "cluster")
        zone.start("w1", "w2", "w3")
        calls = park_many(scene, 30)
        for number in range(2):
            leader = _leader(own_cluster, f"{zone.prefix}.log")
            leader.kill()
            fell = time.monotonic()
            assert peer.up.wait(30)
            more = scene.valet(f"more{number}")
            await_parked(more, 30)
            print(f"leader {number} killed: the next park after {time.monotonic() - fell:.1f} s")
            calls.append(more)
            await_lit_since(calls, fell - 3600, BACK_S)
            assert_still_parked(calls)
            leader.start()
            peer.quiet(5, lambda: True, "")
        for number, call in enumerate(calls[:10]):
            assert_retrieved(call, scene.retrieve(slot_of(call), f"r{number}"), 10)
        assert_still_parked(calls[10:])
        zone.close()
        assert zone.crashes() == []


def _leader(cluster: PrivateCluster, stream: str) -> PrivateNode:
    """The node that leads a stream."""
    for node in cluster.nodes:
        if node.pid is None:
            continue
        table = node.ctl("list_queues", "name", "leader", "--quiet")
        for line in table.splitlines():
            name, _, leader = line.partition("\t")
            if name == stream:
                return next(n for n in cluster.nodes if n.name == leader.strip())
    raise AssertionError(f"{stream} has no leader")
