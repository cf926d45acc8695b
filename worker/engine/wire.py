"""Effects of a session in their wire form: one function per kind, from effect to operations."""

from __future__ import annotations

from collections.abc import Callable

from worker.engine.ops import Log, Op, Publish
from worker.kapi import keys
from worker.kapi.address import parse_address
from worker.kapi.commands import command_payloads
from worker.kapi.exchanges import Exchange
from worker.kapi.park_events import event_headers, park_event_payload
from worker.kapi.presence import UnlightableError, dialog_update
from worker.kapi.registrar import registrar_query
from worker.kapi.results import accepted_payload, result_payload
from worker.kapi.status import status_request
from worker.parking import effects as do
from worker.parking.call import Call
from worker.parking.lamp import LampUpdate
from worker.parking.model import CallId, SessionId
from worker.parking.session import Session


def reply(address_text: str, payload: dict[str, object], session: SessionId) -> list[Op]:
    """A reply to ``targeted`` (contract §1.5); nothing when there is nobody to answer."""
    address = parse_address(address_text)
    if not address.reachable:
        return [
            Log(event="no reply address", level="warning", fields={"session": session})
        ]
    return [
        Publish(
            exchange=Exchange.TARGETED,
            routing_key=address.queue,
            payload=payload,
            headers=address.headers,
            mandatory=True,
            session=session,
        )
    ]


def accepted(call: Call, session: SessionId, call_id: CallId, node: str) -> list[Op]:
    payload = accepted_payload(session=session, call_id=call_id, node=node)
    return reply(call.reply_address, payload, session)


def result(
    finish: do.Finish, call: Call, session: SessionId, call_id: CallId, node: str
) -> list[Op]:
    payload = result_payload(finish, session=session, call_id=call_id, node=node)
    return reply(call.reply_address, payload, session)


def commands(
    effect: do.Command,
    session: Session,
    *,
    node: str,
    new_id: Callable[[], str],
    account_prompts: bool,
) -> list[Op]:
    """Channel commands to the call's control queue (contract §4.1)."""
    address = parse_address(session.call.control_address)
    return [
        Publish(
            exchange=Exchange.CALLCTL,
            routing_key=address.queue,
            payload=command.payload,
            headers=address.headers,
            mandatory=True,
            session=session.id,
            app=command.app,
        )
        for command in command_payloads(
            effect,
            call=session.call,
            call_id=session.call_id,
            node=node,
            new_id=new_id,
            account_prompts=account_prompts,
        )
    ]


def announcement(effect: do.Announce, session: Session, *, node: str, msg_id: str) -> list[Op]:
    """A park event on ``callevt`` (contract §6)."""
    key = keys.park_event(effect.event, session.call_id)
    if not keys.fits(key):
        return [Log(event="call id too long for a park event", level="warning")]
    payload = park_event_payload(
        effect.event,
        slot=effect.slot,
        call=session.call,
        call_id=session.call_id,
        node=node,
        msg_id=msg_id,
    )
    headers = event_headers(session.call_id)
    return [
        Publish(exchange=Exchange.CALLEVT, routing_key=key, payload=payload, headers=headers)
    ]


def status_question(call_id: CallId, *, node: str, msg_id: str, inbox: str) -> Publish:
    return Publish(
        exchange=Exchange.CALLEVT,
        routing_key=keys.status_request(call_id),
        payload=status_request(call_id, node=node, msg_id=msg_id, server_id=inbox),
    )


def endpoint_question(effect: do.AskEndpoint, *, node: str, msg_id: str, inbox: str) -> Publish:
    return Publish(
        exchange=Exchange.REGISTRAR,
        routing_key=keys.registrar_query(effect.realm, effect.user),
        payload=registrar_query(
            effect.user, effect.realm, node=node, msg_id=msg_id, server_id=inbox
        ),
    )


def lamp(update: LampUpdate, *, node: str, msg_id: str) -> list[Op]:
    """A dialog update (contract §5.1); a lamp that cannot be is left out, and said so."""
    try:
        dialog = dialog_update(
            update.lamp, update.state, expires_s=update.expires_s, node=node, msg_id=msg_id
        )
    except UnlightableError as error:
        fields = {"call_id": update.lamp.call_id, "reason": str(error)}
        return [Log(event="parked without a lamp", level="warning", fields=fields)]
    return [
        Publish(exchange=Exchange.PRESENCE, routing_key=dialog.key, payload=dialog.payload),
        Log(
            event="lamp",
            level="debug",
            fields={
                "call_id": update.lamp.call_id,
                "state": update.state,
                "reason": update.reason,
            },
        ),
    ]
