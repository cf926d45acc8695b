"""The throw-away RabbitMQ of demo and tests: it starts, and forgets only when told to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pika
import pika.exceptions
import pytest

from worker.broker import private_node
from worker.broker.private_node import PrivateNode, answers, server_script
from worker.errors import BrokerUnreachableError

pytestmark = pytest.mark.skipif(
    server_script() is None and not os.environ.get("CI"), reason="rabbitmq-server is not installed"
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[PrivateNode]:
    node = PrivateNode(tmp_path)
    try:
        node.start()
        yield node
    finally:
        node.close()


def declare_stream(node: PrivateNode, *, passive: bool) -> None:
    with closing(pika.BlockingConnection(pika.URLParameters(node.url))) as connection:
        connection.channel().queue_declare(
            "facts", durable=True, passive=passive, arguments={"x-queue-type": "stream"}
        )


def wait_for_stream(node: PrivateNode) -> None:
    """A broker that has just started answers for a stream with 404 "is down" at first."""
    deadline = time.monotonic() + 20
    while True:
        try:
            declare_stream(node, passive=True)
            return
        except pika.exceptions.ChannelClosedByBroker as error:
            if "down or inaccessible" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_node_keeps_its_streams_through_stop_and_kill_until_it_is_wiped(
    node: PrivateNode,
) -> None:
    declare_stream(node, passive=False)
    assert "facts" in node.ctl("list_queues", "name")
    node.stop()
    assert node.pid is None
    assert not answers(node.port)
    node.start()
    wait_for_stream(node)
    node.kill()
    node.wipe()
    node.start()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no queue 'facts'"):
        declare_stream(node, passive=True)


def test_without_rabbitmq_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_node, "server_script", lambda: None)
    with pytest.raises(BrokerUnreachableError, match="not installed"):
        PrivateNode(tmp_path).start()


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "rabbitmq-server"
    script.write_text("#!/bin/sh\necho no room left\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(private_node, "server_script", lambda: str(script))
    node = PrivateNode(tmp_path / "node")
    try:
        with pytest.raises(BrokerUnreachableError, match="no room left"):
            node.start()
    finally:
        node.close()
