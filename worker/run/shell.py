"""The thin shell around the engine: sockets, one timer, and the order of things.

Inputs (messages, log changes, broker notices) are queued and fed to the engine one after another,
but only while the gate is open: connected, caught up with the log, and not possibly replaced by
another worker (`Replica.lease_ok`). A worker that was frozen therefore finds out who owns its calls
before it says a word (design §5).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import tenacity

from worker.broker.port import Delivery, Link
from worker.engine.engine import Engine
from worker.engine.ops import Append, Bind, DeadLetter, Log, Op, Publish, Settle, Unbind
from worker.errors import BrokerError, BrokerLostError, BrokerTooOldError
from worker.kapi import keys
from worker.kapi.exchanges import Exchange
from worker.ops.logs import stack
from worker.parking.changes import Change
from worker.parking.model import CallId
from worker.parking.slots import SlotTable
from worker.replica.follower import Replica
from worker.run.outbox import Outbox
from worker.run.topology import Queues, declare

OpenLink = Callable[[], Awaitable[Link]]
WriteLog = Callable[[str, str, dict[str, object]], None]

UNBIND_AFTER_S = 5.0
"""An old binding stays a little: events under way still find their call (contract §3.4)."""
GATE_POLL_S = 0.02
CONFIG_WAIT_S = 1.0
DRAIN_S = 0.4
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 2.0
CLOSE_S = 2.0


async def _poll(done: Callable[[], bool], timeout_s: float) -> None:
    """Wait until ``done``, at most so long."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + timeout_s
    while not done() and loop.time() < until_s:  # noqa: ASYNC110 - both ends are rare
        await asyncio.sleep(GATE_POLL_S)


async def _unless(stopped: asyncio.Task[bool], work: Coroutine[Any, Any, None]) -> bool:
    """Do ``work``, but give it up at the stop. Returns whether it was done."""
    task = asyncio.create_task(work)
    waiting: set[asyncio.Future[Any]] = {stopped, task}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.wait({task})
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """Something for the engine. ``lasting``: still true on the next connection."""

    apply: Callable[[int], None]
    lasting: bool


