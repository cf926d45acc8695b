"""What shadow mode remembers of a call, and the words it compares in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.errors import MalformedMessageError
from worker.kapi.exchanges import Exchange
from worker.kapi.results import decode_result
from worker.trace.differences import Difference, FieldChange, Kind
from worker.trace.effects import Effect
from worker.trace.lines import Message
from worker.trace.matching import Pair
from worker.trace.routes import UNKNOWN_DEVICE

Plain = Mapping[str, object]

LOOK_AHEAD_MS: Final = 2_500
"""An answer of the switch to the platform serves our question if it comes within so long."""
TOLERANCE_MS: Final = 1_000
"""The platform's timers and ours are not started by the same message."""
SWITCH_NODE: Final = "ecallmgr@shadow"
RESULTS: Final = "flow"
"""Stands for the exchange of what the flow is told: of the platform's module it is not on any."""
_SPEAKERS: Final = frozenset(
    {"/Node", "/Msg-ID", "/Server-ID", "/App-Version", "/System-Log-ID", "/App-Name"}
)


@dataclass(slots=True)
class ShadowCall:
    """What is known of one call, for the switch's answers and for explanations."""

    answers: list[tuple[int, str]] = field(default_factory=list)
    """(when, status) of the switch's answers to the platform."""
    gone_ms: int | None = None
    happened: list[str] = field(default_factory=list)
    fetch_id: str = ""
    parks: bool = False
    """It reached a park node while we looked."""
    remote: bool = False
    """By an execute: its result is on the wire."""
    stranger: bool = False
    """It had to do with a call that was parked before we looked: not comparable."""
    told: list[Effect] = field(default_factory=list)
    would: list[Effect] = field(default_factory=list)
    disagreed: bool = False

    def status(self, at_ms: int, *, only_events: bool) -> str:
        """``only_events``: a question the platform does not ask, so nobody answered it."""
        for answered_ms, status in () if only_events else self.answers:
            if 0 <= answered_ms - at_ms <= LOOK_AHEAD_MS:
                return status
        return "terminated" if self.gone_ms is not None and self.gone_ms <= at_ms else "active"


def word(effect: Effect) -> str:
    """A short name for a rule: ``hold``, ``PARK_PARKED``, ``lamp lit``, ``result stop``."""
    if effect.exchange == Exchange.PRESENCE:
        return "lamp terminated" if effect.name.startswith("terminated ") else "lamp lit"
    if effect.exchange == RESULTS:
        return f"result {text_of(effect.payload, 'Result')}"
    return effect.name


def one_switch_node(at_ms: int) -> Message:
    """All the switch is one node to us: its one answer is everybody's."""
    payload = {
        "Event-Category": "nodes",
        "Event-Name": "advertise",
        "App-Name": "ecallmgr",
        "App-Version": "4.0.0",
        "Node": SWITCH_NODE,
        "Msg-ID": "shadow",
        "Expires": 10 * 365 * 86_400_000,
        "WhApps": {"ecallmgr": {}},
    }
    return Message(at_ms=at_ms, exchange=Exchange.NODES, key="", payload=payload)


def off_time(pair: Pair) -> Kind | None:
    delay_ms = pair.recorded.at_ms - pair.replayed.at_ms
    if delay_ms > TOLERANCE_MS:
        return Kind.LATE
    return Kind.EARLY if delay_ms < -TOLERANCE_MS else None


def is_speakers(change: FieldChange) -> bool:
    if change.pointer in _SPEAKERS or change.pointer.endswith(("/Node", "/Msg-ID", "/Server-ID")):
        return True
    return isinstance(change.replayed, str) and change.replayed.startswith(UNKNOWN_DEVICE)


def outcome_effect(call_id: str, result: str, at_ms: int) -> Effect:
    return Effect(
        at_ms=at_ms,
        exchange=RESULTS,
        key="",
        payload={"Call-ID": call_id, "Result": result},
        channel=f"flow of {call_id}",
        name="result",
        subject=f"result {result} for {call_id}",
    )


def result_of(text: str) -> str:
    try:
        term = decode_result(text)
    except MalformedMessageError:
        return "undecodable"
    return term.atom if term.argument is None else f"{term.atom} {term.argument}"


def call_of(one: Difference) -> str:
    return text_of(one.recorded or one.replayed or {}, "Call-ID")


def text_of(payload: Plain, name: str) -> str:
    value = payload.get(name)
    return value if isinstance(value, str) else ""
