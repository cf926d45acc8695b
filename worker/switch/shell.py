"""The simulated Kazoo on a broker: a thin asyncio shell around `SwitchCore`.

Speaks to the worker only through the `Link` port, so it runs on RabbitMQ and in memory. Every
message is stamped with gregorian microseconds, as Kazoo does (contract §1.3).
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TypeVar

from worker.broker.port import Delivery, Link
from worker.errors import BrokerLostError, WorkerError
from worker.switch.callflow import Flow
from worker.switch.core import SwitchCore
from worker.switch.plan import CallPlan, Device, Ring, SwitchPlan
from worker.switch.wire import GREGORIAN_EPOCH_S, JSON_TYPE, FlowResult, Incoming, Outgoing
from worker.switch.world import Line, Note

EXCHANGES: Mapping[str, str] = {
    "kapps": "topic",
    "targeted": "direct",
    "callctl": "direct",
    "callevt": "topic",
    "presence": "topic",
    "sysconf": "topic",
    "configuration": "topic",
    "registrar": "topic",
    "nodes": "fanout",
}
QUEUE_ARGUMENTS: Mapping[str, object] = {"x-max-length": 10_000, "x-message-ttl": 60_000}
"""As Kazoo's own queues, with room for load (contract §1.2)."""


Answer = TypeVar("Answer")


class NotSeenError(WorkerError):
    """Something a test or demo waited for did not happen in time."""


class SimCall:
    """One placed call: what its party does, and what happened to it."""

    def __init__(self, switch: Switch, flow: Flow) -> None:
        self._switch = switch
        self._flow = flow

    def __repr__(self) -> str:
        return f"<SimCall {self.call_id} {self._flow.ended or 'running'}>"

    @property
    def call_id(self) -> str:
        """The current one: it follows CHANNEL_REPLACED."""
        return self._flow.call_id

    @property
    def flow(self) -> Flow:
        return self._flow

    @property
    def events(self) -> Sequence[Note]:
        """Everything about this call so far: commands by application, events by name."""
        return self._switch.core.world.notes.get(self.call_id, ())

    def names(self) -> list[str]:
        """The names of `events`, in order."""
        return [note.name for note in self.events]

    def count(self, name: str) -> int:
        return self.names().count(name)

    @property
    def result(self) -> FlowResult | None:
        """The first action.result."""
        return self._flow.result

    @property
    def ended(self) -> str:
        """How the flow ended, empty while it runs (see `Flow.ended`)."""
        return self._flow.ended

    @property
    def alive(self) -> bool:
        return self._switch.core.channels.living(self.call_id) is not None

    @property
    def other_leg(self) -> str:
        """Call id this channel is bridged to, or empty."""
        channel = self._switch.core.channels.living(self.call_id)
        return channel.other_leg if channel is not None else ""

    @property
    def hears(self) -> str:
        """The application it executes now (``hold``, ``bridge``...), or empty."""
        channel = self._switch.core.channels.living(self.call_id)
        return channel.running.name if channel is not None and channel.running is not None else ""

    async def wait_for(self, name: str, timeout_s: float = 5.0, *, times: int = 1) -> Note:
        """The ``times``-th note of that name. Raises NotSeenError."""

        def found() -> bool:
            return self.count(name) >= times

        await self._switch.wait_until(found, timeout_s, f"{name} of {self.call_id}")
        return [note for note in self.events if note.name == name][times - 1]

    async def wait_result(self, timeout_s: float = 5.0) -> FlowResult:
        """The action.result. Raises NotSeenError."""
        await self._switch.wait_until(
            lambda: self.result is not None, timeout_s, f"a result for {self.call_id}"
        )
        return self._flow.results[0]

    def hangup(self, cause: str = "NORMAL_CLEARING") -> None:
        self._switch.do(lambda core: core.hang_up(self.call_id, cause))

    def vanish(self) -> None:
        """Gone without any event."""
        self._switch.do(lambda core: core.vanish(self.call_id))

    def replace(self, new_call_id: str, *, direct: bool = False) -> None:
        self._switch.do(lambda core: core.replace_call(self.call_id, new_call_id, direct=direct))

    def refuse(self, application: str, how: str = "error") -> None:
        """Its next such command fails; see `SwitchCore.refuse`."""
        self._switch.do(lambda core: core.refuse(self.call_id, application, how))


