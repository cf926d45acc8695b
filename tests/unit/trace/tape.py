"""A recording made without a broker: the world under a virtual clock, with a tape running."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.solo import BLIND, World, make_config
from worker import __version__
from worker.engine.config import EngineConfig
from worker.engine.ops import Publish
from worker.trace.lines import (
    Ended,
    Head,
    Line,
    Message,
    Trace,
    head_bytes,
    line_bytes,
    parse_trace,
)

HEAD = Head(started_at_ms=0)
KEYS = {"targeted": "kzpark.inbox.w1", "presence": "probes.dialog", "nodes": ""}


@dataclass
class Tape(World):
    """`World` whose messages, both ways, are kept as lines."""

    config: EngineConfig = field(default_factory=lambda: make_config(version=__version__))
    lines: list[Message] = field(default_factory=list)

    def deliver(self, body: bytes, redelivered: bool = False, age_ms: int = 0) -> None:
        self._keep("kapps", "callflow.action.park", json.loads(body), sent=self.now_ms - age_ms)
        super().deliver(body, redelivered, age_ms)

    def message(self, payload: Any, exchange: str) -> None:
        key = KEYS.get(exchange, f"call.{payload['Event-Name']}.{payload.get('Call-ID')}")
        self._keep(exchange, key, payload, sent=self.now_ms)
        super().message(payload, exchange)

    def _hear(self, op: Publish) -> None:
        headers = dict(op.headers)
        self._keep(op.exchange.value, op.routing_key, dict(op.payload), headers=headers)
        super()._hear(op)

    def _keep(
        self, exchange: str, key: str, payload: Any, *, headers: Any = None, sent: int | None = None
    ) -> None:
        self.lines.append(
            Message(
                at_ms=self.now_ms,
                exchange=exchange,
                key=key,
                payload=payload,
                headers=headers or {},
                sent_at_ms=sent,
            )
        )

    def trace(self, lines: Iterable[Line] | None = None) -> Trace:
        """What is on the tape, or these lines instead, after a way through JSON text."""
        rest: list[Line] = list(self.lines if lines is None else lines)
        return parse_trace(self.rows(rest))

    def rows(self, lines: Iterable[Line] | None = None, *, numbered: bool = False) -> list[bytes]:
        """The lines of the file it would be."""
        rest: list[Line] = list(self.lines if lines is None else lines)
        rest.append(Ended(at_ms=self.now_ms, reason="stopped"))
        body = [line_bytes(line, n if numbered else None) for n, line in enumerate(rest, 1)]
        return [row.rstrip(b"\n") for row in (head_bytes(HEAD), *body)]


def parked_and_retrieved() -> Tape:
    """A blind transfer into slot 101, retrieved by another phone."""
    tape = Tape()
    tape.execute("a", capture="101", restricted="device-1", **BLIND)
    tape.wait(1_000)
    tape.execute("c", capture="101", data={"action": "auto"})
    tape.wait(20)
    tape.event("CHANNEL_INTERCEPTED", "a", Intercepted_By="c")
    tape.completed("hold", "a")
    tape.bridge("c", "a")
    tape.bridge("a", "c")
    tape.wait(1_000)
    return tape


def ten_minutes() -> Tape:
    """Parked for ten minutes: four ringbacks nobody answers, then the caller hangs up."""
    tape = Tape()
    data = {"default_ringback_timeout": 120_000, "default_callback_timeout": 20_000}
    tape.execute("a", capture="101", restricted="device-1", data=data, **BLIND)
    for _ in range(4):
        tape.wait(120_050)
        tape.completed("hold", "a")
        tape.wait(19_000)
        cause = "NO_ANSWER"
        tape.completed("bridge", "a", Application_Response=cause, Disposition=cause)
    tape.wait(50_000)
    tape.destroy("a")
    tape.wait(1_000)
    return tape


def find(tape: Tape, name: str, *, call_id: str = "", nth: int = 0) -> int:
    """Index of the nth line whose event, command or state has that name."""
    found = []
    for index, line in enumerate(tape.lines):
        names = {line.text(key) for key in ("Event-Name", "Application-Name", "State")}
        if name in names and call_id in ("", line.text("Call-ID")):
            found.append(index)
    return found[nth]


def dropped(tape: Tape, index: int) -> Trace:
    return tape.trace([*tape.lines[:index], *tape.lines[index + 1 :]])


def changed(tape: Tape, index: int, **fields: Any) -> Trace:
    """With fields of one payload set to something else; ``_`` stands for ``-``."""
    line = tape.lines[index]
    news = {name.replace("_", "-"): value for name, value in fields.items()}
    new = replace(line, payload={**(line.payload or {}), **news})
    return tape.trace([*tape.lines[:index], new, *tape.lines[index + 1 :]])


def later(tape: Tape, index: int, by_ms: int) -> Trace:
    """With one line seen so much later."""
    line = replace(tape.lines[index], at_ms=tape.lines[index].at_ms + by_ms)
    rest = [*tape.lines[:index], *tape.lines[index + 1 :]]
    after = [n for n, other in enumerate(rest) if other.at_ms > line.at_ms]
    place = after[0] if after else len(rest)
    return tape.trace([*rest[:place], line, *rest[place:]])