class Shell:
    """One worker process's I/O. `run` returns when ``stop`` is set."""

    def __init__(
        self,
        *,
        engine: Engine,
        replica: Replica,
        table: SlotTable,
        queues: Queues,
        open_link: OpenLink,
        now_ms: Callable[[], int],
        write_log: WriteLog,
        prefetch: int,
    ) -> None:
        self._engine = engine
        self._replica = replica
        self._table = table
        self._queues = queues
        self._open_link = open_link
        self._now_ms = now_ms
        self._write_log = write_log
        self._prefetch = prefetch
        self._outbox = Outbox(now_ms=now_ms, on_returned=self._returned)
        self._inputs: deque[_Input] = deque()
        self._link: Link | None = None
        self._serving = False
        self._was_shut = False
        self._troubles = 0
        self._work_consumer = ""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unbinding: dict[CallId, asyncio.TimerHandle] = {}

    # ---- life ----------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, *, once: bool = False) -> None:
        """Connect, serve, reconnect, until ``stop``; then hand over and leave.

        With ``once`` a broker that cannot be reached at the start raises BrokerUnreachableError.
        A broker that is too old raises BrokerTooOldError at once."""
        stopped: asyncio.Task[bool] = asyncio.create_task(stop.wait())
        try:
            first = True
            while not stop.is_set():
                link = await self._connect(stopped, patient=not (once and first))
                if link is None:
                    break
                first = await self._serve_one(link, stopped, first=first)
        finally:
            stopped.cancel()

    async def _serve_one(
        self, link: Link, stopped: asyncio.Task[bool], *, first: bool
    ) -> bool:
        """Serve on one link until it is lost or we stop. Returns whether none was ever ready."""
        try:
            if await _unless(stopped, self._begin(link)):
                first = False
                self._troubles = 0
                waiting: set[asyncio.Future[Any]] = {stopped, link.closed}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if stopped.done() and not link.closed.done():
                    await self._leave(link)
            elif not link.closed.done():
                await self._replica.leave()  # it may have joined already
        except BrokerError as error:
            self._write_log("broker trouble", "warning", {"reason": str(error)})
            await self._back_off(stopped)
        except Exception as error:  # whatever it is, parked callers need a worker that tries again
            self._internal_error(error)
            await self._back_off(stopped)
        finally:
            lost = link.closed.done() and not stopped.done()
            reason = link.closed.exception() if lost and not link.closed.cancelled() else None
            await self._end(link)
            if lost:
                self._write_log("connection lost", "warning", {"reason": str(reason or "")})
        return first

    async def _back_off(self, stopped: asyncio.Task[bool]) -> None:
        """Longer each time in a row, with jitter; not beyond the stop."""
        longest_s = min(BACKOFF_FIRST_S * 2**self._troubles, BACKOFF_MAX_S)
        self._troubles = min(self._troubles + 1, 8)
        await asyncio.wait({stopped}, timeout=random.uniform(longest_s / 2, longest_s))

    async def _connect(self, stopped: asyncio.Task[bool], *, patient: bool) -> Link | None:
        """A link, tried for with back-off and jitter; None when told to stop meanwhile."""
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(
                lambda error: patient
                and isinstance(error, BrokerError)
                and not isinstance(error, BrokerTooOldError)
            ),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF_FIRST_S, max=BACKOFF_MAX_S),
            before_sleep=self._not_reached,
            reraise=True,
        )

        async def open_link() -> Link:
            async for attempt in retrying:
                with attempt:
                    return await self._open_link()
            raise BrokerLostError("never tried")

        attempt = asyncio.create_task(open_link())
        waiting: set[asyncio.Future[Any]] = {stopped, attempt}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not attempt.done():
            attempt.cancel()
            await asyncio.wait({attempt})
            return None
        return attempt.result()

    def _not_reached(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait_s = round(state.next_action.sleep, 2) if state.next_action else 0
        fields = {"reason": str(error), "attempt": state.attempt_number, "again_in_s": wait_s}
        self._write_log("broker not reached", "warning", fields)

    async def _begin(self, link: Link) -> None:
        """Declare, listen, catch up, and only then serve."""
        self._link = link
        await declare(link, self._queues)
        await link.consume(self._queues.inbox, self._inbox_delivery, no_ack=True)
        await self._replica.attach(link)
        self._outbox.attach(link, self._still_ours)
        self._serving = True
        self._was_shut = False
        self._guarded(self._engine.resume, self._now_ms())
        await _poll(lambda: not self._engine.waits_for_system_config, CONFIG_WAIT_S)
        self._work_consumer = await link.consume(
            self._queues.work, self._work_delivery, prefetch=self._prefetch
        )
        calls = self._engine.sessions
        self._write_log("ready", "info", {"work": self._queues.work, "calls": calls})
        self._pump()

    async def _leave(self, link: Link) -> None:
        """SIGTERM: take nothing new, let what is in mid-step land, hand the rest over."""
        if self._work_consumer:
            await link.cancel(self._work_consumer)
        await _poll(lambda: not self._engine.unsettled or link.closed.done(), DRAIN_S)
        handed_over = self._engine.sessions
        await self._replica.leave()
        self._serving = False
        await self._outbox.drain(CLOSE_S)
        self._write_log("stopped", "info", {"handed_over": handed_over})

    async def _end(self, link: Link) -> None:
        self._serving = False
        self._link = None
        self._work_consumer = ""
        self._outbox.detach()
        self._inputs = deque(item for item in self._inputs if item.lasting)
        self._engine.links_lost()
        for handle in self._unbinding.values():
            handle.cancel()
        self._unbinding.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in list(self._tasks):
            task.cancel()
        await self._replica.detach()
        await link.close()

    # ---- inputs --------------------------------------------------------------------------------

    def _work_delivery(self, delivery: Delivery) -> None:
        self._feed(lambda now_ms: self._execute(delivery, now_ms))

    def _execute(self, delivery: Delivery, now_ms: int) -> None:
        try:
            self._engine.execute(
                delivery.body,
                tag=delivery.tag,
                sent_at_ms=delivery.sent_at_ms,
                redelivered=delivery.redelivered,
                exchange=delivery.exchange,
                routing_key=delivery.routing_key,
                now_ms=now_ms,
            )
        except Exception:  # it would come back for ever, and crash every worker in turn
            self._carry_out(
                DeadLetter(
                    body=delivery.body,
                    reason="internal error",
                    pointer="",
                    exchange=delivery.exchange,
                    routing_key=delivery.routing_key,
                )
            )
            self._carry_out(Settle(tag=delivery.tag))
            raise

    def _inbox_delivery(self, delivery: Delivery) -> None:
        self._feed(
            lambda now_ms: self._engine.message(
                delivery.body,
                exchange=delivery.exchange,
                routing_key=delivery.routing_key,
                now_ms=now_ms,
            )
        )

    def changed(self, changes: Sequence[Change]) -> None:
        """The replica applied a record. While we catch up after an outage this is queued: a session
        of ours may be waiting for just that decision."""
        if changes and (self._serving or self._engine.sessions):
            self._feed(lambda now_ms: self._engine.applied(changes, now_ms), lasting=True)

    def _returned(self, op: Publish) -> None:
        if self._serving:
            self._feed(lambda now_ms: self._engine.returned(op, now_ms))

    def _feed(self, apply: Callable[[int], None], *, lasting: bool = False) -> None:
        self._inputs.append(_Input(apply=apply, lasting=lasting))
        self._pump()

    def _pump(self) -> None:
        """Feed the engine while the gate is open; carry out what it wants."""
        if not self._serving:
            return
        if not self._replica.lease_ok():
            self._was_shut = True
            self._arm(GATE_POLL_S)
            return
        now_ms = self._now_ms()
        if self._was_shut:
            self._was_shut = False
            self._engine.let_go_of_others()
        while self._inputs:
            self._guarded(self._inputs.popleft().apply, now_ms)
        deadline_ms = self._engine.next_deadline_ms()
        if deadline_ms is not None and deadline_ms <= now_ms:
            self._guarded(self._engine.tick, now_ms)
            deadline_ms = self._engine.next_deadline_ms()
        if deadline_ms is not None:
            self._arm(max((deadline_ms - now_ms) / 1000, 0))

    def _guarded(self, step: Callable[[int], None], now_ms: int) -> None:
        """A fault of ours in one message must stop neither the others nor the worker."""
        try:
            step(now_ms)
        except Exception as error:
            self._internal_error(error)
        self._drain()

    def _internal_error(self, error: Exception) -> None:
        fields: dict[str, object] = {"error": repr(error), "trace": stack(error)}
        self._write_log("internal error", "error", fields)

    def _arm(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        at_s = loop.time() + delay_s
        if self._timer is not None:
            if not self._timer.cancelled() and abs(self._timer.when() - at_s) < 0.0005:  # noqa: PLR2004
                return
            self._timer.cancel()
        self._timer = loop.call_at(at_s, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self._pump()

    # ---- operations ----------------------------------------------------------------------------

    def _drain(self) -> None:
        while ops := self._engine.take_ops():
            for op in ops:
                try:
                    self._carry_out(op)
                except Exception as error:  # the other operations belong to other calls
                    self._internal_error(error)

    def _carry_out(self, op: Op) -> None:
        match op:
            case Publish():
                self._outbox.send(op)
            case Append():
                self._replica.append(op.record)
            case Bind():
                self._bind(op.call_id)
            case Unbind():
                self._unbind_later(op.call_id)
            case Settle():
                if self._link is not None and self._work_consumer:
                    self._link.ack(self._work_consumer, op.tag)
            case DeadLetter():
                self._outbox.dead_letter(op, self._queues.dead)
            case Log():
                self._write_log(op.event, op.level, dict(op.fields))

    def _bind(self, call_id: CallId) -> None:
        """What is published after it is routed after it: no need to wait for bind-ok."""
        if self._link is None:
            return
        waiting = self._unbinding.pop(call_id, None)
        if waiting is not None:  # still bound
            waiting.cancel()
        else:
            inbox, key = self._queues.inbox, keys.call_events(call_id)
            self._link.bind_in_order(inbox, Exchange.CALLEVT.value, key)
        self._engine.bound(call_id, self._now_ms())

    def _unbind_later(self, call_id: CallId) -> None:
        if self._link is None or call_id in self._unbinding:
            return
        loop = asyncio.get_running_loop()
        self._unbinding[call_id] = loop.call_later(UNBIND_AFTER_S, self._unbind, call_id)

    def _unbind(self, call_id: CallId) -> None:
        self._unbinding.pop(call_id, None)
        if self._link is not None:
            key = keys.call_events(call_id)
            self._spawn(self._link.unbind(self._queues.inbox, Exchange.CALLEVT.value, key))

    def _spawn(self, work: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await work
            except BrokerLostError:
                pass  # the link's end is noticed elsewhere
            except BrokerError as error:
                self._write_log("binding failed", "error", {"reason": str(error)})

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _still_ours(self, op: Publish) -> bool:
        """Whether a kept message is still ours to send."""
        if op.session is None:
            return True
        row = self._table.session(op.session)
        return row is None or row.owner == self._replica.worker
