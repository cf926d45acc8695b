"""Clock, timers, identifiers and the way out: what all parts of the switch share. Pure."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from worker.switch.plan import SwitchPlan
from worker.switch.wire import Incoming, Outgoing, Payload, encode, gregorian_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the transcript. ``direction``: ``in`` (from the worker) or ``out``."""

    at_ms: int
    direction: str
    exchange: str
    routing_key: str
    payload: Payload
    headers: Mapping[str, object]
    dropped: str = ""
    """Why the message had no effect; empty: it had."""

    @property
    def name(self) -> str:
        """The shortest word for what it is: command, state, park event or Event-Name."""
        command = self.payload.get("Application-Name")
        if self.exchange == "callctl" and isinstance(command, str):
            return command
        name = self.payload.get("Event-Name")
        return name if isinstance(name, str) else "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing that happened to a call: commands by application, events by their name."""

    at_ms: int
    name: str
    payload: Payload


@dataclass(slots=True)
class Timer:
    """A deadline; ``cancelled`` ones are skipped when due."""

    action: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(slots=True, kw_only=True)
class World:
    """Shared state. ``now_ms`` is set by the core before anything runs."""

    name: str
    plan: SwitchPlan
    now_ms: int = 0
    outgoing: list[Outgoing] = field(default_factory=list)
    transcript: list[Line] = field(default_factory=list)
    notes: dict[str, list[Note]] = field(default_factory=dict)
    listeners: list[Callable[[str, Payload], None]] = field(default_factory=list)
    """Called with (Call-ID, payload) for each call event, as cf_exe gets them."""
    _timers: list[tuple[int, int, Timer]] = field(default_factory=list)
    _count: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def node(self) -> str:
        """This ecallmgr's node name."""
        return f"ecallmgr@{self.name}"

    def new_id(self, kind: str) -> str:
        """An identifier nobody else has."""
        return f"{kind}-{next(self._count)}-{self.name}"

    def new_hex(self) -> str:
        """32 lower-case hex digits, unique in this world."""
        return f"{next(self._count):08x}{self.name.encode().hex():0>24}"[:32]

    def new_pid(self) -> str:
        return f"<0.{1000 + next(self._count)}.0>"

    # ---- time

    def after(self, delay_ms: int, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        heapq.heappush(self._timers, (self.now_ms + delay_ms, next(self._count), timer))
        return timer

    def run_due(self) -> None:
        """Run every timer that is due; timers set meanwhile run when due too."""
        while self._timers and self._timers[0][0] <= self.now_ms:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.action()

    @property
    def next_deadline_ms(self) -> int | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    # ---- what happened

    def note(self, call_id: str, name: str, payload: Payload) -> None:
        self.notes.setdefault(call_id, []).append(
            Note(at_ms=self.now_ms, name=name, payload=payload)
        )

    def record(self, line: Line) -> None:
        self.transcript.append(line)
        limit = self.plan.transcript_limit
        if limit is not None and len(self.transcript) > 2 * limit + 100:
            del self.transcript[: len(self.transcript) - limit]

    def received(self, message: Incoming, payload: Payload, dropped: str = "") -> None:
        self.record(
            Line(
                at_ms=self.now_ms,
                direction="in",
                exchange=message.exchange,
                routing_key=message.routing_key,
                payload=payload,
                headers=dict(message.headers),
                dropped=dropped,
            )
        )

    def publish(self, message: Outgoing) -> None:
        self.outgoing.append(message)
        self.record(
            Line(
                at_ms=self.now_ms,
                direction="out",
                exchange=message.exchange,
                routing_key=message.routing_key,
                payload=message.payload,
                headers=message.headers,
            )
        )

    def call_event(
        self, call_id: str, name: str, fields: Payload, *, category: str = "call_event"
    ) -> None:
        """Publish on ``callevt`` and hand it to the flows (contract §3.1, §3.7)."""
        payload: Payload = {
            "Event-Category": category,
            "Event-Name": name,
            "Call-ID": call_id,
            "Msg-ID": f"{self.now_ms / 1000:.6f}.{next(self._count)}",
            "Timestamp": gregorian_s(self.now_ms),
            "App-Name": "ecallmgr",
            "App-Version": "4.0.0",
            "Node": self.node,
            **fields,
        }
        headers: dict[str, object] = {}
        if name.startswith("CHANNEL_"):
            header = call_id.encode() if self.plan.byte_array_headers else call_id
            headers = {"call-id": bytearray(header) if isinstance(header, bytes) else header}
        key = f"call.{name}.{encode(call_id)}"
        self.publish(
            Outgoing(exchange="callevt", routing_key=key, payload=payload, headers=headers)
        )
        self.note(call_id, name, payload)
        for listener in tuple(self.listeners):
            listener(call_id, payload)
