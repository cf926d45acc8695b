"""Park events (contract §6): what webhooks and websockets hear of parking."""

from __future__ import annotations

from worker.kapi import envelope
from worker.parking.call import Call
from worker.parking.effects import ParkEvent
from worker.parking.model import CallId, SlotId


def park_event_payload(
    event: ParkEvent, *, slot: SlotId, call: Call, call_id: CallId, node: str, msg_id: str
) -> dict[str, object]:
    """For ``callevt``, key `keys.park_event`; ``call`` is the call of the session that says it.

    Empty texts are left out, as Kazoo does. The channel variables always name the account.
    """
    channel_vars = {name: value for name, value in call.channel_vars.items() if value is not None}
    if not isinstance(channel_vars.get("Account-ID"), str):
        channel_vars["Account-ID"] = call.account
    if call.realm:
        channel_vars["Realm"] = call.realm
    texts = {
        "Caller-ID-Name": call.caller_name,
        "Caller-ID-Number": call.caller_number,
        "Callee-ID-Name": call.callee_name,
        "Callee-ID-Number": call.callee_number,
    }
    payload = envelope.headers("call_event", event.value, node=node, msg_id=msg_id)
    payload |= {"Call-ID": call_id}
    payload |= {name: value for name, value in texts.items() if value}
    return payload | {"Custom-Channel-Vars": channel_vars, "Parking-Slot": slot}


def event_headers(call_id: CallId) -> dict[str, str]:
    """AMQP headers Kazoo's event listeners hash by (§3.1)."""
    return {"call-id": call_id}
