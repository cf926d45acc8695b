"""The RabbitMQ adapter keeps the contract, on the session's broker."""

from __future__ import annotations

import asyncio
import gc
import logging
import struct
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import pika
import pytest
from yarl import URL

from tests.contract.broker_contract import (
    BrokerContract,
    Names,
    OpenLink,
    bodies,
    done,
    unique_names,
    until,
)
from tests.contract.raw_publisher import (
    FLAG_CONTENT_TYPE,
    FLAG_HEADERS,
    FLAG_MESSAGE_ID,
    FLAG_TIMESTAMP,
    RawPublisher,
    long,
    short,
)
from tests.contract.tcp_proxy import proxy_to
from worker.broker.port import Delivery, Link
from worker.broker.private_node import free_port
from worker.broker.rabbit import open_link as open_rabbit_link
from worker.errors import BrokerLostError, BrokerUnreachableError, UsageError

pytestmark = pytest.mark.broker


@pytest.fixture
def name() -> Names:
    return unique_names()


@pytest.fixture
async def open_link(own_vhost_url: str) -> AsyncIterator[OpenLink]:
    links: list[Link] = []

    async def open_one() -> Link:
        links.append(await open_rabbit_link(own_vhost_url, name="kzpark contract test"))
        return links[-1]

    yield open_one
    for link in links:
        await link.close()


class TestRabbitBroker(BrokerContract):
    @pytest.fixture(autouse=True)
    def delete_what_outlives_links(self, own_vhost_url: str) -> Iterator[None]:
        self.streams: list[str] = []
        yield
        if self.streams:
            connection = pika.BlockingConnection(pika.URLParameters(own_vhost_url))
            channel = connection.channel()
            for stream in self.streams:
                channel.queue_delete(stream)
            connection.close()

    async def stream(self, link: Link, name: Names, records: int) -> str:
        self.streams.append(name("log"))
        return await super().stream(link, name, records)


GREGORIAN_US = 63_962_611_259_575_464
NESTED = 20_000


def field(key: bytes, kind: bytes, value: bytes) -> bytes:
    return short(key) + kind + value


def nested_arrays(depth: int) -> bytes:
    """An array in an array in an array..."""
    return b"".join(b"A" + struct.pack(">I", 5 * (depth - level)) for level in range(depth + 1))


HEADERS = {
    "kazoo": (field(b"a", b"x", long(b"<0.1.0>")), {"a": "<0.1.0>"}),
    "bytes that are no text": (field(b"a", b"x", long(b"\xff\xfe")), {"a": "\ufffd\ufffd"}),
    "a string that is no text": (field(b"a", b"S", long(b"ok\xff")), {"a": "ok\ufffd"}),
    "a key that is no text": (field(b"\xff", b"t", b"\x01"), {"\ufffd": True}),
    "integers": (
        field(b"b", b"b", b"\xff")
        + field(b"s", b"s", b"\xff\xfe")
        + field(b"I", b"I", b"\xff\xff\xff\xfd")
        + field(b"l", b"l", b"\xff" * 7 + b"\xfc"),
        {"b": -1, "s": -2, "I": -3, "l": -4},
    ),
    "void": (field(b"v", b"V", b"") + field(b"t", b"t", b"\x00"), {"v": None, "t": False}),
    "fractions": (
        field(b"d", b"d", struct.pack(">d", 0.25)) + field(b"D", b"D", b"\x02\0\0\0\x19"),
        {"d": 0.25, "D": Decimal("0.25")},
    ),
    "nested": (
        field(b"t", b"F", long(field(b"in", b"A", long(b"S" + long(b"x") + b"x" + long(b"y"))))),
        {"t": {"in": ["x", "y"]}},
    ),
}


