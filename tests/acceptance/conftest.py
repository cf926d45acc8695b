"""One worker process and one black-box peer per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.peer import Peer
from tests.acceptance.worker_process import WorkerProcess, running_worker
from tests.rabbit import fresh_vhost

VALET_CLEANUP_MS = 400


@pytest.fixture(scope="module")
def vhost_url(amqp_url: str) -> Iterator[str]:
    with fresh_vhost(amqp_url) as url:
        yield url


@pytest.fixture(scope="module")
def live_peer(vhost_url: str) -> Iterator[Peer]:
    with Peer.connected(vhost_url) as peer:
        peer.sysconf["valet_reservation_cleanup_time_ms"] = VALET_CLEANUP_MS
        yield peer


@pytest.fixture(scope="module")
def worker(live_peer: Peer, vhost_url: str) -> Iterator[WorkerProcess]:
    with running_worker(vhost_url) as process:
        yield process


@pytest.fixture
def peer(live_peer: Peer, worker: WorkerProcess) -> Iterator[Peer]:
    """The peer, with a worker there to serve it; wire faults fail the test that caused them."""
    yield live_peer
    problems, live_peer.problems = live_peer.problems, []
    returned, live_peer.returned = live_peer.returned, []
    assert problems == []
    assert returned == []
    assert worker.running
