"""What the engine wants done in the world. The shell carries these out, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.kapi.exchanges import Exchange
from worker.parking.events import App
from worker.parking.model import CallId, SessionId
from worker.parking.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """One message. ``session``/``app``: told back by `Engine.returned` when it is unroutable."""

    exchange: Exchange
    routing_key: str
    payload: Mapping[str, object]
    headers: Mapping[str, object] = field(default_factory=dict)
    mandatory: bool = False
    session: SessionId | None = None
    app: App | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """Bind the worker's event queue to a call; report back by `Engine.bound`."""

    call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbind:
    """No session needs the call any more; a few seconds later is soon enough."""

    call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Append a record to the slot log."""

    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """The execute with this delivery tag is in the log, or needs nothing more: acknowledge it."""

    tag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Put a message nobody can use where an operator finds it, with the reason (design §7)."""

    body: bytes
    reason: str
    pointer: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One line for the operator. ``level``: debug, info, warning or error."""

    event: str
    level: str = "info"
    fields: Mapping[str, object] = field(default_factory=dict)


Op = Publish | Bind | Unbind | Append | Settle | DeadLetter | Log