class TestHostileMessages:
    """Whatever a peer puts into a message, the link lives and the message after it arrives."""

    async def consumed(
        self, link: Link, name: Names, url: str, *messages: tuple[int, bytes]
    ) -> list[Delivery]:
        """Publish ``messages`` (flags, properties) raw, and a good one; what arrives before it."""
        await link.declare_queue(name("q"), exclusive=True)
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, no_ack=True)

        def publish() -> None:
            with RawPublisher(url) as publisher:
                for flags, properties in messages:
                    publisher.publish("", name("q").encode(), b"odd", flags, properties)

        await asyncio.to_thread(publish)
        assert await done(link.publish("", name("q"), b"good", mandatory=True))
        await until(lambda: bool(got) and got[-1].body == b"good")
        assert not link.closed.done()
        assert bodies(got[:-1]) == [b"odd"] * len(messages)
        return got[:-1]

    async def test_timestamps_of_every_size(
        self, open_link: OpenLink, name: Names, own_vhost_url: str
    ) -> None:
        expected = {
            0: None,
            1: 1000,
            1_700_000_000: 1_700_000_000_000,
            2**32 - 1: (2**32 - 1) * 1000,
            2**32: 2**32,
            1_700_000_000_000: 1_700_000_000_000,
            1_700_000_000_000_000: 1_700_000_000_000,
            GREGORIAN_US: 1_795_392_059_575,
            6 * 10**16: 6 * 10**13,  # microseconds of the year 3871
            2**63: None,
            2**64 - 1: None,
        }
        got = await self.consumed(
            await open_link(),
            name,
            own_vhost_url,
            *((FLAG_TIMESTAMP, struct.pack(">Q", raw)) for raw in expected),
        )
        assert [delivery.sent_at_ms for delivery in got] == list(expected.values())

    async def test_timestamps_of_pika_in_property_and_headers(
        self, open_link: OpenLink, name: Names, own_vhost_url: str
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=False, auto_delete=True)
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, no_ack=True)

        def publish() -> None:
            connection = pika.BlockingConnection(pika.URLParameters(own_vhost_url))
            properties = pika.BasicProperties(content_type="application/json")
            properties.timestamp = GREGORIAN_US
            connection.channel().basic_publish("", name("q"), b"{}", properties)
            connection.close()

        await asyncio.to_thread(publish)
        await until(lambda: len(got) == 1)
        assert got[0].sent_at_ms == 1_795_392_059_575

    async def test_timestamps_inside_headers_at_any_depth(
        self, open_link: OpenLink, name: Names, own_vhost_url: str
    ) -> None:
        raw = b"T" + struct.pack(">Q", GREGORIAN_US)
        worst = b"T" + struct.pack(">Q", 2**64 - 1)
        table = (
            short(b"plain") + raw + short(b"list") + b"A" + long(raw + worst)
            + short(b"table") + b"F" + long(short(b"in") + worst)
        )  # fmt: skip
        link = await open_link()
        (odd,) = await self.consumed(link, name, own_vhost_url, (FLAG_HEADERS, long(table)))
        assert set(odd.headers) == {"plain", "list", "table"}

    @pytest.mark.parametrize("case", HEADERS)
    async def test_headers_of_every_type(
        self, open_link: OpenLink, name: Names, own_vhost_url: str, case: str
    ) -> None:
        table, expected = HEADERS[case]
        link = await open_link()
        (odd,) = await self.consumed(link, name, own_vhost_url, (FLAG_HEADERS, long(table)))
        assert odd.headers == expected

    async def test_a_table_nested_to_the_frame_s_size(
        self, open_link: OpenLink, name: Names, own_vhost_url: str
    ) -> None:
        table = short(b"deep") + nested_arrays(NESTED) + short(b"after") + b"t\x01"
        link = await open_link()
        (odd,) = await self.consumed(link, name, own_vhost_url, (FLAG_HEADERS, long(table)))
        assert odd.headers["after"] is True

    async def test_a_table_of_thousands_of_fields_costs_no_second(
        self, open_link: OpenLink, name: Names, own_vhost_url: str
    ) -> None:
        table = b"".join(field(b"%05d" % number, b"t", b"\x01") for number in range(16_000))
        link = await open_link()
        started = time.process_time()
        (odd,) = await self.consumed(link, name, own_vhost_url, (FLAG_HEADERS, long(table)))
        assert len(odd.headers) == 16_000
        assert time.process_time() - started < 1

    async def test_short_strings_that_are_no_text(
        self, open_link: OpenLink, name: Names, own_vhost_url: str
    ) -> None:
        link = await open_link()
        got = await self.consumed(
            link,
            name,
            own_vhost_url,
            (FLAG_CONTENT_TYPE, short(b"\xff")),
            (FLAG_MESSAGE_ID, short(b"\xc3\x28" * 100)),
        )
        assert [delivery.content_type for delivery in got] == ["\ufffd", ""]

    async def test_a_routing_key_that_is_no_text(
        self, open_link: OpenLink, name: Names, own_vhost_url: str
    ) -> None:
        link = await open_link()
        await link.declare_exchange(name("x"), "fanout", auto_delete=True)
        await link.declare_queue(name("q"), exclusive=True)
        await link.bind(name("q"), name("x"), "")
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, no_ack=True)

        def publish() -> None:
            with RawPublisher(own_vhost_url) as publisher:
                publisher.publish(name("x"), b"call.\xff\xfe", b"odd")

        await asyncio.to_thread(publish)
        await until(lambda: len(got) == 1)
        assert got[0].routing_key == "call.\ufffd\ufffd"
        assert await done(link.publish(name("x"), "k", b"", mandatory=True))


