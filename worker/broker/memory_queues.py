"""Queues, streams and routing of the in-memory broker: RabbitMQ's rules, as far as we use them."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, Protocol

from ..errors import BrokerConflictError, BrokerError
from .port import Delivery, OnDelivery

log = logging.getLogger(__name__)

_DEFAULT_SEGMENT_BYTES: Final = 500_000_000


@dataclass(slots=True, kw_only=True)
class Message:
    """One message in one queue. ``place`` orders it, so that what is given back keeps its turn."""

    place: int
    delivery: Delivery
    redelivered: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Consumer:
    """One consumer: what it was given and has not acknowledged, by delivery tag."""

    tag: str
    on_delivery: OnDelivery
    no_ack: bool
    prefetch: int
    position: int = 0
    active: bool = True
    unacked: dict[int, Message] = field(default_factory=dict)
    _tags: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def has_room(self) -> bool:
        return self.active and (
            self.no_ack or not self.prefetch or len(self.unacked) < self.prefetch
        )

    def give(self, message: Message, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver ``message`` in the loop's next turn, in the order of the calls."""
        tag = next(self._tags)
        if not self.no_ack:
            self.unacked[tag] = message
        delivery = replace(
            message.delivery, consumer=self.tag, tag=tag, redelivered=message.redelivered
        )
        loop.call_soon(self._deliver, delivery)

    def _deliver(self, delivery: Delivery) -> None:
        if not self.active:
            return
        try:
            self.on_delivery(delivery)
        except Exception:
            log.exception("the consumer of %s failed on a delivery", delivery.queue)

    def settle(self, tag: int, multiple: bool) -> list[Message] | None:
        """Take out ``tag``, or everything up to it; None when there is no such delivery."""
        if tag not in self.unacked and not multiple:
            return None
        tags = [each for each in self.unacked if each <= tag] if multiple else [tag]
        return [self.unacked.pop(each) for each in tags]


class Queue(Protocol):
    """What the broker needs of a classic queue or a stream."""

    name: str
    flags: tuple[object, ...]
    owner: object | None
    auto_delete: bool
    consumers: list[Consumer]

    def add(self, delivery: Delivery) -> None: ...

    def attach(self, consumer: Consumer, arguments: Mapping[str, object]) -> None: ...

    def detach(self, consumer: Consumer) -> None: ...

    def pump(self) -> None: ...

    def give_back(self, messages: list[Message]) -> None: ...


class ClassicQueue:
    """First in, first out; consumers take turns; what is given back keeps its place."""

    def __init__(
        self, name: str, flags: tuple[object, ...], owner: object | None, auto_delete: bool
    ) -> None:
        self.name = name
        self.flags = flags
        self.owner = owner
        self.auto_delete = auto_delete
        self.consumers: list[Consumer] = []
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Message] = deque()
        self._places = itertools.count()
        arguments = flags[-1]
        limit = arguments.get("x-max-length") if isinstance(arguments, dict) else None
        self._max_length = limit if isinstance(limit, int) else None

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, delivery: Delivery) -> None:
        delivery = replace(delivery, queue=self.name)
        self._ready.append(Message(place=next(self._places), delivery=delivery))
        self.pump()
        while self._max_length is not None and len(self._ready) > self._max_length:
            self._ready.popleft()

    def attach(self, consumer: Consumer, arguments: Mapping[str, object]) -> None:
        self.consumers.append(consumer)
        self.pump()

    def detach(self, consumer: Consumer) -> None:
        consumer.active = False
        self.consumers.remove(consumer)
        self.give_back(list(consumer.unacked.values()))
        consumer.unacked.clear()

    def give_back(self, messages: list[Message]) -> None:
        for message in messages:
            message.redelivered = True
        if messages:
            self._ready = deque(sorted([*messages, *self._ready], key=lambda each: each.place))
            self.pump()

    def pump(self) -> None:
        while self._ready:
            ready = next((each for each in self.consumers if each.has_room), None)
            if ready is None:
                return
            self.consumers.remove(ready)
            self.consumers.append(ready)
            ready.give(self._ready.popleft(), self._loop)


