"""Channel commands (contract §4): parking's effects as Kazoo's payloads.

They go to ``callctl``, key and header from the call's control address (`address.parse_address`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from worker.kapi import envelope
from worker.parking import effects
from worker.parking.call import Call
from worker.parking.effects import Command
from worker.parking.events import App
from worker.parking.model import CallId

NAME_CHARS: Final = 128
"""Longest caller name or number put into a command."""

_TERMINATORS: Final = ("#", "*", *"0123456789")
_UNSPEAKABLE: Final = re.compile(r"[^\w\s-]")
_SPACES: Final = re.compile(r"\s+")
_UNDIALABLE: Final = re.compile(r"[^\w+*#.@-]")
_NORTH_AMERICAN: Final = re.compile(r"\+?1?([2-9]\d{2}[2-9]\d{6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPayload:
    """One message for ``callctl``.

    ``msg_id`` is the message's own id: dialplan errors quote it. ``noop_id`` is set for prompts:
    the completion of that noop (Application-Response) says the prompt has ended.
    """

    payload: dict[str, object]
    app: App
    msg_id: str
    noop_id: str = ""


def command_payloads(
    effect: Command,
    *,
    call: Call,
    call_id: CallId,
    node: str,
    new_id: Callable[[], str],
    account_prompts: bool = True,
    server_id: str = "",
) -> list[CommandPayload]:
    """The messages of one command, in sending order; ``set_callee`` needs two, the others one.

    ``call_id`` is the call's id now, ``new_id`` gives a fresh Msg-ID per call of it,
    ``account_prompts`` is Kazoo's media.support_account_overrides (§4.6), ``server_id`` an address
    to name as Server-ID (ecallmgr does not use it).
    """
    out = _Outbox(call_id=call_id, node=node, new_id=new_id, server_id=server_id)
    match effect:
        case effects.Answer():
            return [out.command(App.ANSWER)]
        case effects.Hold():
            return [_hold(out, effect, call)]
        case effects.ParkSilently():
            return [out.command(App.PARK, {"Insert-At": "now"})]
        case effects.Play():
            return [_play(out, effect, call, account_prompts=account_prompts)]
        case effects.Say():
            return [_say(out, effect, call)]
        case effects.SetCallee():
            return [
                _set(out, {"Callee-ID-Number": effect.number}),
                _set(out, {"Callee-ID-Name": effect.name}),
            ]
        case effects.Bridge():
            return [_bridge(out, effect, call)]
        case effects.Break():
            return [out.command(App.BREAK, {"Insert-At": "now"})]
        case effects.Pickup():
            return [_pickup(out, effect)]
        case effects.Hangup():
            return [out.command(App.HANGUP, {"Insert-At": "now"})]


def dialable_name(name: str) -> str:
    """A caller name as a dial string may carry it.

    Only letters, digits, ``_``, ``-`` and single spaces stay (§4.11), at most NAME_CHARS.
    """
    return _SPACES.sub(" ", _UNSPEAKABLE.sub("", name)).strip()[:NAME_CHARS].rstrip()


def dialable_number(number: str) -> str:
    """A caller number as a dial string may carry it: nothing that could end or extend a value."""
    return _UNDIALABLE.sub("", number)[:NAME_CHARS]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outbox:
    """What every command of one effect has in common."""

    call_id: CallId
    node: str
    new_id: Callable[[], str]
    server_id: str

    def headers(self, msg_id: str, server_id: str = "") -> dict[str, object]:
        return envelope.headers(
            "call", "command", node=self.node, msg_id=msg_id, server_id=server_id
        )

    def command(
        self, app: App, fields: dict[str, object] | None = None, *, noop_id: str = ""
    ) -> CommandPayload:
        msg_id = self.new_id()
        payload = self.headers(msg_id, self.server_id)
        payload |= {"Application-Name": app.value, "Call-ID": self.call_id}
        payload |= fields or {}
        return CommandPayload(payload=payload, app=app, msg_id=msg_id, noop_id=noop_id)


def _hold(out: _Outbox, effect: effects.Hold, call: Call) -> CommandPayload:
    fields: dict[str, object] = {"Insert-At": "now"}
    if effect.media:
        media = effect.media
        fields["Hold-Media"] = media if "/" in media else f"/{call.account}/{media}"
    return out.command(App.HOLD, fields)


def _play(
    out: _Outbox, effect: effects.Play, call: Call, *, account_prompts: bool
) -> CommandPayload:
    """A queue of noop and play: the switch runs the last first, so the noop ends after the play."""
    noop_id = out.new_id()
    owner = call.account if account_prompts else "system_media"
    commands: Sequence[dict[str, object]] = [
        {"Application-Name": App.NOOP.value, "Call-ID": out.call_id, "Msg-ID": noop_id},
        {
            "Application-Name": App.PLAY.value,
            "Media-Name": f"prompt://{owner}/{effect.prompt.value}/{call.language}",
            "Terminators": list(_TERMINATORS),
            "Call-ID": out.call_id,
            "Endless-Playback": False,
        },
    ]
    return out.command(App.QUEUE, {"Commands": commands}, noop_id=noop_id)


def _say(out: _Outbox, effect: effects.Say, call: Call) -> CommandPayload:
    return out.command(
        App.SAY,
        {
            "Say-Text": effect.text,
            "Type": "name_spelled",
            "Method": "pronounced",
            "Language": call.language,
        },
    )


def _set(out: _Outbox, channel_vars: dict[str, str]) -> CommandPayload:
    return out.command(
        App.SET,
        {
            "Custom-Channel-Vars": channel_vars,
            "Custom-Call-Vars": {},
            "Export-All": False,
            "Insert-At": "now",
        },
    )


def _pickup(out: _Outbox, effect: effects.Pickup) -> CommandPayload:
    fields: dict[str, object] = {
        "Target-Call-ID": effect.target,
        "Unbridged-Only": True,
        "Continue-On-Fail": False,
        "Continue-On-Cancel": True,
        "Park-After-Pickup": False,
    }
    if not effect.usurp:
        # Not in the published command, but ecallmgr reads it (§4.9).
        fields["Publish-Usurp"] = False
    return out.command(App.PICKUP, fields)


def _bridge(out: _Outbox, effect: effects.Bridge, call: Call) -> CommandPayload:
    return out.command(
        App.BRIDGE,
        {
            "Timeout": effect.timeout_s,
            "Ignore-Early-Media": "true",
            "Ignore-Forward": "false",
            "Dial-Endpoint-Method": "single",
            "Call-Context": {
                "Inception": "offnet" if call.inception else "onnet",
                "Flags": ["direct_call"],
                "request": _request_forms(call.request_user),
            },
            "Endpoints": [_endpoint(out, effect, call)],
        },
    )


def _endpoint(out: _Outbox, effect: effects.Bridge, call: Call) -> dict[str, object]:
    """The parker's device by document id: the switch's directory finds where it is (§4.11)."""
    number = dialable_number(effect.caller_number)
    caller = dialable_name(effect.caller_name) or number
    title = f"Parking slot {effect.slot} - {caller}" if caller else f"Parking slot {effect.slot}"
    endpoint: dict[str, object] = {
        "Invite-Format": "endpoint",
        "Endpoint-URI": f"{effect.endpoint_id}@{call.account}",
        "Endpoint-ID": effect.endpoint_id,
        "Account-ID": call.account,
        "Outbound-Caller-ID-Name": dialable_name(title),
        "Privacy-Method": "kazoo",
        "Endpoint-Timeout": effect.timeout_s,
        "Custom-Channel-Vars": {},
    }
    if number:
        endpoint["Outbound-Caller-ID-Number"] = number
    if call.request_user:
        endpoint["Outbound-Callee-ID-Number"] = dialable_number(call.request_user)
    if caller:
        endpoint["Endpoint-Actions"] = {
            "Execute-On-Answer": {"Set-Caller-ID": _restore_caller(out, caller)}
        }
    return endpoint


def _restore_caller(out: _Outbox, caller: str) -> dict[str, object]:
    """On answer the parker's display changes from the slot to the caller."""
    call_id = out.new_id()
    return out.headers(out.new_id()) | {
        "Application-Name": App.SET.value,
        "Custom-Channel-Vars": {"Caller-ID-Name": caller},
        "Custom-Call-Vars": {},
        "Call-ID": call_id,
    }


def _request_forms(number: str) -> dict[str, object]:
    """The dialled number in the spellings Kazoo's routes may ask for (§4.10)."""
    match = _NORTH_AMERICAN.fullmatch(number)
    plain = number.removeprefix("+")
    forms = {
        "e164": f"+1{match[1]}" if match else number,
        "npan": match[1] if match else number,
        "1npan": f"1{match[1]}" if match else number,
        "strip_plus": plain,
        "route": number,
    }
    return {name: form for name, form in forms.items() if form}
