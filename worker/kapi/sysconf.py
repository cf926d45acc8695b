"""System configuration over AMQP (contract §9.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.kapi import envelope
from worker.kapi.fields import Payload, required_text
from worker.kapi.registrar import OWN_APP

PARKING_CATEGORY: Final = "callflow.park"
MEDIA_CATEGORY: Final = "media"

_UNDEFINED: Final = "undefined"


@dataclass(frozen=True, slots=True, kw_only=True)
class SysconfAnswer:
    """``value`` is None when the key is not set."""

    request: str
    """Msg-ID of the question."""
    category: str
    key: tuple[str, ...]
    """Path of the key; one element for a plain key."""
    value: object


def sysconf_request(
    category: str, key: str, *, node: str, msg_id: str, server_id: str
) -> dict[str, object]:
    """For ``sysconf``, key `keys.SYSCONF_GET`.

    Never with Default: that would be written into Kazoo's database.
    """
    payload = envelope.headers(
        "sysconf", "get_req", node=node, msg_id=msg_id, app_name=OWN_APP, server_id=server_id
    )
    return payload | {"Category": category, "Key": key}


def parse_sysconf_answer(payload: Payload) -> SysconfAnswer | None:
    """A get_resp; None for anything else. ``"undefined"`` and ``[]`` mean not set.

    Raises MalformedMessageError.
    """
    if payload.get("Event-Name") != "get_resp":
        return None
    value = payload.get("Value")
    return SysconfAnswer(
        request=required_text(payload, "Msg-ID"),
        category=required_text(payload, "Category"),
        key=_path(payload),
        value=None if value in (_UNDEFINED, []) else value,
    )


def _path(payload: Payload) -> tuple[str, ...]:
    key = payload.get("Key")
    if isinstance(key, list):
        return tuple(part for part in key if isinstance(part, str))
    return (required_text(payload, "Key"),)
