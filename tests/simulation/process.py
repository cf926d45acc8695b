"""One simulated worker process: the real shell, replica and engine on a loop of their own."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import orjson

from tests.simulation.agenda import Agenda, Pipe
from tests.simulation.broker import LOST, NO_ARGUMENTS, Broker, Consumer
from tests.simulation.loops import VirtualLoop
from worker.broker.port import Delivery, Link, OnDelivery
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.errors import BrokerError
from worker.parking.changes import Change
from worker.parking.model import WorkerId
from worker.parking.slots import SlotTable
from worker.replica.follower import Replica
from worker.replica.vitals import Timing
from worker.run.shell import Shell
from worker.run.topology import Queues

if TYPE_CHECKING:
    from worker.parking.records import Record

PREFIX = "kzpark"
HEARTBEAT_MS = (10_000, 15_000)
"""How long the broker takes to notice a connection that is silent but not closed."""


def _settle(answer: asyncio.Future[object], failed: BrokerError | None) -> None:
    if answer.done():
        return
    if failed is None:
        answer.set_result(None)
    else:
        answer.set_exception(failed)


class Observer(Protocol):
    """Who is told what a process does."""

    def logged(self, worker: str, event: str, level: str, fields: dict[str, object]) -> None: ...

    def broken(self, worker: str, what: str) -> None: ...

    def read(self, process: Process, offset: int, record: Record) -> None: ...


@dataclass(slots=True)
class _Confirm:
    future: asyncio.Future[bool]
    routed: bool


class SimLink:
    """One connection of a process to the broker; see `worker.broker.port.Link`."""

    def __init__(self, process: Process, broker: Broker) -> None:
        agenda, climate = broker.agenda, broker.climate
        self.closed: asyncio.Future[None] = process.loop.create_future()
        self.closed.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.server_version: tuple[int, ...] = (3, 10, 8)
        self.there = True
        """The broker still has the connection."""
        self._process = process
        self._broker = broker
        self._consumers: dict[str, tuple[str, Consumer]] = {}
        self._tags = itertools.count(1)
        self._open: dict[asyncio.Future[object], None] = {}
        self._up: Pipe[Callable[[], None]] = Pipe(agenda, climate, self._arrived)
        self._asking: Pipe[Callable[[], None]] = Pipe(agenda, climate, self._arrived)
        self._answers: Pipe[Callable[[], None]] = Pipe(agenda, climate, process.inject)
        self._confirms: Pipe[_Confirm] = Pipe(agenda, climate, self._confirmed)
        broker.on_down.append(self.broken)

    # ---- the port -------------------------------------------------------------------------------

    async def declare_exchange(
        self, name: str, kind: str, *, durable: bool = False, auto_delete: bool = False
    ) -> None:
        await self._ask(lambda: self._broker.declare_exchange(name, kind))

    async def declare_queue(
        self,
        name: str,
        *,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        stream = (arguments or NO_ARGUMENTS).get("x-queue-type") == "stream"
        owner = self if exclusive else None
        await self._ask(
            lambda: self._broker.declare_queue(
                name, owner=owner, durable=durable, stream=stream, passive=passive
            )
        )

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        await self._ask(lambda: self._broker.bind(queue, exchange, key))

    def bind_in_order(self, queue: str, exchange: str, key: str) -> None:
        if not self.closed.done() and self._process.alive:
            self._up.put(lambda: self._broker.bind(queue, exchange, key))

    async def unbind(self, queue: str, exchange: str, key: str) -> None:
        await self._ask(lambda: self._broker.unbind(queue, exchange, key))

    async def delete_queue(self, name: str) -> None:
        await self._ask(lambda: self._broker.delete_queue(name))

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        *,
        no_ack: bool = False,
        prefetch: int = 0,
        arguments: Mapping[str, object] | None = None,
    ) -> str:
        tag = f"{self._process.name}.{next(self._tags)}"

        early: list[Delivery] = []
        ready = False

        def deliver(delivery: Delivery) -> None:
            if not ready:
                early.append(delivery)
            elif tag in self._consumers and not self.closed.done():
                on_delivery(delivery)

        def begin() -> None:
            """Not before the caller knows the tag (as the real adapter)."""
            nonlocal ready
            ready = True
            for delivery in early:
                deliver(delivery)

        pipe: Pipe[Delivery] = Pipe(
            self._broker.agenda,
            self._broker.climate,
            lambda delivery: self._process.inject(lambda: deliver(delivery)),
        )
        consumer = Consumer(tag=tag, pipe=pipe, prefetch=prefetch, no_ack=no_ack)
        offset = (arguments or NO_ARGUMENTS).get("x-stream-offset")
        self._consumers[tag] = (queue, consumer)

        def attach() -> None:
            self._broker.queues[queue].attach(consumer, offset)

        await self._ask(attach)
        self._process.loop.call_soon(begin)
        return tag

    async def cancel(self, consumer: str) -> None:
        known = self._consumers.pop(consumer, None)
        if known is not None:
            await self._ask(lambda: self._detach(*known))

    def ack(self, consumer: str, tag: int, *, multiple: bool = False) -> None:
        known = self._consumers.get(consumer)
        if known is not None:
            self._up.put(lambda: self._acked(*known, tag))

    def requeue(self, consumer: str, tag: int) -> None:
        raise NotImplementedError

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        headers: Mapping[str, object] | None = None,
        mandatory: bool = False,
        persistent: bool = False,
        content_type: str = "application/json",
        timestamp: int | None = None,
    ) -> asyncio.Future[bool]:
        confirm: asyncio.Future[bool] = self._process.loop.create_future()
        confirm.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.closed.done():
            confirm.set_exception(LOST)
            return confirm
        if not self._process.alive:
            return confirm
        delivery = Delivery(
            queue="",
            exchange=exchange,
            routing_key=routing_key,
            body=body,
            content_type=content_type,
            headers=dict(headers or {}),
        )
        self._open[confirm] = None  # type: ignore[index]

        def told(routed: bool) -> None:
            if self.there:
                self._confirms.put(_Confirm(confirm, routed or not mandatory))

        self._up.put(lambda: self._broker.arrive(self._process.name, delivery, told))
        return confirm

    async def close(self) -> None:
        """What was sent before still arrives."""
        if not self.closed.done():
            self._end(None)
            self._up.put(self.gone)

    # ---- both ends ------------------------------------------------------------------------------

    async def _ask(self, action: Callable[[], None]) -> None:
        if self.closed.done():
            raise LOST
        answer: asyncio.Future[object] = self._process.loop.create_future()
        self._open[answer] = None

        def work() -> None:
            try:
                action()
            except BrokerError as error:
                failed = error
                self._answers.put(lambda: _settle(answer, failed))
            else:
                self._answers.put(lambda: _settle(answer, None))

        self._asking.put(work)
        await answer
        self._open.pop(answer, None)

    def _arrived(self, action: Callable[[], None]) -> None:
        if self.there:
            action()

    def _acked(self, queue: str, consumer: Consumer, tag: int) -> None:
        found = self._broker.queues.get(queue)
        if found is not None:
            found.ack(consumer, tag)

    def _detach(self, queue: str, consumer: Consumer) -> None:
        found = self._broker.queues.get(queue)
        if found is not None and consumer in found.consumers:
            found.detach(consumer)

    def _confirmed(self, confirm: _Confirm) -> None:
        def tell() -> None:
            self._open.pop(confirm.future, None)  # type: ignore[arg-type]
            if not confirm.future.done():
                confirm.future.set_result(confirm.routed)

        self._process.inject(tell)

    def gone(self) -> None:
        """The broker notices that the connection is no more."""
        if not self.there:
            return
        self.there = False
        self._broker.on_down.remove(self.broken)
        for queue, consumer in list(self._consumers.values()):
            self._detach(queue, consumer)
        for queue_name, found in list(self._broker.queues.items()):
            if found.owner is self:
                self._broker.delete_queue(queue_name)

    def broken(self) -> None:
        """The connection breaks; both ends notice."""
        self.sever()
        self.gone()
        self._broker.agenda.after(
            self._broker.climate.delay_ms(self._broker.agenda.random),
            lambda: self._process.inject(lambda: self._end(LOST)),
        )

    def sever(self) -> None:
        """Nothing gets through any more; nobody has noticed yet."""
        self._up.cut()
        self._asking.cut()

    def _end(self, error: BrokerError | None) -> None:
        if self.closed.done():
            return
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)
        for future in list(self._open):
            if not future.done():
                future.set_exception(LOST)
                future.exception()
        self._open.clear()

    def lag_stream(self, until_ms: int) -> None:
        """What the log says reaches this process late."""
        for queue, consumer in self._consumers.values():
            if queue == f"{PREFIX}.log":
                consumer.pipe.stall(until_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Settings of all workers of a zone."""

    reconcile_ms: int = 8_000
    settle_ms: int = 1_000
    prefetch: int = 10
    timing: Timing = Timing()  # noqa: RUF009 - frozen


