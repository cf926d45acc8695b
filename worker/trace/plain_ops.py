"""Operations and log changes as plain values: what the journal writes and replay compares."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import cast

from worker.engine.ops import Append, Bind, DeadLetter, Log, Op, Publish, Settle, Unbind
from worker.errors import MalformedMessageError
from worker.kapi.exchanges import Exchange
from worker.parking import changes
from worker.parking.changes import Change
from worker.parking.events import App
from worker.parking.model import ReleaseReason, SessionId, SlotEntry
from worker.parking.slot_wire import entry_from_plain, entry_to_plain, record_to_plain

Plain = dict[str, object]

_CHANGE_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        changes.ClaimDecided,
        changes.RetrieveDecided,
        changes.RetrieveEnded,
        changes.Released,
        changes.ReleaseRefused,
        changes.Swapped,
        changes.SessionOpened,
        changes.SessionClosed,
        changes.SessionMoved,
        changes.WorkerJoined,
        changes.WorkerGone,
    )
}
_ENTRY_FIELDS = frozenset({"entry", "previous", "before", "after"})


def op_to_plain(op: Op) -> Plain:
    """``op`` names the kind."""
    match op:
        case Publish():
            plain: Plain = {
                "op": "publish",
                "exchange": op.exchange.value,
                "key": op.routing_key,
                "payload": op.payload,
                "headers": dict(op.headers),
                "mandatory": op.mandatory,
            }
            plain |= {} if op.session is None else {"session": op.session}
            return plain | ({} if op.app is None else {"app": op.app.value})
        case Bind() | Unbind():
            return {"op": type(op).__name__.lower(), "call_id": op.call_id}
        case Append():
            return {"op": "append", "record": record_to_plain(op.record)}
        case Settle():
            return {"op": "settle", "tag": op.tag}
        case DeadLetter():
            return {
                "op": "dead_letter",
                "body_base64": base64.b64encode(op.body).decode("ascii"),
                "reason": op.reason,
                "pointer": op.pointer,
                "exchange": op.exchange,
                "key": op.routing_key,
            }
        case Log():
            return {"op": "log", "event": op.event, "level": op.level, "fields": dict(op.fields)}


def publish_from_plain(plain: Mapping[str, object]) -> Publish:
    """What was returned as unroutable. Raises MalformedMessageError."""
    payload, headers = plain.get("payload"), plain.get("headers")
    session, app = plain.get("session"), plain.get("app")
    try:
        return Publish(
            exchange=Exchange(str(plain.get("exchange"))),
            routing_key=str(plain.get("key")),
            payload=payload if isinstance(payload, dict) else {},
            headers=headers if isinstance(headers, dict) else {},
            mandatory=plain.get("mandatory") is True,
            session=SessionId(session) if isinstance(session, str) else None,
            app=None if app is None else App(app),
        )
    except ValueError as error:
        raise MalformedMessageError(str(error), "/op") from error


def change_to_plain(change: Change) -> Plain:
    """``change`` names the kind."""
    plain: Plain = {"change": type(change).__name__}
    for item in fields(change):
        value = getattr(change, item.name)
        if isinstance(value, SlotEntry):
            plain[item.name] = entry_to_plain(value)
        elif isinstance(value, Enum):
            plain[item.name] = value.value
        else:
            plain[item.name] = value
    return plain


def change_from_plain(plain: Mapping[str, object]) -> Change:
    """Raises MalformedMessageError."""
    kind = _CHANGE_KINDS.get(str(plain.get("change")))
    if kind is None:
        raise MalformedMessageError("not a change of the slot table", "/change")
    values: Plain = {}
    try:
        for item in fields(kind):
            value = plain.get(item.name)
            if item.name in _ENTRY_FIELDS and isinstance(value, dict):
                value = entry_from_plain(value, f"/{item.name}")
            elif item.name == "outcome":
                claim = kind is changes.ClaimDecided
                value = (changes.ClaimOutcome if claim else changes.RetrieveOutcome)(value)
            elif item.name == "reason":
                value = ReleaseReason(str(value))
            values[item.name] = value
        return cast("Change", kind(**values))
    except (ValueError, TypeError) as error:
        raise MalformedMessageError(str(error), "/change") from error
