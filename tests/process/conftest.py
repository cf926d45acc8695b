"""Zones for the tests here: a virtual host and a peer per module, workers per test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.process.zone import Scene, SteadyPeer, Zone
from tests.rabbit import fresh_vhost, own_cluster, own_node

__all__ = ["own_cluster", "own_node"]

logging.getLogger("pika").setLevel(logging.CRITICAL)
"""The peer is meant to lose its connection; pika would tell of it in pages."""


@pytest.fixture(scope="module")
def vhost_url(amqp_url: str) -> Iterator[str]:
    with fresh_vhost(amqp_url) as url:
        yield url


@pytest.fixture(scope="module")
def live_peer(vhost_url: str) -> Iterator[SteadyPeer]:
    with SteadyPeer.connected(vhost_url) as peer:
        yield peer


@pytest.fixture
def peer(live_peer: SteadyPeer) -> Iterator[SteadyPeer]:
    """The module's peer; wire faults fail the test that caused them."""
    live_peer.problems.clear()
    live_peer.returned.clear()
    yield live_peer
    assert live_peer.problems == []


@pytest.fixture
def zone(peer: SteadyPeer, vhost_url: str) -> Iterator[Zone]:
    """A zone without workers yet. At the end those that run must stop with 0, and no session may
    have crashed."""
    zone = Zone(vhost_url, peer, {"KZPARK_SETTLE_MS": "300"})
    yield from _closing(zone)


def _closing(zone: Zone) -> Iterator[Zone]:
    try:
        yield zone
    finally:
        zone.close()
    assert zone.crashes() == []


@pytest.fixture
def scene(peer: SteadyPeer, request: pytest.FixtureRequest) -> Scene:
    """An account of the test's own."""
    return Scene(peer, request.node.name.removeprefix("test_").replace("_", "-")[:30])
