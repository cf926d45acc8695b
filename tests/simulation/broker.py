"""A simulated broker: RabbitMQ's rules as far as the worker rests on them, every message delayed.

What is sent reaches the broker after a delay and a consumer after another one; both can be lost
with their connection. Streams give each record its one place when it arrives. Everybody's order of
sending on one connection is kept, nothing else is promised.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from tests.simulation.agenda import Agenda, Climate, Pipe
from worker.broker.memory_queues import topic_matches
from worker.broker.port import Delivery
from worker.errors import BrokerLostError, BrokerUnreachableError, QueueGoneError

Take = Callable[[Delivery], None]


@dataclass(slots=True, eq=False, kw_only=True)
class Consumer:
    """Somebody who reads a queue. ``pipe`` is the way to him."""

    tag: str
    pipe: Pipe[Delivery]
    prefetch: int = 0
    no_ack: bool = True
    position: int = 0
    unacked: dict[int, tuple[int, Delivery]] = field(default_factory=dict)
    tags: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def has_room(self) -> bool:
        return self.no_ack or not self.prefetch or len(self.unacked) < self.prefetch

    def give(self, place: int, delivery: Delivery) -> None:
        tag = next(self.tags)
        if not self.no_ack:
            self.unacked[tag] = (place, delivery)
        self.pipe.put(replace(delivery, consumer=self.tag, tag=tag))


class Queue:
    """A classic queue; consumers take turns, what is given back keeps its place."""

    def __init__(self, name: str, owner: object | None, durable: bool) -> None:
        self.name = name
        self.owner = owner
        self.durable = durable
        self.consumers: list[Consumer] = []
        self._ready: deque[tuple[int, Delivery]] = deque()
        self._places = itertools.count()

    def add(self, delivery: Delivery) -> None:
        self._ready.append((next(self._places), replace(delivery, queue=self.name)))
        self.pump()

    def attach(self, consumer: Consumer, _offset: object) -> None:
        self.consumers.append(consumer)
        self.pump()

    def detach(self, consumer: Consumer) -> None:
        self.consumers.remove(consumer)
        back = [(at, replace(each, redelivered=True)) for at, each in consumer.unacked.values()]
        consumer.unacked.clear()
        self._ready = deque(sorted([*back, *self._ready], key=lambda item: item[0]))
        self.pump()

    def ack(self, consumer: Consumer, tag: int) -> None:
        consumer.unacked.pop(tag, None)
        self.pump()

    def pump(self) -> None:
        while self._ready:
            ready = next((each for each in self.consumers if each.has_room), None)
            if ready is None:
                return
            self.consumers.remove(ready)
            self.consumers.append(ready)
            ready.give(*self._ready.popleft())


class Stream:
    """An append-only log with holes in its offsets; its readers each have their own place."""

    def __init__(
        self, name: str, agenda: Agenda, on_append: Callable[[int, Delivery], None]
    ) -> None:
        self.name = name
        self.owner: object | None = None
        self.durable = True
        self.consumers: list[Consumer] = []
        self.records: list[tuple[int, Delivery]] = []
        self.end = 0
        self._agenda = agenda
        self._on_append = on_append

    def add(self, delivery: Delivery) -> None:
        if self.records and self._agenda.random.random() < HOLE:
            self.end += 1
        offset = self.end
        self.end += 1
        headers = {**delivery.headers, "x-stream-offset": offset}
        placed = replace(delivery, queue=self.name, headers=headers)
        self.records.append((offset, placed))
        self._on_append(offset, placed)
        for consumer in self.consumers:
            self._pump(consumer)

    def attach(self, consumer: Consumer, offset: object) -> None:
        first = self.records[0][0] if self.records else self.end
        if offset == "first":
            consumer.position = first
        elif offset == "last":
            chunk = self.records[-self._agenda.random.randint(1, 4) :]
            consumer.position = chunk[0][0] if chunk else self.end
        elif isinstance(offset, int):
            consumer.position = offset
        else:
            consumer.position = self.end
        self.consumers.append(consumer)
        self._pump(consumer)

    def detach(self, consumer: Consumer) -> None:
        self.consumers.remove(consumer)

    def ack(self, consumer: Consumer, tag: int) -> None:
        pass

    def drop_before(self, offset: int) -> None:
        """Retention takes the oldest segments."""
        self.records = [record for record in self.records if record[0] >= offset]

    def _pump(self, consumer: Consumer) -> None:
        if consumer.position >= self.end:
            return
        for offset, delivery in self._from(consumer.position):
            consumer.give(offset, delivery)
        consumer.position = self.end

    def _from(self, position: int) -> Iterable[tuple[int, Delivery]]:
        start = len(self.records)
        while start and self.records[start - 1][0] >= position:
            start -= 1
        return self.records[start:]


HOLE = 0.01
Binding = tuple[str, str]


class Broker:
    """Exchanges, queues, streams. ``on_route`` sees every message on its arrival."""

    def __init__(self, agenda: Agenda, climate: Climate) -> None:
        self.agenda = agenda
        self.climate = climate
        self.up = True
        self.exchanges: dict[str, tuple[str, dict[Binding, None]]] = {}
        self.queues: dict[str, Queue | Stream] = {}
        self.on_route: Callable[[str, Delivery], None] = lambda _who, _delivery: None
        self.on_unrouted: Callable[[str, Delivery], None] = lambda _who, _delivery: None
        self.on_append: Callable[[str, int, Delivery], None] = lambda _name, _at, _delivery: None
        self.on_down: list[Callable[[], None]] = []
        self._stalled_until_ms = 0
        self._stalled: list[Callable[[], None]] = []

    # ---- topology -------------------------------------------------------------------------------

    def declare_exchange(self, name: str, kind: str) -> None:
        self.exchanges.setdefault(name, (kind, {}))

    def declare_queue(
        self, name: str, *, owner: object | None, durable: bool, stream: bool, passive: bool
    ) -> None:
        if name in self.queues:
            return
        if passive:
            raise QueueGoneError(f"no queue {name!r}")
        if stream:
            self.queues[name] = Stream(
                name, self.agenda, lambda offset, delivery: self.on_append(name, offset, delivery)
            )
        else:
            self.queues[name] = Queue(name, owner, durable)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        if queue not in self.queues or exchange not in self.exchanges:
            raise QueueGoneError(f"no {queue!r} or {exchange!r}")
        self.exchanges[exchange][1][queue, key] = None

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        if exchange in self.exchanges:
            self.exchanges[exchange][1].pop((queue, key), None)

    def delete_queue(self, name: str) -> None:
        self.queues.pop(name, None)
        for _, bindings in self.exchanges.values():
            for binding in [each for each in bindings if each[0] == name]:
                del bindings[binding]

    # ---- messages -------------------------------------------------------------------------------

    def arrive(self, who: str, delivery: Delivery, confirm: Callable[[bool], None]) -> None:
        """A published message: routed at once, unless the streams stand still just now."""
        key = delivery.routing_key
        stream = not delivery.exchange and isinstance(self.queues.get(key), Stream)
        if stream and (self._stalled or self.agenda.now_ms < self._stalled_until_ms):
            self._stalled.append(lambda: confirm(self.route(who, delivery)))
            return
        confirm(self.route(who, delivery))

    def route(self, who: str, delivery: Delivery) -> bool:
        self.on_route(who, delivery)
        found = [self.queues[name] for name in self._names(delivery) if name in self.queues]
        for queue in found:
            queue.add(delivery)
        if not found:
            self.on_unrouted(who, delivery)
        return bool(found)

    def _names(self, delivery: Delivery) -> list[str]:
        key = delivery.routing_key
        if not delivery.exchange:
            return [key]
        kind, bindings = self.exchanges.get(delivery.exchange, ("fanout", {}))
        names = dict.fromkeys(
            queue
            for queue, pattern in bindings
            if kind == "fanout"
            or pattern == key
            or (kind == "topic" and topic_matches(pattern, key))
        )
        return list(names)

    # ---- faults ---------------------------------------------------------------------------------

    def stall_streams(self, for_ms: int) -> None:
        """A leader is being elected: the streams take nothing for a while."""
        self._stalled_until_ms = self.agenda.now_ms + for_ms
        self.agenda.after(for_ms, self._resume_streams)

    def _resume_streams(self) -> None:
        if self.agenda.now_ms >= self._stalled_until_ms:
            stalled, self._stalled = self._stalled, []
            for action in stalled:
                action()

    def stop(self, *, wipe: bool) -> None:
        """The broker goes down. With ``wipe`` it will come back with nothing."""
        self.up = False
        self._stalled = []
        for action in list(self.on_down):
            action()
        self.exchanges.clear()
        for name, queue in list(self.queues.items()):
            if wipe or not queue.durable:
                del self.queues[name]

    def start(self) -> None:
        self.up = True

    def check_up(self) -> None:
        if not self.up:
            raise BrokerUnreachableError("connection refused")


LOST = BrokerLostError("connection lost")
NO_ARGUMENTS: Mapping[str, object] = {}
