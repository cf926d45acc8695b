"""Node advertisement (contract §10): we tell Kazoo's ``status``, and notice Kamailio's return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.errors import MalformedMessageError
from worker.kapi import envelope
from worker.kapi.envelope import type_name
from worker.kapi.fields import Payload, as_object, optional_object, required_text, text
from worker.kapi.registrar import OWN_APP

GRACE_FACTOR: Final = 1.25
"""Receivers multiply Expires by this before they take a node for gone."""
SETTINGS: Final = "Park-Settings"
"""A field of our own: see `advertisement`."""
_EXPIRES_DIGITS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNotice:
    """A node says it lives; forget it after ``expires_ms`` times GRACE_FACTOR."""

    node: str
    app_name: str
    expires_ms: int
    apps: frozenset[str] = frozenset()
    """Names in WhApps."""
    startups: tuple[tuple[str, int], ...] = ()
    """When each of them started, as they tell it: another value means a restart."""


def advertisement(
    *,
    node: str,
    msg_id: str,
    version: str,
    expires_ms: int,
    started_at_ms: int,
    used_memory_bytes: int | None = None,
    zone: str = "",
    settings: Payload | None = None,
) -> dict[str, object]:
    """For ``nodes``, key `keys.NODES`; ``started_at_ms`` is Unix time, ``node`` is name@host.

    ``settings``: what our decisions depend on, for those who record and replay them; Kazoo does not
    look at it. Never names the apps callflow or ecallmgr: Kazoo counts those to size its waits.
    """
    payload = envelope.headers(
        "nodes", "advertise", node=node, msg_id=msg_id, app_name=OWN_APP, app_version=version
    )
    startup_s = started_at_ms // 1000 + envelope.GREGORIAN_OFFSET_S
    payload |= {
        "Expires": expires_ms,
        "Version": f"{OWN_APP} {version}",
        "WhApps": {OWN_APP: {"Startup": startup_s}},
    }
    if used_memory_bytes is not None:
        payload["Used-Memory"] = used_memory_bytes
    if zone:
        payload["Zone"] = zone
    if settings:
        payload[SETTINGS] = dict(settings)
    return payload


def parse_advertisement(payload: Payload) -> NodeNotice | None:
    """An advertisement; None for other messages. Raises MalformedMessageError."""
    if required_text(payload, "Event-Name") != "advertise":
        return None
    return NodeNotice(
        node=required_text(payload, "Node"),
        app_name=text(payload, "App-Name"),
        expires_ms=_expires_ms(payload.get("Expires")),
        apps=frozenset(optional_object(payload, "WhApps")),
        startups=_startups(optional_object(payload, "WhApps")),
    )


def _startups(apps: Payload) -> tuple[tuple[str, int], ...]:
    named = ((name, as_object(app).get("Startup")) for name, app in apps.items())
    return tuple(sorted((name, at) for name, at in named if isinstance(at, int)))


def _expires_ms(value: object) -> int:
    if (
        isinstance(value, str)
        and value.isascii()
        and value.isdigit()
        and len(value) <= _EXPIRES_DIGITS
    ):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise MalformedMessageError(f"must be milliseconds, is {type_name(value)}", "/Expires")
    return int(value)
