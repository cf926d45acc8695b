"""Channel status: is this channel alive? (contract §3.6)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from worker.errors import MalformedMessageError
from worker.kapi import envelope
from worker.kapi.fields import Payload, required_text, text
from worker.parking.events import Liveness
from worker.parking.model import CallId

_LIVENESS: Final[Mapping[str, Liveness]] = MappingProxyType(
    {
        "active": Liveness.ACTIVE,
        "tmpdown": Liveness.UNKNOWN,
        "terminated": Liveness.DEAD,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusAnswer:
    """What one ecallmgr node says. Every node answers, so DEAD counts only when none says ACTIVE.

    ``request`` is the Msg-ID of the question.
    """

    request: str
    call_id: CallId
    liveness: Liveness
    other_leg: CallId = CallId("")


def status_request(call_id: CallId, *, node: str, msg_id: str, server_id: str) -> dict[str, object]:
    """For ``callevt``, key `keys.status_request`. ``server_id`` is where the answers go.

    Never with Active-Only: nodes that do not know the call would stay silent, and silence means
    that nobody was reached.
    """
    payload = envelope.headers(
        "call_event",
        "channel_status_req",
        node=node,
        msg_id=msg_id,
        app_name="kapps_call_command",
        server_id=server_id,
    )
    return payload | {"Call-ID": call_id, "System-Log-ID": call_id}


def parse_status_answer(payload: Payload) -> StatusAnswer:
    """A channel_status_resp. Raises MalformedMessageError."""
    status = required_text(payload, "Status")
    if status not in _LIVENESS:
        raise MalformedMessageError("must be active, tmpdown or terminated", "/Status")
    return StatusAnswer(
        request=required_text(payload, "Msg-ID"),
        call_id=CallId(required_text(payload, "Call-ID")),
        liveness=_LIVENESS[status],
        other_leg=CallId(text(payload, "Other-Leg-Call-ID")),
    )
