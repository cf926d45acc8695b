"""What a worker says on the wire, sorted into channels: order counts in each, not across them.

Two effects are the same one when they have the same channel and name; their other content is then
compared field by field. Ids that a worker makes up are compared by their role.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

from worker.kapi.address import DELIVER_TO_PID
from worker.kapi.exchanges import Exchange
from worker.parking.records import Record
from worker.parking.slot_view import subject_of
from worker.parking.slot_wire import record_to_plain
from worker.trace.lines import Message

Plain = Mapping[str, object]

SLOT_LOG: Final = "slot log"
"""Stands for the exchange of records."""
PARK_EVENTS: Final = frozenset({"PARK_PARKED", "PARK_RETRIEVED", "PARK_ABANDONED"})
QUESTION: Final = "channel_status_req"
QUESTIONS: Final = ("status ", "registrar ", "sysconf")
"""Beginnings of the channels in which order means nothing."""
_FREE_FIELDS: Final = frozenset(
    {"/at_ms", "/epoch", "/seq", "/author", "/state", "/facts", "/entry/parked_at_ms"}
)
"""Of records: clocks, and copies of what is compared elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One thing said. ``channel`` and ``name`` identify it, ``subject`` tells people."""

    at_ms: int
    exchange: str
    key: str
    payload: Plain
    channel: str
    name: str
    subject: str
    headers: Plain = field(default_factory=dict)
    line: int = 0
    strict: bool = True
    """Whether it is a difference when only one side has it."""
    worker: str = ""
    reason: str = ""
    """Why a lamp was set, when the worker is ours."""

    @property
    def is_direct(self) -> bool:
        """Published to a direct exchange: seen only when its key was tapped."""
        return self.exchange in {Exchange.CALLCTL, Exchange.TARGETED}

    @property
    def ignored(self) -> frozenset[str]:
        """Pointers that may differ."""
        return _FREE_FIELDS if self.exchange == SLOT_LOG else frozenset()


def effect_of(
    exchange: str, key: str, headers: Plain, payload: Plain, at_ms: int
) -> Effect | None:
    """The effect a message is, whoever sent it; None for what no worker says."""

    def said(name: str) -> str:
        value = payload.get(name)
        return value if isinstance(value, str) else ""

    event, call_id = said("Event-Name"), said("Call-ID")
    channel = name = ""
    strict = True
    match exchange:
        case Exchange.CALLCTL if event == "command":
            channel = f"commands {key} {_text(headers.get(DELIVER_TO_PID))}"
            name = said("Application-Name")
            subject = f"{name} for {call_id}"
        case Exchange.TARGETED if event in {"action.accepted", "action.result"}:
            channel, name = f"replies {said('Msg-ID')}", event
            subject = f"{name} for {call_id}"
        case Exchange.CALLEVT if event in PARK_EVENTS:
            channel, name = f"park events {call_id}", event
            subject = f"{name} for {call_id}"
        case Exchange.CALLEVT if event == QUESTION:
            channel, name = f"status {call_id}", event
            subject = f"status query for {call_id}"
        case Exchange.PRESENCE if event == "dialog_update":
            channel, name = f"lamp {said('Presence-ID')}", f"{said('State')} {call_id}"
            subject = f"lamp {said('Presence-ID')} {said('State')} for {call_id}"
        case Exchange.REGISTRAR if event == "reg_query":
            channel, name = f"registrar {key}", event
            subject = f"registrar query for {said('Username')}"
        case Exchange.SYSCONF if event == "get_req":
            channel, name, strict = "sysconf", _text(payload.get("Key")), False
            subject = f"sysconf query for {name}"
        case _:
            return None
    return Effect(
        at_ms=at_ms,
        exchange=str(exchange),
        key=key,
        headers=headers,
        payload=payload,
        channel=channel,
        name=name,
        subject=subject,
        strict=strict,
    )


def recorded_effect(message: Message) -> Effect | None:
    """As `effect_of`, of a line in a trace."""
    if message.payload is None:
        return None
    effect = effect_of(
        message.exchange, message.key, message.headers, message.payload, message.at_ms
    )
    return None if effect is None else replace(effect, line=message.number)


def record_effect(record: Record, at_ms: int, *, line: int = 0) -> Effect | None:
    """A record a session asks for; None for those about workers and the log."""
    session = subject_of(record)
    if session is None:
        return None
    plain = record_to_plain(record)
    kind = str(plain["t"])
    return Effect(
        at_ms=at_ms,
        exchange=SLOT_LOG,
        key="",
        payload=plain,
        channel=f"records {session}",
        name=f"{kind} by {record.author}",
        subject=f"record {kind} of session {session}",
        line=line,
    )


# ---- ids ----------------------------------------------------------------------------------------


def made_up_ids(payload: Plain, pointer: str = "") -> Iterator[tuple[str, str]]:
    """(pointer, id) of every id a worker makes up: each Msg-ID, and the Call-ID of a command that
    waits inside an endpoint (contract §4.11)."""
    for name, value in payload.items():
        place = f"{pointer}/{name}"
        if isinstance(value, str):
            inside = pointer.endswith("/Set-Caller-ID") and name == "Call-ID"
            if name == "Msg-ID" or inside:
                yield place, value
        elif isinstance(value, dict):
            yield from made_up_ids(value, place)
        elif isinstance(value, list):
            for number, item in enumerate(value):
                if isinstance(item, dict):
                    yield from made_up_ids(cast("Plain", item), f"{place}/{number}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
