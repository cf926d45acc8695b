"""The simulated Kazoo (`worker.switch`) as a client of the simulated broker."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence

from tests.simulation.agenda import Agenda, Climate, Pipe
from tests.simulation.broker import Broker, Consumer
from worker.broker.port import Delivery
from worker.kapi.exchanges import EXCHANGE_TYPES
from worker.switch import SwitchCore, SwitchPlan
from worker.switch.wire import Incoming, Outgoing

NAME = "sim.example.com"
NODE_EXPIRES_MS = 3_600_000


class Kazoo:
    """Messages between the switch's core and the broker, each delayed, each exchange in order."""

    def __init__(self, broker: Broker, climate: Climate, plan: SwitchPlan) -> None:
        self.core = SwitchCore(NAME, plan)
        self.after_step: Callable[[], None] = lambda: None
        self.advertises = False
        """Its ecallmgr nodes say on the bus that they exist."""
        self.restart_ms = (0, 50)
        """How long it takes to come back after the broker has."""
        self.connected = False
        self._agenda: Agenda = broker.agenda
        self._broker = broker
        self._climate = climate
        self._up: dict[str, Pipe[Outgoing]] = {}
        self._tick_ms: int | None = None
        self._epoch = itertools.count()
        self._consumers: list[tuple[str, Consumer]] = []
        broker.on_down.append(self._lost)
        self.connect()

    # ---- the connection -------------------------------------------------------------------------

    def connect(self) -> None:
        """Declare what Kazoo declares and consume."""
        core, broker = self.core, self._broker
        for exchange, kind in EXCHANGE_TYPES.items():
            broker.declare_exchange(exchange.value, kind)
        self.connected = True
        for queue, keys in self._bindings().items():
            broker.declare_queue(queue, owner=self, durable=False, stream=False, passive=False)
            for exchange_name, key in keys:
                broker.bind(queue, exchange_name, key)
            self._consume(queue)
        if self.advertises:
            broker.agenda.after(500, self.advertise)
        core.tick(self._agenda.now_ms)

    def _bindings(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        core = self.core
        return {
            core.control_queue: (("callctl", core.control_queue), ("targeted", core.control_queue)),
            core.controller_queue: (("targeted", core.controller_queue),),
            core.status_queue: (("callevt", "call.status_req.*"),),
            core.presence_queue: (("presence", "dialog.*.*"),),
            core.watch_queue: tuple(
                ("callevt", f"call.PARK_{what}.*") for what in ("PARKED", "RETRIEVED", "ABANDONED")
            ),
            core.sysconf_queue: (("sysconf", "sysconf.get"),),
            core.registrar_queue: (("registrar", "registration.query.*.*"),),
        }

    def _consume(self, queue: str) -> None:
        pipe: Pipe[Delivery] = Pipe(self._agenda, self._climate, self._received)
        consumer = Consumer(tag=queue, pipe=pipe)
        self._consumers.append((queue, consumer))
        self._broker.queues[queue].attach(consumer, None)

    def _lost(self) -> None:
        self.connected = False
        for _, consumer in self._consumers:
            consumer.pipe.cut()
        self._consumers.clear()
        for pipe in self._up.values():
            pipe.cut()
        self._up.clear()

    def broker_back(self) -> None:
        delay_ms = self._agenda.random.randint(*self.restart_ms)
        self._agenda.after(delay_ms, lambda: None if self.connected else self.connect())

    # ---- messages -------------------------------------------------------------------------------

    def _received(self, delivery: Delivery) -> None:
        incoming = Incoming(
            queue=delivery.queue,
            exchange=delivery.exchange,
            routing_key=delivery.routing_key,
            body=delivery.body,
            content_type=delivery.content_type,
            headers=delivery.headers,
        )
        self._send(self.core.receive(incoming, self._agenda.now_ms))

    def do(self, action: Callable[[SwitchCore], object]) -> None:
        """Somebody does something with a phone."""
        self._send(self.core.tick(self._agenda.now_ms))
        action(self.core)
        self._send(self.core.tick(self._agenda.now_ms))

    def _send(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            if self.connected:
                pipe = self._up.get(message.exchange)
                if pipe is None:
                    pipe = self._up[message.exchange] = Pipe(
                        self._agenda, self._climate, self._publish
                    )
                pipe.put(message)
        self.after_step()
        at_ms = self.core.next_deadline_ms
        if at_ms is not None and (self._tick_ms is None or at_ms < self._tick_ms):
            self._tick_ms = at_ms
            self._agenda.at(at_ms, lambda: self._ticked(at_ms))

    def _ticked(self, at_ms: int) -> None:
        if self._tick_ms == at_ms:
            self._tick_ms = None
            self._send(self.core.tick(self._agenda.now_ms))

    def _publish(self, message: Outgoing) -> None:
        if not self.connected:
            return
        delivery = Delivery(
            queue="",
            exchange=message.exchange,
            routing_key=message.routing_key,
            body=json.dumps(message.payload).encode(),
            content_type="application/json",
            sent_at_ms=self._agenda.now_ms,
            headers={key: _text(value) for key, value in message.headers.items()},
        )
        routed: list[bool] = []
        self._broker.arrive("switch", delivery, routed.append)
        if message.mandatory and routed == [False]:
            self.core.returned(message)

    def advertise(self) -> None:
        """The ecallmgr nodes' advertisements (contract §10)."""
        for number in range(self.core.world.plan.ecallmgr_nodes):
            payload: dict[str, object] = {
                "Event-Category": "nodes",
                "Event-Name": "advertise",
                "App-Name": "ecallmgr",
                "App-Version": "4.0.0",
                "Node": f"ecallmgr{number or ''}@{NAME}",
                "Msg-ID": f"advertise-{number}-{self._agenda.now_ms}",
                "Expires": NODE_EXPIRES_MS,
                "WhApps": {"ecallmgr": {"Startup": 63_962_611_259}},
            }
            self._send([Outgoing(exchange="nodes", routing_key="", payload=payload)])


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes | bytearray) else value
