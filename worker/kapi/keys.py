"""Routing keys (contract §1.4 and the sections named below)."""

from __future__ import annotations

import string
from typing import Final

from worker.parking.effects import ParkEvent

MAX_KEY_BYTES: Final = 255
"""AMQP short strings (keys, queue names) hold no more."""

WORK_PREFIX: Final = "callflow.action."
WORK: Final = f"{WORK_PREFIX}park"
"""``kapps``: executes of the park module (§2.2); the module name is not encoded."""
SYSCONF_GET: Final = "sysconf.get"
"""``sysconf``: system configuration reads (§9.1)."""
PROBES: Final = "probes.dialog"
"""``presence``: a phone subscribed and asks for the state of a lamp (§5.5)."""
PRESENCE_RESETS: Final = "presence.reset.*.*"
"""``presence``: binding for every reset (§5.6)."""
PARKING_CONFIG_CHANGES: Final = "*.system_config.*.callflow%2Epark"
"""``configuration``: binding for changes of the system's ``callflow.park`` document (§9.3)."""
MEDIA_CONFIG_CHANGES: Final = "*.system_config.*.media"
"""``configuration``: binding for changes of the system's ``media`` document (§9.3)."""
NODES: Final = ""
"""``nodes`` is a fanout: its key is empty (§10)."""

_LONGEST_EVENT: Final = "CHANNEL_EXECUTE_COMPLETE"


_PLAIN: Final = frozenset(f"{string.ascii_letters}{string.digits}-_~".encode())


def _spell(byte: int) -> str:
    if byte in _PLAIN:
        return chr(byte)
    return "+" if byte == ord(" ") else f"%{byte:02X}"


_SPELLING: Final = tuple(_spell(byte) for byte in range(256))


def encode(segment: str) -> str:
    """One key segment as Kazoo's ``kz_amqp_util:encode`` writes it (§1.4).

    A segment that is exactly ``*`` or ``#`` stays, so that wildcards survive.
    """
    if segment in {"*", "#"}:
        return segment
    return "".join([_SPELLING[byte] for byte in segment.encode("utf-8", "surrogatepass")])


def fits(key: str) -> bool:
    """Whether AMQP can carry the key (or queue name): at most 255 bytes of UTF-8."""
    return len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY_BYTES


def watchable(call_id: str) -> bool:
    """Whether the events of this call can be bound and published.

    Not when it is empty, a wildcard (the binding would catch every call) or too long.
    """
    return call_id not in {"", "*", "#"} and fits(call_event(_LONGEST_EVENT, call_id))


def call_events(call_id: str) -> str:
    """``callevt`` binding for everything about one call (§3.2)."""
    return f"call.*.{encode(call_id)}"


def call_event(event_name: str, call_id: str) -> str:
    """``callevt`` key of one event of one call (§3.1)."""
    return f"call.{event_name}.{encode(call_id)}"


def status_request(call_id: str) -> str:
    """``callevt`` key of a channel status query (§3.6)."""
    return call_event("status_req", call_id)


def park_event(event: ParkEvent, call_id: str) -> str:
    """``callevt`` key of a park event (§6)."""
    return call_event(event.value, call_id)


def dialog(realm: str, call_id: str) -> str:
    """``presence`` key of a lamp update (§5.1)."""
    return f"dialog.{encode(realm)}.{encode(call_id)}"


def registrar_query(realm: str, user: str) -> str:
    """``registrar`` key of a registration query (§9.4)."""
    return f"registration.query.{encode(realm)}.{encode(user)}"
