"""What KZPARK_AMQP_URL may hold, and which brokers are too old."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from pamqp import commands

from worker.broker.endpoint import connected, in_turn, parse_urls, server_version, vhost, where
from worker.broker.rabbit import open_link
from worker.errors import BrokerTooOldError, UsageError


def test_a_list_of_hosts_is_split_at_the_next_url_only() -> None:
    urls = parse_urls("amqp://u:a,b@one/v, amqps://two:5671/%2F,amqp://three")
    assert [url.host for url in urls] == ["one", "two", "three"]
    assert urls[0].password == "a,b"
    assert [vhost(url) for url in urls] == ["v", "/", "/"]


def test_where_it_is_names_host_port_and_vhost_and_no_password() -> None:
    assert where(parse_urls("amqps://u:secret@host/a%2Fb")[0]) == "host:5671 vhost 'a/b'"
    assert where(parse_urls("amqp://host")[0]) == "host:5672 vhost '/'"


@pytest.mark.parametrize(
    "text", ["", "redis://h", "amqp:///v", "h:5672", "amqp://u:secret@h:99999/"]
)
def test_what_is_no_url_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="not an AMQP URL") as caught:
        parse_urls(text)
    assert "secret" not in str(caught.value)


def test_the_next_attempt_begins_behind_the_host_that_was_connected_last() -> None:
    text = "amqp://turn-a,amqp://turn-b,amqp://turn-c"
    assert [url.host for _, url in in_turn(text)] == ["turn-a", "turn-b", "turn-c"]
    connected(text, 1)
    assert [url.host for _, url in in_turn(text)] == ["turn-c", "turn-a", "turn-b"]
    connected(text, 2)
    assert [url.host for _, url in in_turn(text)] == ["turn-a", "turn-b", "turn-c"]


def wire(product: object, version: object) -> Any:
    return SimpleNamespace(server_properties={"product": product, "version": version})


@pytest.mark.parametrize(
    ("product", "version", "numbers"),
    [
        ("RabbitMQ", "3.9.0", (3, 9, 0)),
        (b"RabbitMQ", bytearray(b"3.10.8"), (3, 10, 8)),
        ("RabbitMQ", "4.1.0-rc.1", (4, 1, 0)),
        ("LavinMQ", "2.4.1", (2, 4, 1)),
        ("RabbitMQ", None, ()),
    ],
)
def test_brokers_with_streams_are_taken(
    product: object, version: object, numbers: tuple[int, ...]
) -> None:
    assert server_version(wire(product, version)) == numbers


@pytest.mark.parametrize("version", ["3.8.34", "3.6.16", b"2.8.7"])
def test_a_rabbitmq_without_streams_is_too_old(version: object) -> None:
    with pytest.raises(BrokerTooOldError, match=r"3\.9 or newer"):
        server_version(wire("RabbitMQ", version))


async def speak_as_rabbitmq_3_8(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def answer(frame: Any) -> None:
        writer.write(pamqp.frame.marshal(frame, 0))
        await writer.drain()

    async def hear() -> None:
        _, _, size = pamqp.frame.frame_parts(await reader.readexactly(7))
        await reader.readexactly((size or 0) + 1)

    await reader.readexactly(8)
    properties: Any = {
        "product": "RabbitMQ",
        "version": "3.8.9",
        "capabilities": {"publisher_confirms": True},
    }
    await answer(commands.Connection.Start(0, 9, properties, "PLAIN", "en_US"))
    await hear()
    await answer(commands.Connection.Tune(2047, 131_072, 60))
    await hear()
    await hear()
    await answer(commands.Connection.OpenOk())
    await hear()  # connection.close: nothing was declared
    await answer(commands.Connection.CloseOk())
    writer.close()


async def test_an_old_broker_is_refused_and_left() -> None:
    server = await asyncio.start_server(speak_as_rabbitmq_3_8, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(BrokerTooOldError, match=r"3\.8\.9"):
        await open_link(f"amqp://127.0.0.1:{port}/", name="old")
    server.close()