class Process:
    """Started, stopped, frozen, killed by the zone. ``name`` is the worker's id."""

    def __init__(
        self, name: str, broker: Broker, habits: Habits, observer: Observer, *, skew_ms: int
    ) -> None:
        self.name = name
        self.agenda: Agenda = broker.agenda
        self.broker = broker
        self.alive = True
        self.frozen = False
        self.ready = False
        """It has served once: what its table says is worth telling a new log."""
        self.loop = VirtualLoop(self.agenda, lambda what: observer.broken(name, what))
        self.link: SimLink | None = None
        self.killed_ms: int | None = None
        self._skew_ms = skew_ms
        self._waiting: deque[Callable[[], None]] = deque()
        self._wake_ms: int | None = None
        worker = WorkerId(name)
        self.table = SlotTable(loads=orjson.loads)
        queues = Queues.of(PREFIX, worker)
        self.engine = Engine(
            EngineConfig(
                worker=worker,
                node=f"kzpark@{name}",
                inbox=queues.inbox,
                reconcile_ms=habits.reconcile_ms,
                started_at_ms=self._now_ms(),
            ),
            self.table,
        )
        self.replica = Replica(
            table=self.table,
            worker=worker,
            prefix=PREFIX,
            name=name,
            settle_ms=habits.settle_ms,
            timing=replace(habits.timing, settle_ms=habits.settle_ms),
            now_ms=self._now_ms,
            on_changes=self._changed,
            on_record=lambda offset, record, _changes: observer.read(self, offset, record),
            write_log=lambda event, level, fields: observer.logged(name, event, level, fields),
        )
        self.shell = Shell(
            engine=self.engine,
            replica=self.replica,
            table=self.table,
            queues=queues,
            open_link=self._open_link,
            now_ms=self._now_ms,
            write_log=lambda event, level, fields: observer.logged(name, event, level, fields),
            prefetch=habits.prefetch,
        )
        self._stop = asyncio.Event()
        self._task = self.loop.create_task(self.shell.run(self._stop))
        self._task.add_done_callback(lambda _done: self._ended())

    def _now_ms(self) -> int:
        return self.agenda.now_ms + self._skew_ms

    def _changed(self, changes: Sequence[Change]) -> None:
        self.shell.changed(changes)

    async def _open_link(self) -> Link:
        random = self.agenda.random
        await asyncio.sleep(random.randint(1, 2 * self.broker.climate.usual_ms + 10) / 1000)
        self.broker.check_up()
        self.link = SimLink(self, self.broker)
        return self.link

    @property
    def running(self) -> bool:
        return self.alive and not self.frozen

    # ---- stepping -------------------------------------------------------------------------------

    def inject(self, action: Callable[[], None]) -> None:
        """Something reaches the process: a message, an answer, a signal."""
        if not self.alive:
            return
        if self.frozen:
            self._waiting.append(action)
            return
        self.loop.call_soon(action)
        self.step()

    def step(self) -> None:
        if not self.running:
            return
        wake_ms = self.loop.run_ready()
        if not self.alive or wake_ms is None or wake_ms == self._wake_ms:
            return
        self._wake_ms = wake_ms
        self.agenda.at(wake_ms, lambda: self._wake(wake_ms))

    def _wake(self, wake_ms: int) -> None:
        if self._wake_ms == wake_ms:
            self._wake_ms = None
            self.step()

    # ---- signals --------------------------------------------------------------------------------

    def terminate(self) -> None:
        """SIGTERM."""
        self.inject(self._stop.set)

    def freeze(self, for_ms: int) -> None:
        """SIGSTOP, and SIGCONT after ``for_ms``."""
        if not self.running:
            return
        self.frozen = True
        heartbeat_ms = self.agenda.random.randint(*HEARTBEAT_MS)
        if heartbeat_ms < for_ms and self.link is not None:
            self.agenda.after(heartbeat_ms, self.link.broken)
        self.agenda.after(for_ms, self.thaw)

    def thaw(self) -> None:
        if not self.alive or not self.frozen:
            return
        self.frozen = False
        waiting, self._waiting = self._waiting, deque()
        if self.agenda.random.random() < 0.5:  # timers before mail, or mail before timers
            self._wake_ms = None
            self.step()
        for action in waiting:
            self.inject(action)
        self._wake_ms = None
        self.step()

    def kill(self, *, silently: bool = False) -> None:
        """kill -9; ``silently``: the whole machine is gone, the broker notices by and by."""
        if not self.alive:
            return
        self.alive = False
        self.killed_ms = self.agenda.now_ms
        if self.link is not None:
            self.link.sever()
            delay_ms = self.agenda.random.randint(*(HEARTBEAT_MS if silently else (0, 30)))
            self.agenda.after(delay_ms, self.link.gone)
        self.loop.abandon()

    def _ended(self) -> None:
        """The process ends by itself, after SIGTERM."""
        if self.alive and not self._task.cancelled():
            self._task.result()
            self.alive = False
            self.agenda.after(0, self.loop.abandon)
