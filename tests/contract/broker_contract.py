"""What the worker expects of any broker: one suite, run against both adapters of the port."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

import pytest

from worker.broker.port import Delivery, Link
from worker.errors import BrokerConflictError, BrokerError, BrokerLostError, QueueGoneError

OpenLink = Callable[[], Awaitable[Link]]
Names = Callable[[str], str]

STREAM: Mapping[str, object] = {
    "x-queue-type": "stream",
    "x-max-length-bytes": 4_000_000,
    "x-stream-max-segment-size-bytes": 1_000_000,
}
PATIENCE_S = 10.0


async def until(fact: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Wait for a fact, looking every few milliseconds."""
    deadline = time.monotonic() + patience_s
    while not fact():
        assert time.monotonic() < deadline, "it did not become true in time"
        await asyncio.sleep(0.005)


async def done(future: asyncio.Future[bool]) -> bool:
    return await asyncio.wait_for(future, PATIENCE_S)


def unique_names() -> Names:
    """Names that no other test uses."""
    suffix = secrets.token_hex(4)
    return lambda base: f"kzpark-test.{base}.{suffix}"


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


class BrokerContract:
    """Subclasses bring the fixture ``open_link``: every call gives another link to one broker."""

    @pytest.fixture
    def name(self) -> Names:
        return unique_names()

    # publishing

    async def test_messages_of_one_link_arrive_in_call_order(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_exchange(name("x"), "topic", auto_delete=True)
        await link.declare_queue(name("q"), exclusive=True)
        await link.bind(name("q"), name("x"), "call.#")
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, no_ack=True)
        sent = [
            link.publish(name("x"), f"call.{number % 7}", b"%d" % number, mandatory=number % 2 == 0)
            for number in range(500)
        ]
        assert await asyncio.gather(*sent) == [True] * 500
        await until(lambda: len(got) == 500)
        assert bodies(got) == [b"%d" % number for number in range(500)]
        assert {delivery.queue for delivery in got} == {name("q")}
        assert {delivery.exchange for delivery in got} == {name("x")}
        assert [got[8].routing_key, got[8].redelivered] == ["call.1", False]

    async def test_an_unroutable_message_is_false_when_mandatory_and_true_when_not(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_exchange(name("x"), "direct", auto_delete=True)
        await link.declare_queue(name("q"), exclusive=True)
        await link.bind(name("q"), name("x"), "here")
        results = [
            link.publish(name("x"), key, b"{}", mandatory=mandatory)
            for key, mandatory in [
                ("here", True),
                ("nowhere", True),
                ("nowhere", False),
                ("nowhere", True),
                ("here", True),
            ]
        ]
        assert await asyncio.gather(*results) == [True, False, True, False, True]

    async def test_the_default_exchange_routes_by_queue_name(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        assert await done(link.publish("", name("q"), b"1", mandatory=True))
        assert not await done(link.publish("", name("other"), b"1", mandatory=True))

    async def test_properties_and_headers_arrive(self, open_link: OpenLink, name: Names) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, no_ack=True)
        headers = {"Deliver-To-PID": "<0.123.0>", "call-id": bytearray(b"abc@host"), "n": 7}
        await link.publish("", name("q"), b"{}", headers=headers, timestamp=63_962_611_259_575_464)
        await link.publish("", name("q"), b"", content_type="application/erlang", persistent=True)
        await until(lambda: len(got) == 2)
        first, second = got
        assert first.headers == {"Deliver-To-PID": "<0.123.0>", "call-id": "abc@host", "n": 7}
        assert first.content_type == "application/json"
        assert first.sent_at_ms == 63_962_611_259_575_464 // 1000 - 62_167_219_200_000
        assert [second.content_type, second.body, second.sent_at_ms, second.headers] == [
            "application/erlang",
            b"",
            None,
            {},
        ]

    @pytest.mark.parametrize("size", [131_064, 131_065, 1_000_000])
    async def test_a_body_of_many_frames_arrives_whole(
        self, open_link: OpenLink, name: Names, size: int
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, no_ack=True)
        body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
        assert await done(link.publish("", name("q"), body, mandatory=True))
        await until(lambda: len(got) == 1)
        assert got[0].body == body

    async def test_a_message_that_cannot_be_sent_fails_alone(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        good = link.publish("", name("q"), b"1", mandatory=True)
        bad = link.publish("", "k" * 256, b"2", mandatory=True)
        after = link.publish("", name("q"), b"3", mandatory=True)
        assert await done(good)
        with pytest.raises(BrokerError, match="cannot be sent"):
            await done(bad)
        assert await done(after)

    async def test_publishing_to_an_exchange_that_is_not_there_ends_the_link(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        future = link.publish(name("absent"), "key", b"{}")
        with pytest.raises(BrokerLostError, match="404"):
            await done(future)
        with pytest.raises(BrokerLostError, match="404"):
            await asyncio.wait_for(asyncio.shield(link.closed), PATIENCE_S)
        with pytest.raises(BrokerLostError):
            await done(link.publish("", "any", b"{}"))
        with pytest.raises(BrokerLostError):
            await link.declare_queue(name("q"), exclusive=True)

    # topology

    @pytest.mark.parametrize(
        ("pattern", "key", "matches"),
        [
            ("call.CHANNEL_DESTROY.a%2Eb", "call.CHANNEL_DESTROY.a%2Eb", True),
            ("call.*.x", "call.PARK_PARKED.x", True),
            ("call.*.x", "call.x", False),
            ("call.*.x", "call.a.b.x", False),
            ("*", "", False),
            ("#", "", True),
            ("call.#", "call", True),
            ("call.#", "call.a.b.c", True),
            ("call.#", "caller", False),
            ("#.x", "a.b.x", True),
            ("#.x.#", "x", True),
            ("a.#.b.#.c", "a.b.b.c", True),
            ("a.#.b.#.c", "a.c", False),
            ("a.*.#", "a", False),
            ("a.b", "a.B", False),
        ],
    )
    async def test_topic_patterns(
        self, open_link: OpenLink, name: Names, pattern: str, key: str, matches: bool
    ) -> None:
        link = await open_link()
        await link.declare_exchange(name("x"), "topic", auto_delete=True)
        await link.declare_queue(name("q"), exclusive=True)
        await link.bind(name("q"), name("x"), pattern)
        assert await done(link.publish(name("x"), key, b"", mandatory=True)) is matches

    async def test_fanout_and_two_bindings_of_one_queue_give_one_copy_each(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_exchange(name("x"), "fanout", auto_delete=True)
        got: dict[str, list[Delivery]] = {"a": [], "b": []}
        for queue, deliveries in got.items():
            await link.declare_queue(name(queue), exclusive=True)
            await link.bind(name(queue), name("x"), "one")
            await link.bind(name(queue), name("x"), "two")
            await link.consume(name(queue), deliveries.append, no_ack=True)
        assert await done(link.publish(name("x"), "three", b"1", mandatory=True))
        assert await done(link.publish(name("x"), "three", b"2", mandatory=True))
        await until(lambda: all(bodies(each) == [b"1", b"2"] for each in got.values()))

    async def test_unbind_stops_the_flow_and_may_be_repeated(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_exchange(name("x"), "topic", auto_delete=True)
        await link.declare_queue(name("q"), exclusive=True)
        await link.declare_queue(name("other"), exclusive=True)
        await link.bind(name("other"), name("x"), "other")
        await link.bind(name("q"), name("x"), "k")
        assert await done(link.publish(name("x"), "k", b"", mandatory=True))
        await link.unbind(name("q"), name("x"), "k")
        await link.unbind(name("q"), name("x"), "k")
        assert not await done(link.publish(name("x"), "k", b"", mandatory=True))

    async def test_declaring_again_is_free_and_declaring_otherwise_a_conflict(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        for _ in range(2):
            await link.declare_exchange(name("x"), "topic", auto_delete=True)
            await link.declare_queue(name("q"), exclusive=True, arguments={"x-max-length": 5})
        with pytest.raises(BrokerConflictError):
            await link.declare_exchange(name("x"), "direct", auto_delete=True)
        with pytest.raises(BrokerConflictError):
            await link.declare_queue(name("q"), exclusive=True, arguments={"x-max-length": 6})
        # The broker answered with the end of a channel; the link goes on.
        await link.declare_queue(name("q"), exclusive=True, arguments={"x-max-length": 5})
        assert not link.closed.done()

    async def test_what_is_absent_is_gone(self, open_link: OpenLink, name: Names) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        await link.declare_queue(name("q"), passive=True)
        with pytest.raises(QueueGoneError):
            await link.declare_queue(name("absent"), passive=True)
        with pytest.raises(QueueGoneError):
            await link.bind(name("q"), name("absent"), "k")
        with pytest.raises(QueueGoneError):
            await link.consume(name("absent"), lambda _: None, no_ack=True)
        assert await done(link.publish("", name("q"), b"", mandatory=True))

    async def test_concurrent_declares_do_not_fail_for_each_other(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        good = [link.declare_queue(name(f"q{number}"), exclusive=True) for number in range(5)]
        bad = [link.declare_queue(name(f"absent{number}"), passive=True) for number in range(5)]
        mixed = [each for pair in zip(good, bad, strict=True) for each in pair]
        results = await asyncio.gather(*mixed, return_exceptions=True)
        assert results[::2] == [None] * 5
        assert all(isinstance(each, QueueGoneError) for each in results[1::2])

    async def test_exclusive_queues_end_with_their_link_and_are_closed_to_others(
        self, open_link: OpenLink, name: Names
    ) -> None:
        owner, other = await open_link(), await open_link()
        await owner.declare_queue(name("q"), exclusive=True)
        with pytest.raises(BrokerConflictError):
            await other.declare_queue(name("q"), passive=True)
        assert await done(other.publish("", name("q"), b"", mandatory=True))
        await owner.close()
        with pytest.raises(QueueGoneError):
            await other.declare_queue(name("q"), passive=True)

    async def test_an_auto_delete_queue_ends_with_its_last_consumer(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link, other = await open_link(), await open_link()
        await link.declare_queue(name("q"), auto_delete=True)
        tags = [await link.consume(name("q"), lambda _: None, no_ack=True) for _ in range(2)]
        await link.cancel(tags[0])
        await other.declare_queue(name("q"), passive=True)
        await link.cancel(tags[1])
        with pytest.raises(QueueGoneError):
            await other.declare_queue(name("q"), passive=True)

    # consuming

    async def test_unacknowledged_messages_come_again_in_order_when_a_link_closes(
        self, open_link: OpenLink, name: Names
    ) -> None:
        first, second = await open_link(), await open_link()
        await second.declare_queue(name("q"), auto_delete=True)
        got: list[Delivery] = []
        tag = await first.consume(name("q"), got.append, prefetch=10)
        for number in range(4):
            second.publish("", name("q"), b"%d" % number)
        await until(lambda: len(got) == 4)
        again: list[Delivery] = []
        await second.consume(name("q"), again.append, no_ack=True)
        first.ack(tag, got[1].tag)
        await first.close()
        await until(lambda: len(again) == 3)
        assert bodies(again) == [b"0", b"2", b"3"]
        assert all(delivery.redelivered for delivery in again)

    async def test_requeue_gives_one_message_back(self, open_link: OpenLink, name: Names) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        got: list[Delivery] = []

        def refuse_once(delivery: Delivery) -> None:
            got.append(delivery)
            if delivery.redelivered:
                link.ack(delivery.consumer, delivery.tag)
            else:
                link.requeue(delivery.consumer, delivery.tag)

        await link.consume(name("q"), refuse_once, prefetch=1)
        await done(link.publish("", name("q"), b"1"))
        await until(lambda: len(got) == 2)
        assert [delivery.redelivered for delivery in got] == [False, True]

    async def test_prefetch_bounds_what_is_out_and_ack_multiple_frees_it_all(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        got: list[Delivery] = []
        tag = await link.consume(name("q"), got.append, prefetch=3)
        for number in range(8):
            last = link.publish("", name("q"), b"%d" % number)
        assert await done(last)
        await until(lambda: len(got) == 3)
        await asyncio.sleep(0.05)
        assert len(got) == 3
        link.ack(tag, got[2].tag, multiple=True)
        await until(lambda: len(got) == 6)
        link.ack(tag, got[3].tag)
        await until(lambda: len(got) == 7)
        assert bodies(got) == [b"%d" % number for number in range(7)]

    async def test_a_consumer_knows_its_tag_before_its_first_delivery(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        for number in range(20):
            last = link.publish("", name("q"), b"%d" % number)
        assert await done(last)
        known: list[str] = []
        early: list[Delivery] = []
        got: list[Delivery] = []

        def take(delivery: Delivery) -> None:
            (got if known == [delivery.consumer] else early).append(delivery)

        known.append(await link.consume(name("q"), take, no_ack=True))
        await until(lambda: len(got) + len(early) == 20)
        assert early == []
        assert bodies(got) == [b"%d" % number for number in range(20)]

    async def test_nothing_arrives_after_cancel_and_the_rest_goes_to_the_next(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        got: list[Delivery] = []
        tag = await link.consume(name("q"), got.append, prefetch=2)
        for number in range(5):
            link.publish("", name("q"), b"%d" % number)
        await until(lambda: len(got) == 2)
        await link.cancel(tag)
        link.ack(tag, got[0].tag)  # too late: no harm
        rest: list[Delivery] = []
        await link.consume(name("q"), rest.append, no_ack=True)
        await until(lambda: len(rest) == 5)
        assert bodies(rest) == [b"%d" % number for number in range(5)]
        assert len(got) == 2

    async def test_a_callback_that_raises_is_logged_and_the_next_message_comes(
        self, open_link: OpenLink, name: Names, caplog: pytest.LogCaptureFixture
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        got: list[bytes] = []

        def fragile(delivery: Delivery) -> None:
            got.append(delivery.body)
            if delivery.body == b"bad":
                raise ValueError("cannot digest that")

        await link.consume(name("q"), fragile, no_ack=True)
        with caplog.at_level(logging.ERROR):
            link.publish("", name("q"), b"bad")
            link.publish("", name("q"), b"good")
            await until(lambda: len(got) == 2)
        assert "cannot digest that" in caplog.text

    async def test_x_max_length_drops_the_oldest(self, open_link: OpenLink, name: Names) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True, arguments={"x-max-length": 3})
        for number in range(6):
            last = link.publish("", name("q"), b"%d" % number, mandatory=True)
        assert await done(last)
        got: list[Delivery] = []
        await link.consume(name("q"), got.append, no_ack=True)
        await until(lambda: len(got) == 3)
        assert bodies(got) == [b"3", b"4", b"5"]

    async def test_consumers_of_one_queue_share_its_messages(
        self, open_link: OpenLink, name: Names
    ) -> None:
        links = [await open_link() for _ in range(2)]
        await links[0].declare_queue(name("q"), auto_delete=True)
        shares: list[list[Delivery]] = [[], []]
        for link, share in zip(links, shares, strict=True):
            await link.consume(name("q"), share.append, prefetch=1)
        for number in range(2):
            links[0].publish("", name("q"), b"%d" % number)
        await until(lambda: [len(share) for share in shares] == [1, 1])

    # streams

    async def stream(self, link: Link, name: Names, records: int) -> str:
        """A stream with records 0.. in it, bound to the topic exchange of the test."""
        queue = name("log")
        await link.declare_queue(queue, durable=True, arguments=STREAM)
        for number in range(records):
            assert await done(link.publish("", queue, b"%d" % number, mandatory=True))
        return queue

    @pytest.mark.parametrize(
        ("offset", "expected"),
        [("first", [0, 1, 2, 3, 4, 5]), (2, [2, 3, 4, 5]), ("next", [5]), (None, [5])],
    )
    async def test_a_stream_is_read_from_an_offset(
        self, open_link: OpenLink, name: Names, offset: object, expected: list[int]
    ) -> None:
        link = await open_link()
        log = await self.stream(link, name, 5)
        got: list[Delivery] = []
        arguments = {} if offset is None else {"x-stream-offset": offset}
        await link.consume(log, got.append, prefetch=100, arguments=arguments)
        assert await done(link.publish("", log, b"5", mandatory=True))
        await until(lambda: bool(got) and got[-1].body == b"5")
        assert bodies(got) == [b"%d" % number for number in expected]
        assert [delivery.headers["x-stream-offset"] for delivery in got] == expected

    async def test_a_stream_read_at_last_begins_at_or_before_the_newest_record(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        log = await self.stream(link, name, 5)
        got: list[Delivery] = []
        await link.consume(log, got.append, prefetch=100, arguments={"x-stream-offset": "last"})
        await until(lambda: bool(got) and got[-1].body == b"4")

    async def test_an_offset_beyond_the_end_waits_for_the_log_to_get_there(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        log = await self.stream(link, name, 2)
        got: list[Delivery] = []
        await link.consume(log, got.append, prefetch=100, arguments={"x-stream-offset": 4})
        for number in range(2, 6):
            assert await done(link.publish("", log, b"%d" % number, mandatory=True))
        await until(lambda: bool(got) and got[-1].body == b"5")
        assert bodies(got) == [b"4", b"5"]

    async def test_every_reader_of_a_stream_sees_all_of_it_in_one_order(
        self, open_link: OpenLink, name: Names
    ) -> None:
        links = [await open_link() for _ in range(3)]
        log = await self.stream(links[0], name, 0)
        seen: list[list[Delivery]] = [[], [], []]

        def reader(link: Link, deliveries: list[Delivery]) -> Callable[[Delivery], None]:
            def take(delivery: Delivery) -> None:
                deliveries.append(delivery)
                if len(deliveries) % 5 == 0:
                    link.ack(delivery.consumer, delivery.tag, multiple=True)

            return take

        for link, deliveries in zip(links, seen, strict=True):
            await link.consume(
                log, reader(link, deliveries), prefetch=10, arguments={"x-stream-offset": "first"}
            )
        sent = [
            link.publish("", log, b"%d.%d" % (index, number), mandatory=True)
            for number in range(50)
            for index, link in enumerate(links)
        ]
        assert await asyncio.gather(*sent) == [True] * 150
        await until(lambda: all(len(deliveries) == 150 for deliveries in seen))
        assert bodies(seen[0]) == bodies(seen[1]) == bodies(seen[2])
        for index in range(3):
            mine = [body for body in bodies(seen[0]) if body.startswith(b"%d." % index)]
            assert mine == [b"%d.%d" % (index, number) for number in range(50)]

    async def test_a_stream_keeps_its_records_when_all_links_close(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        log = await self.stream(link, name, 3)
        await link.close()
        link = await open_link()
        await link.declare_queue(log, durable=True, arguments=STREAM)
        got: list[Delivery] = []
        await link.consume(log, got.append, prefetch=10, arguments={"x-stream-offset": 1})
        await until(lambda: len(got) == 2)
        assert bodies(got) == [b"1", b"2"]

    async def test_a_stream_without_prefetch_or_with_no_ack_is_refused(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        log = await self.stream(link, name, 0)
        with pytest.raises(BrokerError):
            await link.consume(log, lambda _: None, arguments={"x-stream-offset": "first"})
        link = await open_link()
        with pytest.raises(BrokerError):
            await link.consume(log, lambda _: None, no_ack=True, prefetch=10)

    # the end

    async def test_close_is_clean_and_may_be_repeated(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link = await open_link()
        await link.declare_queue(name("q"), exclusive=True)
        assert not link.closed.done()
        await link.close()
        await link.close()
        assert link.closed.done()
        assert link.closed.exception() is None
        with pytest.raises(BrokerLostError):
            await done(link.publish("", name("q"), b""))
        with pytest.raises(BrokerLostError):
            await link.consume(name("q"), lambda _: None)
        link.ack("any", 1)
        link.requeue("any", 1)
        await link.cancel("any")

    async def test_what_was_published_before_close_reaches_the_broker(
        self, open_link: OpenLink, name: Names
    ) -> None:
        link, other = await open_link(), await open_link()
        await other.declare_queue(name("q"), exclusive=True)
        got: list[Delivery] = []
        await other.consume(name("q"), got.append, no_ack=True)
        for number in range(100):
            link.publish("", name("q"), b"%d" % number)
        await link.close()
        await until(lambda: len(got) == 100)