class TestLinkLoss:
    async def test_a_cut_connection_ends_the_link_at_once(
        self, own_vhost_url: str, name: Names
    ) -> None:
        async with proxy_to(own_vhost_url) as proxy:
            link = await open_rabbit_link(proxy.url, name="cut")
            await link.declare_queue(name("q"), exclusive=True)
            proxy.freeze()
            pending = [link.publish("", name("q"), b"%d" % number) for number in range(10)]
            declaring = asyncio.ensure_future(link.declare_queue(name("r"), exclusive=True))
            await asyncio.sleep(0.02)
            started = time.monotonic()
            proxy.cut()
            results = await asyncio.gather(*pending, declaring, return_exceptions=True)
            assert time.monotonic() - started < 1
            assert all(isinstance(each, BrokerLostError) for each in results)
            assert isinstance(link.closed.exception(), BrokerLostError)
            await link.close()

    async def test_close_is_bounded_when_the_broker_is_frozen(
        self, own_vhost_url: str, name: Names
    ) -> None:
        async with proxy_to(own_vhost_url) as proxy:
            link = await open_rabbit_link(proxy.url, name="frozen")
            proxy.freeze()
            future = link.publish("", name("q"), b"x" * 1_000_000)
            started = time.monotonic()
            await link.close()
            assert time.monotonic() - started < 5
            with pytest.raises(BrokerLostError):
                await done(future)

    async def test_a_lost_link_nobody_looks_at_says_nothing(
        self, own_vhost_url: str, name: Names
    ) -> None:
        loop = asyncio.get_running_loop()
        complaints: list[object] = []
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with proxy_to(own_vhost_url) as proxy:
            link = await open_rabbit_link(proxy.url, name="ignored")
            await link.declare_queue(name("q"), exclusive=True)
            await link.consume(name("q"), lambda _: None, prefetch=5)
            link.publish("", name("q"), b"1")
            proxy.cut()
            await until(link.closed.done)
            link.publish("", name("q"), b"2")
            await link.close()
        del link
        gc.collect()
        await asyncio.sleep(0)
        assert complaints == []

    async def test_a_deleted_queue_ends_the_link_of_its_consumer(
        self, open_link: OpenLink, own_vhost_url: str, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"))
        await link.consume(name("q"), lambda _: None, no_ack=True)

        def delete() -> None:
            connection = pika.BlockingConnection(pika.URLParameters(own_vhost_url))
            connection.channel().queue_delete(name("q"))
            connection.close()

        await asyncio.to_thread(delete)
        await until(link.closed.done)
        with pytest.raises(BrokerLostError, match="cancelled"):
            await link.closed

    async def test_a_wrong_ack_ends_the_link(self, open_link: OpenLink, name: Names) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        tag = await link.consume(name("q"), lambda _: None, prefetch=1)
        link.ack(tag, 99)
        await until(link.closed.done)
        with pytest.raises(BrokerLostError, match="406"):
            await link.closed


class TestConnecting:
    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ("port", "connection refused"),
            ("host", "host name is not known"),
            ("password", "bad credentials"),
            ("vhost", "virtual host does not exist"),
        ],
    )
    async def test_what_is_wrong_is_said_in_one_line_without_the_password(
        self, own_vhost_url: str, change: str, expected: str
    ) -> None:
        url = URL(own_vhost_url)
        url = {
            "port": lambda: url.with_port(free_port()),
            "host": lambda: url.with_host("no-such-host.invalid"),
            "password": lambda: url.with_password("s3cret"),
            "vhost": lambda: url.with_path("/no-such-vhost"),
        }[change]()
        with pytest.raises(BrokerUnreachableError, match=expected) as caught:
            await open_rabbit_link(str(url), name="wrong")
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(url.host) in str(caught.value)

    @pytest.mark.parametrize("url", ["", "http://localhost", "amqp://", "localhost:5672"])
    async def test_what_is_no_amqp_url_is_a_usage_error(self, url: str) -> None:
        with pytest.raises(UsageError, match="not an AMQP URL"):
            await open_rabbit_link(url, name="wrong")

    async def test_hosts_are_tried_in_order_and_in_turn(
        self, own_vhost_url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with proxy_to(own_vhost_url) as first, proxy_to(own_vhost_url) as second:
            dead = str(URL(own_vhost_url).with_port(free_port()))
            urls = f"{dead}, {first.url},{second.url}"
            order = []
            with caplog.at_level(logging.CRITICAL, "aiormq"):
                for _ in range(4):
                    link = await open_rabbit_link(urls, name="several")
                    order.append("first" if first.connections else "second")
                    await link.close()
                    await until(lambda: not first.connections and not second.connections)
            assert order == ["first", "second", "first", "second"]

    async def test_when_no_host_answers_each_is_named(self, own_vhost_url: str) -> None:
        ports = [free_port(), free_port()]
        urls = ",".join(str(URL(own_vhost_url).with_port(port)) for port in ports)
        with pytest.raises(BrokerUnreachableError) as caught:
            await open_rabbit_link(urls, name="several")
        assert all(str(port) in str(caught.value) for port in ports)

    async def test_a_listener_that_says_nothing_is_given_up_in_time(self) -> None:
        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started = time.monotonic()
        with pytest.raises(BrokerUnreachableError, match="no answer in time"):
            await open_rabbit_link(f"amqp://127.0.0.1:{port}/", name="silent", timeout_s=0.3)
        assert time.monotonic() - started < 3
        server.close()

    async def test_a_listener_of_another_protocol_is_named(self) -> None:
        async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(8)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(speak_http, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnreachableError, match="is that an AMQP port"):
            await open_rabbit_link(f"amqp://127.0.0.1:{port}/", name="http")
        server.close()
