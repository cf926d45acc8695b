"""``action.execute`` (contract §2.2 to §2.4): the message that starts a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.errors import MalformedMessageError
from worker.kapi.envelope import type_name
from worker.kapi.fields import Payload, as_object, as_text, required_text
from worker.kapi.sip import parse_referrer, parse_replaces, strip_scheme
from worker.parking.call import Arrival, Call
from worker.parking.model import AccountId, CallId, SessionId

DEFAULT_LANGUAGE: Final = "en-us"

_TOP_FIELDS: Final = ("Msg-ID", "Call-ID", "Server-ID", "Data")
_CALL_FIELDS: Final = (
    "Account-ID",
    "Authorizing-ID",
    "Authorizing-Type",
    "Call-Direction",
    "Callee-ID-Name",
    "Callee-ID-Number",
    "Caller-ID-Name",
    "Caller-ID-Number",
    "Control-Queue",
    "Controller-Queue",
    "Custom-Channel-Vars",
    "Fetch-ID",
    "From",
    "From-Realm",
    "From-Tag",
    "Inception",
    "Language",
    "Request",
    "Request-Realm",
    "Request-User",
    "Switch-Nodename",
    "Switch-URI",
    "To-Tag",
)
_STORE_FIELDS: Final = ("action-exit-keys", "cf_capture_group", "Restricted-Endpoint-ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute:
    """One accepted execute.

    ``data`` is the node's data as it came, ``{}`` when there was none; `schema.validate_node`
    decides whether it is any good.
    """

    session: SessionId
    call_id: CallId
    call: Call
    data: object = field(default_factory=dict)


def parse_execute(payload: Payload) -> Execute:
    """Everything a session needs to know, derived once.

    Raises MalformedMessageError when Msg-ID, Call-ID, Call or Call.Account-ID is missing or of
    the wrong type. Other fields of the wrong type count as what Kazoo would make of them.
    """
    session = required_text(payload, "Msg-ID")
    call_id = CallId(required_text(payload, "Call-ID"))
    record = payload.get("Call")
    if not isinstance(record, dict):
        reason = "is required" if record is None else f"must be an object, is {type_name(record)}"
        raise MalformedMessageError(reason, "/Call")
    account = AccountId(required_text(record, "Account-ID", pointer="/Call"))
    return Execute(
        session=SessionId(session),
        call_id=call_id,
        call=_call(payload, record, call_id, account),
        data=_node_data(payload.get("Data")),
    )


def trim_execute(payload: Payload) -> dict[str, object]:
    """Only the fields `parse_execute` reads: what the slot log keeps of a session.

    ``parse_execute(trim_execute(p)) == parse_execute(p)``.
    """
    trimmed = _only(payload, _TOP_FIELDS)
    record = payload.get("Call")
    if isinstance(record, dict):
        call = _only(record, _CALL_FIELDS)
        store = record.get("Key-Value-Store")
        if isinstance(store, dict):
            call["Key-Value-Store"] = _only(store, _STORE_FIELDS)
        trimmed["Call"] = call
    return trimmed


def _call(
    payload: Payload, record: Mapping[str, object], call_id: CallId, account: AccountId
) -> Call:
    channel_vars = as_object(record.get("Custom-Channel-Vars"))
    store = as_object(record.get("Key-Value-Store"))

    def of(name: str) -> str:
        return as_text(record.get(name))

    def var(name: str) -> str:
        return as_text(channel_vars.get(name))

    referred_to = var("Referred-To").strip()
    replaces = parse_replaces(referred_to)
    referrer = parse_referrer(var("Referred-By"))
    return Call(
        call_id=call_id,
        account=account,
        fetch_id=var("Fetch-ID") or of("Fetch-ID"),
        arrival=_arrival(referred_to, replaces),
        replaces=tuple(CallId(form) for form in replaces),
        referred_user=referrer.user,
        referred_realm=referrer.realm,
        realm=_realm(record, channel_vars),
        request_user=of("Request-User") or strip_scheme(of("Request")).partition("@")[0],
        capture_group=as_text(store.get("cf_capture_group")),
        child_keys=_child_keys(store.get("action-exit-keys")),
        restricted_endpoint_id=as_text(store.get("Restricted-Endpoint-ID")),
        authorizing_id=of("Authorizing-ID"),
        authorizing_type=of("Authorizing-Type"),
        language=of("Language") or DEFAULT_LANGUAGE,
        switch_uri=of("Switch-URI"),
        switch_node=of("Switch-Nodename"),
        from_uri=strip_scheme(of("From")),
        from_tag=of("From-Tag"),
        to_tag=of("To-Tag"),
        caller_name=of("Caller-ID-Name"),
        caller_number=of("Caller-ID-Number"),
        callee_name=of("Callee-ID-Name"),
        callee_number=of("Callee-ID-Number"),
        direction=of("Call-Direction") or "inbound",
        inception=of("Inception"),
        hold_media=var("Hold-Media"),
        control_address=of("Control-Queue"),
        reply_address=as_text(payload.get("Server-ID")) or of("Controller-Queue"),
        channel_vars=channel_vars,
    )


def _arrival(referred_to: str, replaces: tuple[str, ...]) -> Arrival:
    if replaces:
        return Arrival.ATTENDED
    return Arrival.BLIND if referred_to else Arrival.DIRECT


def _realm(record: Mapping[str, object], channel_vars: Mapping[str, object]) -> str:
    """The account's realm, best source first (§2.4).

    From-Realm belongs to the account only when the call came from inside: a call with an Inception
    came from a carrier, whose realm is tried last.
    """
    inside = not as_text(record.get("Inception"))
    own, asked = record.get("From-Realm"), record.get("Request-Realm")
    guesses = (own, asked) if inside else (asked, own)
    candidates = (channel_vars.get("Account-Realm"), channel_vars.get("Realm"), *guesses)
    return next((realm for realm in map(as_text, candidates) if realm), "")


def _child_keys(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(key for key in map(as_text, value) if key)


def _node_data(value: object) -> object:
    """Absent, null, ``""`` and ``[]`` all mean a node without options."""
    return {} if value is None or value in ("", []) else value


def _only(source: Payload, names: tuple[str, ...]) -> dict[str, object]:
    return {name: source[name] for name in names if name in source}
