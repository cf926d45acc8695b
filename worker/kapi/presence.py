"""Lamps: dialog updates out, probes and resets in (contract §5).

Kamailio pastes our values into XML unescaped, and its buffers are fixed: a caller's name must not
be able to blank a lamp or crash it. So everything is escaped and capped here, and what cannot be
made safe without changing the lamp's identity is refused with UnlightableError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from worker.errors import WorkerError
from worker.kapi import envelope, keys
from worker.kapi.fields import Payload, required_text, text
from worker.parking.lamp import Lamp
from worker.parking.model import PresenceType

LAMP_APP: Final = "park"
"""App-Name of lamp updates: with fast pick-up it is part of the row's key, never change it."""
TEXT_BYTES: Final = 255
"""Cap of names and URIs, in bytes after escaping."""
CALL_ID_BYTES: Final = 128
"""Declared width of Kamailio's column."""
UNKNOWN: Final = "unknown"
"""Shown for a caller without name and number."""

_FROM_TAG: Final = "A"
_TO_TAG: Final = "B"
_ENTITIES: Final[Mapping[str, str]] = MappingProxyType(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
)
# Control characters and what XML cannot hold at all.
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NOT_IN_URI: Final = re.compile(r"[\s<>\"]")
_NOT_IN_PRESENTITY: Final = re.compile(r"[\s<>\"&@\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class UnlightableError(WorkerError):
    """This slot cannot have a lamp; ``str(error)`` says why. The call is parked without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogUpdate:
    """One message for the ``presence`` exchange."""

    key: str
    payload: dict[str, object]


def dialog_update(
    lamp: Lamp, state: PresenceType, *, expires_s: int, node: str, msg_id: str
) -> DialogUpdate:
    """The lamp shows ``state`` (§5.1); Kamailio keeps that for ``expires_s`` seconds.

    A ``terminated`` of the same lamp repeats Call-ID, Switch-URI and App-Name of what was lit.
    Raises UnlightableError.
    """
    user, realm = lamp.user, lamp.realm
    _check_presentity(user, realm)
    call_id = _lamp_call_id(lamp.call_id)
    key = keys.dialog(realm, call_id)
    if not keys.fits(key):
        raise UnlightableError(f"the lamp's routing key is longer than {keys.MAX_KEY_BYTES} bytes")
    slot_uri = f"sip:{user}@{realm}"
    payload = envelope.headers(
        "presence", "dialog_update", node=node, msg_id=msg_id, app_name=LAMP_APP
    ) | {
        "Presence-ID": f"{user}@{realm}",
        "From": slot_uri,
        "From-User": user,
        "From-Realm": realm,
        "From-Tag": _FROM_TAG,
        "To": _caller_uri(lamp),
        "To-User": _caller_name(lamp),
        "To-Realm": realm,
        "To-Tag": _TO_TAG,
        "To-URI": slot_uri,
        "State": state.value,
        "Call-ID": call_id,
        "Direction": "recipient",
        "Expires": expires_s,
        "Event-Package": "dialog",
    }
    switch_uri = escape(lamp.switch_uri)
    if switch_uri:
        payload["Switch-URI"] = switch_uri
    return DialogUpdate(key=key, payload=payload)


def escape(value: str, max_bytes: int = TEXT_BYTES) -> str:
    """``value`` safe inside XML: control characters gone, ``& < > "`` as entities.

    At most ``max_bytes`` bytes of UTF-8; no entity and no character is cut in two.
    """
    clean = _CONTROLS.sub("", value)
    if _ENTITIES.keys().isdisjoint(clean) and len(clean.encode()) <= max_bytes:
        return clean
    pieces = []
    room = max_bytes
    for char in clean:
        piece = _ENTITIES.get(char, char)
        room -= len(piece.encode())
        if room < 0:
            break
        pieces.append(piece)
    return "".join(pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Somebody asks whether ``user@realm`` is lit."""

    user: str
    realm: str


def parse_probe(payload: Payload) -> Probe | None:
    """A presence probe (§5.5), or None when it asks for another event package.

    Raises MalformedMessageError.
    """
    if required_text(payload, "Event-Package") != "dialog":
        return None
    return Probe(user=required_text(payload, "Username"), realm=required_text(payload, "Realm"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Kamailio forgets the lamps of ``user@realm``; ``user`` ``*``: of the whole realm."""

    user: str
    realm: str


def parse_reset(payload: Payload) -> Reset | None:
    """A presence reset (§5.6), or None when it is about another event package.

    Raises MalformedMessageError.
    """
    if text(payload, "Event-Package") not in {"", "dialog"}:
        return None
    return Reset(user=required_text(payload, "Username"), realm=required_text(payload, "Realm"))


def _check_presentity(user: str, realm: str) -> None:
    """User and realm are the lamp's identity: they cannot be changed to make them safe."""
    for name, value in (("user", user), ("realm", realm)):
        if not value:
            raise UnlightableError(f"the lamp's {name} is empty")
        if _NOT_IN_PRESENTITY.search(value):
            raise UnlightableError(f"the lamp's {name} has characters no presence URI can carry")
    if len(f"sip:{user}@{realm}".encode()) > TEXT_BYTES:
        raise UnlightableError(f"the lamp's URI is longer than {TEXT_BYTES} bytes")


def _lamp_call_id(call_id: str) -> str:
    if not call_id:
        raise UnlightableError("the Call-ID is empty")
    if _CONTROLS.search(call_id):
        raise UnlightableError("the Call-ID has control characters")
    # One byte more than allowed shows whether it was cut.
    escaped = escape(call_id, 8 * CALL_ID_BYTES)
    if len(call_id) > CALL_ID_BYTES or len(escaped.encode()) > CALL_ID_BYTES:
        raise UnlightableError(f"the Call-ID is longer than {CALL_ID_BYTES} bytes")
    return escaped


def _caller_name(lamp: Lamp) -> str:
    """Never empty: a phone shows it beside the lamp."""
    names = (lamp.caller_name, lamp.caller_number)
    shown = (escape(name.strip()).strip() for name in names)
    return next((name for name in shown if name), UNKNOWN)


def _caller_uri(lamp: Lamp) -> str:
    """A bare URI, never empty: without it the update is refused and the lamp goes off."""
    number = lamp.caller_number or UNKNOWN
    uris = (lamp.caller_uri, f"{number}@{lamp.realm}")
    bare = (escape(_NOT_IN_URI.sub("", uri)) for uri in uris)
    return next(uri for uri in bare if uri)