class Stream:
    """An append-only log; each consumer reads it from its own offset."""

    def __init__(
        self, name: str, flags: tuple[object, ...], arguments: Mapping[str, object]
    ) -> None:
        self.name = name
        self.flags = flags
        self.owner: object | None = None
        self.auto_delete = False
        self.consumers: list[Consumer] = []
        self._loop = asyncio.get_running_loop()
        self._records: list[Delivery] = []
        self._first = 0
        self._bytes = 0
        self._max_bytes = _integer(arguments.get("x-max-length-bytes"))
        self._segment_bytes = (
            _integer(arguments.get("x-stream-max-segment-size-bytes")) or _DEFAULT_SEGMENT_BYTES
        )

    def __len__(self) -> int:
        return len(self._records)

    def add(self, delivery: Delivery) -> None:
        offset = self._first + len(self._records)
        headers = {**delivery.headers, "x-stream-offset": offset}
        self._records.append(replace(delivery, queue=self.name, headers=headers))
        self._bytes += len(delivery.body)
        if self._max_bytes and self._bytes > self._max_bytes + self._segment_bytes:
            self._drop_oldest()
        self.pump()

    def _drop_oldest(self) -> None:
        count = 0
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._records[count].body)
            count += 1
        del self._records[:count]
        self._first += count

    def attach(self, consumer: Consumer, arguments: Mapping[str, object]) -> None:
        if consumer.no_ack or not consumer.prefetch:
            raise BrokerError("540 NOT_IMPLEMENTED - a stream needs acks and a prefetch")
        wanted = arguments.get("x-stream-offset", "next")
        end = self._first + len(self._records)
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            consumer.position = max(wanted, self._first)
        elif wanted == "first":
            consumer.position = self._first
        elif wanted == "last":
            consumer.position = max(end - 1, self._first)
        elif wanted == "next":
            consumer.position = end
        else:
            raise BrokerError(f"541 INTERNAL_ERROR - no stream offset: {wanted!r}")
        self.consumers.append(consumer)
        self._pump(consumer)

    def detach(self, consumer: Consumer) -> None:
        consumer.active = False
        self.consumers.remove(consumer)
        consumer.unacked.clear()

    def give_back(self, messages: list[Message]) -> None:
        raise BrokerError("540 NOT_IMPLEMENTED - a stream takes nothing back")

    def pump(self) -> None:
        for consumer in self.consumers:
            self._pump(consumer)

    def _pump(self, consumer: Consumer) -> None:
        while consumer.has_room:
            index = max(consumer.position, self._first) - self._first
            if index >= len(self._records):
                return
            consumer.position = self._first + index + 1
            message = Message(place=consumer.position, delivery=self._records[index])
            consumer.give(message, self._loop)


class Exchange:
    """A name with bindings."""

    def __init__(self, kind: str, flags: tuple[object, ...]) -> None:
        match = _MATCHES.get(kind)
        if match is None:
            raise BrokerError(f"503 COMMAND_INVALID - unknown exchange type {kind!r}")
        self.flags = flags
        self.bindings: dict[tuple[str, str], None] = {}
        """(queue, key) pairs, in the order they were made."""
        self._match: Callable[[str, str], bool] = match

    def queues_of(self, routing_key: str) -> list[str]:
        """The queues a message goes to, each once."""
        matching = (queue for queue, key in self.bindings if self._match(key, routing_key))
        return list(dict.fromkeys(matching))


def make_queue(
    name: str,
    *,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: dict[str, object],
    owner: object,
) -> Queue:
    """A queue or stream, by its arguments; BrokerConflictError for what a stream cannot be."""
    flags: tuple[object, ...] = (durable, exclusive, auto_delete, arguments)
    if arguments.get("x-queue-type") != "stream":
        return ClassicQueue(name, flags, owner if exclusive else None, auto_delete)
    if not durable or exclusive or auto_delete or "x-max-length" in arguments:
        raise BrokerConflictError(f"406 PRECONDITION_FAILED - no such stream: {name!r}")
    return Stream(name, flags, arguments)


@lru_cache(maxsize=4096)
def topic_matches(pattern: str, routing_key: str) -> bool:
    """``*`` stands for one word, ``#`` for any number of words, none included."""
    words = routing_key.split(".") if routing_key else []
    reached = {0}  # how many words the pattern so far can have used up
    for part in pattern.split(".") if pattern else []:
        if part == "#":
            reached = set(range(min(reached), len(words) + 1)) if reached else set()
        else:
            reached = {
                used + 1 for used in reached if used < len(words) and part in ("*", words[used])
            }
    return len(words) in reached


def _direct_matches(key: str, routing_key: str) -> bool:
    return key == routing_key


def _fanout_matches(_key: str, _routing_key: str) -> bool:
    return True


_MATCHES: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "direct": _direct_matches,
    "topic": topic_matches,
    "fanout": _fanout_matches,
}


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0
