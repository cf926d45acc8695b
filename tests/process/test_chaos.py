"""The long runs of `tox -e chaos`: many kills, long freezes, long restarts, a soak.

``KZPARK_TEST_SOAK_S`` sets how long the soak lasts (1800 s unless given).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.load import LoadCall, LoadPeer, in_flight
from tests.process.test_many_workers import assert_sound, frozen_owner, rolling_restart
from tests.process.zone import Scene, SteadyPeer, Zone, await_parked
from worker.broker.private_node import PrivateNode, private_node
from worker.broker.rabbit import open_link
from worker.replica.streams import LOG_ARGUMENTS, SNAPSHOT_ARGUMENTS, Names

pytestmark = pytest.mark.chaos

KILLS = 50
ADOPTED_S = 5.0
SOAK_S = float(os.environ.get("KZPARK_TEST_SOAK_S", "1800"))
SOAK_LANES = 16
SOAK_PARKED = 50
SAMPLE_S = 15.0


@pytest.mark.timeout(1200)
def test_fifty_kills(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    """Of whoever owns the call: p99 of the time to its adoption is below 5 s."""
    zone.start("w1", "w2", "w3")
    call = scene.parked("101")
    owner = zone.owner(call)
    took_s: list[float] = []
    for _ in range(KILLS):
        killed_at = zone.kill(owner)
        heir = zone.wait_adopted(call, owner, 10)
        took_s.append(time.monotonic() - killed_at)
        zone.start(owner)
        for worker in zone.workers.values():  # the next adoption is told by a new line
            worker.lines.clear()
        owner = heir
        peer.quiet(0.3, lambda: True, "")
    took_s.sort()
    p99 = took_s[int(len(took_s) * 0.99)]
    print(f"{KILLS} kills: adopted after {statistics.median(took_s):.2f} s, p99 {p99:.2f} s")
    assert p99 < ADOPTED_S
    assert_sound([call])
    assert call.lamp() == "early"
    call.hang_up()
    call.wait("result", 5)
    assert len(call.results) == 1


@pytest.mark.timeout(300)
def test_a_worker_frozen_for_twenty_seconds(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    frozen_owner(peer, zone, scene, 20)


@pytest.mark.timeout(900)
def test_rolling_restarts_under_load(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    calls = rolling_restart(peer, zone, scene, per_s=20, rounds=10)
    print(f"{len(calls)} calls through 30 restarts")


@pytest.mark.timeout(900)
def test_kills_under_load(peer: SteadyPeer, zone: Zone, scene: Scene) -> None:
    """kill -9 of any worker, again and again, under 20 parks a second: each call is parked once."""
    zone.start("w1", "w2", "w3")
    calls = []
    stop = threading.Event()

    def feed() -> None:
        number = 0
        while not stop.wait(0.05):
            number += 1
            calls.append(scene.valet(f"v{number}"))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for number in range(20):
            stop.wait(1)
            name = f"w{number % 3 + 1}"
            zone.kill(name)
            zone.start(name)
    finally:
        stop.set()
        feeder.join()
    for call in calls:
        await_parked(call, 15)
    peer.quiet(3, lambda: True, "")
    slots = {str(call.payloads("PARK_PARKED")[0]["Parking-Slot"]) for call in calls}
    assert len(slots) == len(calls)
    for call in calls:
        assert call.results == [], call.story()
        assert call.lamp() == "early", call.story()
        assert call.count("PARK_PARKED") == 1, call.story()
    held_again = [call.story() for call in calls if call.count("hold") > 1]
    print(f"{len(calls)} calls, 20 kills, {len(held_again)} held again by their adopter")
    assert len(held_again) <= 20 * 5


# ---- soak ----------------------------------------------------------------------------------------


@pytest.fixture
def soak_node() -> Iterator[PrivateNode]:
    with private_node() as node:
        yield node


def stream_bytes(node: PrivateNode, name: str) -> int:
    """What a stream takes on the node's disk."""
    folders = [
        path for path in node.folder.glob("**/stream/*") if name.replace(".", "_") in path.name
    ]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*.segment"))


@pytest.mark.timeout(SOAK_S + 600)
def test_a_soak_leaves_storage_and_memory_bounded(soak_node: PrivateNode) -> None:
    """Three workers under constant load: neither stream grows beyond its limit and one segment,
    and memory stops growing."""
    with SteadyPeer.connected(soak_node.url) as peer:
        zone = Zone(soak_node.url, peer, {"KZPARK_RECONCILE_S": "30"})
        zone.start("w1", "w2", "w3")
        samples = asyncio.run(_soak(zone, soak_node))
        zone.close()
    assert zone.crashes() == []
    for sample in samples[:: max(1, len(samples) // 20)]:
        print(sample)
    log_limit = _limit(LOG_ARGUMENTS)
    snapshot_limit = _limit(SNAPSHOT_ARGUMENTS)
    assert max(sample["log"] for sample in samples) < log_limit
    assert max(sample["snapshots"] for sample in samples) < snapshot_limit
    settled = samples[len(samples) // 2 :]
    for name in ("w1", "w2", "w3"):
        first, last = settled[0][name], settled[-1][name]
        assert last < first * 1.15, f"{name}: {first} KB, {last} KB"


def _limit(arguments: object) -> int:
    """Whole segments are dropped, when one is full: the limit, one segment, and the one in use."""
    assert isinstance(arguments, dict)
    return int(arguments["x-max-length-bytes"] + 2 * arguments["x-stream-max-segment-size-bytes"])


async def _soak(zone: Zone, node: PrivateNode) -> list[dict[str, int]]:
    link = await open_link(zone.url, name="soak")
    peer = await LoadPeer.open(link)
    accounts = [secrets.token_hex(16) for _ in range(20)]
    names = Names.of(zone.prefix)
    standing: list[LoadCall] = [
        await peer.park(accounts[number % 20]) for number in range(SOAK_PARKED)
    ]
    samples: list[dict[str, int]] = []
    ends_at = time.monotonic() + SOAK_S
    cycles = 0

    async def pass_through(number: int) -> None:
        nonlocal cycles
        cycles += 1
        call = await peer.park(accounts[number % 20])
        await call.announced.wait()
        if number % 2:
            await peer.hang_up(call)
        else:
            await peer.retrieve(call)

    async def sample() -> None:
        while time.monotonic() < ends_at:
            await asyncio.sleep(SAMPLE_S)
            memory = {name: zone.rss_kb(name) for name in zone.workers}
            samples.append(
                {
                    "cycles": cycles,
                    "log": stream_bytes(node, names.log),
                    "snapshots": stream_bytes(node, names.snapshots),
                    **memory,
                }
            )

    watching = asyncio.create_task(sample())
    while time.monotonic() < ends_at:
        await in_flight(SOAK_LANES, 200, pass_through)
    await watching
    await in_flight(8, len(standing), lambda number: peer.hang_up(standing[number]))
    await link.close()
    return samples
