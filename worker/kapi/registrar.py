"""Registration queries: the device behind a SIP user (contract §9.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.kapi import envelope
from worker.kapi.fields import Payload, as_object, as_text, required_text
from worker.parking.model import AccountId

OWN_APP: Final = "kzpark"
"""App-Name of messages that only our own kind and the logs read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarAnswer:
    """What one ecallmgr node knows; all of them answer, the first ``found`` one counts."""

    request: str
    """Msg-ID of the question."""
    found: bool
    endpoint_id: str = ""
    """Device document id; empty when the registration belongs to no device."""
    account: AccountId = AccountId("")
    account_realm: str = ""


def registrar_query(
    user: str, realm: str, *, node: str, msg_id: str, server_id: str
) -> dict[str, object]:
    """For ``registrar``, key `keys.registrar_query`; no Fields, so that all come back."""
    payload = envelope.headers(
        "directory",
        "reg_query",
        node=node,
        msg_id=msg_id,
        app_name=OWN_APP,
        server_id=server_id,
    )
    return payload | {"Realm": realm, "Username": user}


def parse_registrar_answer(payload: Payload) -> RegistrarAnswer | None:
    """A reg_query_resp or reg_query_error; None for anything else.

    Raises MalformedMessageError without a Msg-ID; odd registrations count as not found.
    """
    request = required_text(payload, "Msg-ID")
    match payload.get("Event-Name"):
        case "reg_query_error":
            return RegistrarAnswer(request=request, found=False)
        case "reg_query_resp":
            fields = payload.get("Fields")
            registrations = fields if isinstance(fields, list) else [fields]
            answers = [_read(request, as_object(one)) for one in registrations]
            return max(
                answers, key=_usefulness, default=RegistrarAnswer(request=request, found=False)
            )
        case _:
            return None


def _usefulness(answer: RegistrarAnswer) -> tuple[bool, bool]:
    """A registration of a device is best; of equals `max` takes the first."""
    return answer.endpoint_id != "", answer.found


def _read(request: str, registration: Payload) -> RegistrarAnswer:
    kind = as_text(registration.get("Authorizing-Type"))
    endpoint_id = as_text(registration.get("Authorizing-ID")) if kind in {"", "device"} else ""
    return RegistrarAnswer(
        request=request,
        found=bool(registration),
        endpoint_id=endpoint_id,
        account=AccountId(as_text(registration.get("Account-ID"))),
        account_realm=as_text(registration.get("Account-Realm")),
    )
