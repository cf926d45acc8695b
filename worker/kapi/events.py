"""Call events, usurps and command errors (contract §3.3 to §3.7) as parking's events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from worker.errors import MalformedMessageError
from worker.kapi import keys
from worker.kapi.fields import Payload, optional_object, required_text, text
from worker.parking import events
from worker.parking.events import App, ChannelEvent
from worker.parking.model import CallId

_APPS: Final[Mapping[str, App]] = MappingProxyType({app.value: app for app in App if app.value})
_CHANNEL_VARS: Final = "Custom-Channel-Vars"


def parse_event(payload: Payload) -> ChannelEvent | None:
    """What the switch said, or None for what parking has no use for (PARK_*, queries, others).

    The call is the payload's Call-ID: the routing key may name another leg (§3.1). Raises
    MalformedMessageError, and nothing else, when a field that matters is missing or mistyped.
    """
    category = required_text(payload, "Event-Category")
    name = required_text(payload, "Event-Name")
    parse = _PARSERS.get((category, name))
    if parse is None:
        return None
    return parse(payload, CallId(required_text(payload, "Call-ID")))


def parse_app(name: str) -> App:
    """Kazoo's command name as an App; OTHER for what the worker never waits for."""
    return _APPS.get(name, App.OTHER)


def _fetch_id(payload: Payload) -> str:
    """The Fetch-ID events carry among the channel variables (§3.4)."""
    return text(optional_object(payload, _CHANNEL_VARS), "Fetch-ID", pointer=f"/{_CHANNEL_VARS}")


def _destroyed(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelDestroyed(
        call_id=call_id,
        hangup_cause=text(payload, "Hangup-Cause"),
        disposition=text(payload, "Disposition"),
    )


def _disconnected(_: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelDisconnected(call_id=call_id)


def _connected(_: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelConnected(call_id=call_id)


def _answered(_: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelAnswered(call_id=call_id)


def _other_leg(payload: Payload) -> CallId:
    return CallId(text(payload, "Other-Leg-Call-ID") or text(payload, "Bridge-B-Unique-ID"))


def _bridged(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelBridged(call_id=call_id, other_leg=_other_leg(payload))


def _unbridged(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelUnbridged(call_id=call_id, other_leg=_other_leg(payload))


def _intercepted(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelIntercepted(call_id=call_id, by=CallId(text(payload, "Intercepted-By")))


def _new_call_id(payload: Payload, name: str) -> CallId:
    """An id that nobody could listen to would lose the call: it keeps the one it has."""
    call_id = required_text(payload, name)
    if not keys.watchable(call_id):
        raise MalformedMessageError("is no call id that fits into a routing key", f"/{name}")
    return CallId(call_id)


def _replaced(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelReplaced(
        call_id=call_id,
        new_call_id=_new_call_id(payload, "Replaced-By"),
        fetch_id=_fetch_id(payload),
    )


def _direct(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelReplaced(
        call_id=call_id,
        new_call_id=_new_call_id(payload, "Connecting-Leg-B-UUID"),
        fetch_id=_fetch_id(payload),
    )


def _transferred(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelTransferred(call_id=call_id, fetch_id=_fetch_id(payload))


def _pivoted(_: Payload, call_id: CallId) -> ChannelEvent:
    return events.ChannelPivoted(call_id=call_id)


def _usurped(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.ControlUsurped(
        call_id=call_id,
        fetch_id=required_text(payload, "Fetch-ID"),
        reason=text(payload, "Reason"),
    )


def _completed(payload: Payload, call_id: CallId) -> ChannelEvent:
    return events.CommandCompleted(
        call_id=call_id,
        app=parse_app(text(payload, "Application-Name")),
        response=text(payload, "Application-Response"),
        disposition=text(payload, "Disposition"),
        hangup_cause=text(payload, "Hangup-Cause") or text(payload, "Bridge-Hangup-Cause"),
        channel_state=text(payload, "Channel-State"),
    )


def _failed(payload: Payload, call_id: CallId) -> ChannelEvent:
    request = optional_object(payload, "Request")
    return events.CommandFailed(
        call_id=call_id,
        app=parse_app(text(request, "Application-Name", pointer="/Request")),
        msg_id=text(payload, "Msg-ID"),
        message=text(payload, "Error-Message"),
        channel_down=text(payload, "Channel-Call-State") == "DOWN",
    )


_Parser = Callable[[Payload, CallId], ChannelEvent]
_PARSERS: Final[Mapping[tuple[str, str], _Parser]] = MappingProxyType(
    {
        ("call_event", "CHANNEL_DESTROY"): _destroyed,
        ("call_event", "CHANNEL_DISCONNECTED"): _disconnected,
        ("call_event", "CHANNEL_CONNECTED"): _connected,
        ("call_event", "CHANNEL_ANSWER"): _answered,
        ("call_event", "CHANNEL_BRIDGE"): _bridged,
        ("call_event", "CHANNEL_UNBRIDGE"): _unbridged,
        ("call_event", "CHANNEL_INTERCEPTED"): _intercepted,
        ("call_event", "CHANNEL_REPLACED"): _replaced,
        ("call_event", "CHANNEL_DIRECT"): _direct,
        ("call_event", "CHANNEL_TRANSFEREE"): _transferred,
        ("call_event", "CHANNEL_PIVOT"): _pivoted,
        ("call_event", "CHANNEL_EXECUTE_COMPLETE"): _completed,
        ("call_event", "usurp_control"): _usurped,
        ("error", "dialplan"): _failed,
    }
)
