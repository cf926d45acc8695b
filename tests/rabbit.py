"""A real RabbitMQ for tests: whose broker, which virtual host, private nodes, a cluster.

`tests/conftest.py` decides on the session's broker (fixture ``amqp_url``); this module adds what
needs ``rabbitmqctl`` or processes of one's own. Everything here is synchronous and slow (a
``rabbitmqctl`` takes about a second), so fixtures built on it belong in session or module scope.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pika
import pika.exceptions
import pytest
from yarl import URL

from worker.broker.endpoint import parse_urls
from worker.broker.private_node import PrivateCluster, PrivateNode, private_node, server_script


@contextlib.contextmanager
def fresh_vhost(url: str) -> Iterator[str]:
    """``url`` with an empty virtual host of its own, deleted afterwards.

    Where ``rabbitmqctl`` is absent, may not, or speaks to another broker, it is ``url`` itself:
    tests use names of their own as well.
    """
    vhost = f"kzpark-test-{secrets.token_hex(4)}"
    user = URL(url).user or "guest"
    made = _ctl("add_vhost", vhost)
    try:
        ready = made and _ctl("set_permissions", "-p", vhost, user, ".*", ".*", ".*")
        own = str(URL(url).with_path("/" + vhost))
        yield own if ready and _connects(own) else url
    finally:
        if made:
            _ctl("delete_vhost", vhost)


def require_rabbitmq_server() -> None:
    """Skip when RabbitMQ is not installed; in CI fail."""
    if server_script() is None:
        reason = "rabbitmq-server is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def own_vhost_url(amqp_url: str) -> Iterator[str]:
    """The session's broker, in a virtual host of this session where that is possible.

    Of a list of hosts it is the first.
    """
    with fresh_vhost(str(parse_urls(amqp_url)[0])) as url:
        yield url


@pytest.fixture(scope="module")
def own_node() -> Iterator[PrivateNode]:
    """A private RabbitMQ that the module's tests may kill, stop and wipe."""
    require_rabbitmq_server()
    with private_node() as node:
        yield node


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[PrivateCluster]:
    """Three private nodes in one cluster, for the module's tests to break."""
    require_rabbitmq_server()
    with tempfile.TemporaryDirectory(
        prefix="kzpark-cluster-", ignore_cleanup_errors=True
    ) as folder:
        cluster = PrivateCluster(Path(folder), 3)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.close()


def _connects(url: str) -> bool:
    try:
        pika.BlockingConnection(pika.URLParameters(url)).close()
    except (pika.exceptions.AMQPError, OSError):
        return False
    return True


def _ctl(*words: str) -> bool:
    program = shutil.which("rabbitmqctl", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, "-q", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