class Switch:
    """The simulated Kazoo on one link. ``async with Switch(link) as switch: ...``"""

    def __init__(self, link: Link, *, plan: SwitchPlan | None = None, name: str = "") -> None:
        self.link = link
        self.core = SwitchCore(name or f"sim-{uuid.uuid4().hex[:8]}.example.com", plan)
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._watchers: list[Callable[[Line], None]] = []
        self._reported = 0

    async def __aenter__(self) -> Switch:
        await self.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Declare Kazoo's exchanges and this switch's queues, and consume."""
        core, link = self.core, self.link
        for exchange, kind in EXCHANGES.items():
            await link.declare_exchange(exchange, kind)
        bindings: Mapping[str, Sequence[tuple[str, str]]] = {
            core.control_queue: (
                ("callctl", core.control_queue),
                ("targeted", core.control_queue),
            ),
            core.controller_queue: (("targeted", core.controller_queue),),
            core.status_queue: (("callevt", "call.status_req.*"),),
            core.presence_queue: (("presence", "dialog.*.*"),),
            core.watch_queue: tuple(
                ("callevt", f"call.PARK_{what}.*") for what in ("PARKED", "RETRIEVED", "ABANDONED")
            ),
            core.sysconf_queue: (("sysconf", "sysconf.get"),),
            core.registrar_queue: (("registrar", "registration.query.*.*"),),
        }
        for queue, keys in bindings.items():
            await link.declare_queue(queue, auto_delete=True, arguments=QUEUE_ARGUMENTS)
            for exchange, key in keys:
                await link.bind(queue, exchange, key)
            await link.consume(queue, self._deliver, no_ack=True)

    async def attach(self, link: Link) -> None:
        """Go on over a new link after the old one was lost; channels and flows live on."""
        self.link = link
        await self.start()

    async def close(self) -> None:
        """Stop the clock. The link belongs to the caller."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- people

    def device(self, device_id: str, *, rings: Sequence[Ring] = (), **fields: str) -> Device:
        """A phone of the account. ``fields``: username, number, name, account, realm."""
        device = self.core.devices.get(device_id)
        if device is None:
            device = Device(id=device_id, username=fields.pop("username", device_id))
            self.core.devices[device_id] = device
        for name, value in fields.items():
            setattr(device, name, value)
        if rings:
            device.rings = list(rings)
        return device

    async def place_call(self, plan: CallPlan) -> SimCall:
        """The call reaches its park node: an action.execute is published (mandatory)."""
        flow = self.do(lambda core: core.place(plan))
        await asyncio.sleep(0)
        return SimCall(self, flow)

    def do(self, action: Callable[[SwitchCore], Answer]) -> Answer:
        """Run something on the core now and publish what comes of it."""
        self._publish(self.core.tick(_now_ms()))
        result = action(self.core)
        self._publish(self.core.tick(_now_ms()))
        return result

    # ---- what there is to see

    @property
    def transcript(self) -> Sequence[Line]:
        """All messages in and out, in order."""
        return self.core.world.transcript

    @property
    def dropped(self) -> Sequence[Line]:
        """What the worker sent in vain, with the reason."""
        return self.core.dropped

    @property
    def lamps(self) -> Mapping[str, str]:
        """Presentity (``user@realm``) → ``off``, ``early``, ``confirmed`` or ``blank``."""
        return {who: lamp.shown for who, lamp in self.core.kamailio.lamps.items()}

    def lamp(self, presentity: str) -> str:
        return self.core.kamailio.shown(presentity)

    def watch(self, presentity: str) -> None:
        """A phone subscribes to the lamp."""
        self.do(lambda core: core.kamailio.watch(presentity))

    def on_line(self, watcher: Callable[[Line], None]) -> None:
        """Call ``watcher`` with each line of the transcript once it is there."""
        self._watchers.append(watcher)

    async def wait_until(self, fact: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Until ``fact`` holds; looked at after each message and timer. Raises NotSeenError."""
        if fact():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (fact, future)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise NotSeenError(f"not seen within {timeout_s:g} s: {what}") from None
        finally:
            self._waiters.remove(entry)

    async def wait_lamp(self, presentity: str, shown: str, timeout_s: float = 5.0) -> None:
        await self.wait_until(
            lambda: self.lamp(presentity) == shown, timeout_s, f"lamp {presentity} {shown}"
        )

    # ---- the shell

    def _deliver(self, delivery: Delivery) -> None:
        message = Incoming(
            queue=delivery.queue,
            exchange=delivery.exchange,
            routing_key=delivery.routing_key,
            body=delivery.body,
            content_type=delivery.content_type,
            headers=delivery.headers,
        )
        self._publish(self.core.receive(message, _now_ms()))

    def _tick(self) -> None:
        self._timer = None
        self._publish(self.core.tick(_now_ms()))

    def _publish(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            future = self.link.publish(
                message.exchange,
                message.routing_key,
                json.dumps(message.payload).encode(),
                headers=message.headers or None,
                mandatory=message.mandatory,
                content_type=JSON_TYPE,
                timestamp=GREGORIAN_EPOCH_S * 1_000_000 + time.time_ns() // 1000,
            )
            future.add_done_callback(partial(self._sent, message))
        self._rearm()
        self._tell()

    def _sent(self, message: Outgoing, done: asyncio.Future[bool]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, BrokerLostError):
            return
        if error is None and not done.result() and message.mandatory:
            self.core.returned(message)
            self._tell()

    def _rearm(self) -> None:
        deadline_ms = self.core.next_deadline_ms
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline_ms is not None:
            delay_s = max(0, deadline_ms - _now_ms()) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tell(self) -> None:
        if self._watchers:
            transcript = self.core.world.transcript
            self._reported = min(self._reported, len(transcript))
            new = transcript[self._reported :]
            self._reported = len(transcript)
            for line in new:
                for watcher in self._watchers:
                    watcher(line)
        for fact, future in self._waiters:
            if not future.done() and fact():
                future.set_result(None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
