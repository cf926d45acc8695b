"""Pseudonyms for whom a recording tells of: numbers and names, the same one everywhere.

A redacted trace still replays, so what a worker derives from a number or a name must be derivable
from its pseudonym: a presence user that is the dialled number and the slot, the spellings of a
North American number, the title "Parking slot 101 - Name". Slots, star codes, ids of accounts and
devices, SIP user names that are no numbers and realms stay. Fields of inputs that parking has no
use for are left out, whatever they hold.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import orjson

from worker.kapi.commands import dialable_name
from worker.kapi.exchanges import Exchange
from worker.kapi.keys import encode
from worker.kapi.presence import escape
from worker.parking.node import SLOT_PLACEHOLDER
from worker.parking.slot_wire import record_from_plain, record_to_plain
from worker.trace.lines import Line, LogRecord, Message, TableLine, dump

Plain = Mapping[str, object]

_NUMBER: Final = re.compile(r"\+?[0-9]{2,}")
_NORTH_AMERICAN: Final = re.compile(r"(\+?1?)([2-9][0-9]{2}[2-9][0-9]{6})")
_TITLE: Final = re.compile(r"(Parking slot [^ ]+ - )(.*)", re.DOTALL)
_URI: Final = re.compile(r"(?P<head>.*?(?:sips?:)?)(?P<user>[^@:<>\s\"]+)(?P<tail>@.*)", re.DOTALL)
_SHORTEST_IN_CALL_ID: Final = 3

_NAMES: Final = frozenset(
    {
        "Caller-ID-Name", "Callee-ID-Name", "Outbound-Caller-ID-Name", "To-User-Name",
        "caller_name",
    }
)  # fmt: skip
_NUMBERS: Final = frozenset(
    {
        "Caller-ID-Number", "Callee-ID-Number", "Outbound-Caller-ID-Number",
        "Outbound-Callee-ID-Number", "From-User", "Request-User", "Username", "e164", "npan",
        "1npan", "strip_plus", "route", "caller_number", "parked_number",
    }
)  # fmt: skip
_URIS: Final = frozenset(
    {"From", "To", "Request", "Referred-By", "Referred-To", "Redirected-By", "To-URI", "caller_uri"}
)
_CALLS: Final = frozenset(
    {
        "Call-ID", "Target-Call-ID", "Other-Leg-Call-ID", "Bridge-B-Unique-ID", "Replaced-By",
        "Connecting-Leg-B-UUID", "Intercepted-By", "System-Log-ID", "call_id", "old_call_id",
        "new_call_id",
    }
)  # fmt: skip
_EVENT_FIELDS: Final = frozenset(
    {
        "Event-Category", "Event-Name", "App-Name", "App-Version", "Node", "Msg-ID", "Call-ID",
        "Hangup-Cause", "Bridge-Hangup-Cause", "Disposition", "Other-Leg-Call-ID", "Fetch-ID",
        "Bridge-B-Unique-ID", "Intercepted-By", "Replaced-By", "Connecting-Leg-B-UUID", "Reason",
        "Application-Name", "Application-Response", "Channel-State", "Channel-Call-State",
        "Error-Message", "Request", "Custom-Channel-Vars", "Status", "Server-ID",
        "System-Log-ID", "Error-Msg",
    }
)  # fmt: skip
_VARIABLES: Final = frozenset(
    {
        "Account-ID", "Account-Realm", "Realm", "Fetch-ID", "Referred-By", "Referred-To",
        "Redirected-By", "Authorizing-ID", "Authorizing-Type", "Username", "Hold-Media",
        "Ecallmgr-Node", "CallFlow-ID", "Caller-ID-Name", "Callee-ID-Name", "Callee-ID-Number",
    }
)  # fmt: skip
_DROPPED_OF_CALL: Final = frozenset({"Custom-SIP-Headers", "Custom-Application-Vars", "To-User"})
_STORE: Final = ("action-exit-keys", "cf_capture_group", "cf_flow_id", "Restricted-Endpoint-ID")
_PRESENCE_IDS: Final = frozenset({"Presence-ID", "From", "To-URI", "From-User"})


class Redactor:
    """`line` gives each line its pseudonyms. The key is made anew for every recording."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._numbers: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        """Name as some field spells it → pseudonym."""
        self._calls: dict[str, str] = {}
        self._kept: set[str] = set()
        """Slots and presence ids of nodes: never a person's."""
        self._slots: set[str] = set()
        self._dialled: set[str] = set()

    def line(self, line: Line) -> Line | None:
        """The line with pseudonyms; None when it cannot be made safe."""
        match line:
            case Message():
                return self._message(line)
            case LogRecord():
                plain = self._record(record_to_plain(line.record))
                return replace(line, record=record_from_plain(plain))
            case TableLine():
                return replace(line, state=self._table(line.state))
            case _:
                return line

    # ---- messages -------------------------------------------------------------------------------

    def _message(self, line: Message) -> Message | None:
        payload = line.payload
        if payload is None:
            return None  # nobody knows what it says
        if line.exchange == Exchange.KAPPS:
            self._learn_execute(payload)
            payload = {**payload, "Call": self._call(payload.get("Call"))}
            data = payload.pop("Data", None)
            redacted = self._object(payload) | ({} if data is None else {"Data": data})
        elif line.exchange == Exchange.PRESENCE:
            redacted = self._presence(payload)
        elif line.exchange in {Exchange.NODES, Exchange.CONFIGURATION, Exchange.SYSCONF}:
            redacted = dict(payload)
        elif line.text("Event-Name") in {"reg_query_resp", "reg_query"}:
            redacted = self._registration(payload)
        else:
            redacted = self._object(self._only_used(line, payload))
        headers = {
            name: self.call_id(value) if name == "call-id" and isinstance(value, str) else value
            for name, value in line.headers.items()
        }
        return replace(line, payload=redacted, headers=headers, key=self._routing_key(line))

    def _only_used(self, line: Message, payload: Plain) -> dict[str, object]:
        """Inputs keep what parking reads; what workers say is kept whole."""
        event = line.text("Event-Name")
        is_input = event.startswith("CHANNEL_") or event in {
            "usurp_control", "dialplan", "channel_status_resp",
        }  # fmt: skip
        used = {n: v for n, v in payload.items() if n in _EVENT_FIELDS} if is_input else payload
        request = used.get("Request")
        if isinstance(request, dict):
            kept = ("Application-Name", "Call-ID", "Msg-ID")
            return {**used, "Request": {name: request[name] for name in kept if name in request}}
        return dict(used)

    def _routing_key(self, line: Message) -> str:
        """Call ids and users inside the key follow their fields."""
        key = line.key
        call_id = line.text("Call-ID")
        if call_id:
            key = key.replace(encode(call_id), encode(self.call_id(call_id)))
        if line.exchange == Exchange.PRESENCE and key.startswith("presence.reset."):
            realm, user = encode(line.text("Realm")), encode(self._user(line.text("Username")))
            key = f"presence.reset.{realm}.{user}"
        elif line.exchange == Exchange.REGISTRAR:
            realm, user = encode(line.text("Realm")), encode(self.number(line.text("Username")))
            key = f"registration.query.{realm}.{user}"
        return key

    def _learn_execute(self, payload: Plain) -> None:
        """Which texts of this call are slots, and what was dialled."""
        call = _object(payload.get("Call"))
        store = _object(call.get("Key-Value-Store"))
        data = _object(payload.get("Data"))
        for value in (store.get("cf_capture_group"), data.get("slot")):
            if value not in (None, ""):
                self._slots.add(str(value))
                self._kept.add(str(value))
        slots = _object(data.get("slots"))
        for slot, options in slots.items():
            self._slots.add(slot)
            self._kept.add(str(_object(options).get("presence_id", slot)))
        self._kept |= set(slots)
        if isinstance(data.get("presence_id"), str):
            self._kept.add(str(data["presence_id"]))
        dialled = call.get("Request-User")
        if isinstance(dialled, str):
            self._dialled.add(dialled)
        for name in ("From-User", "Caller-ID-Number", "Callee-ID-Number", "Request-User"):
            if isinstance(call.get(name), str):
                self.number(str(call[name]))

    def _call(self, value: object) -> object:
        if not isinstance(value, dict):
            return value
        call = {name: item for name, item in value.items() if name not in _DROPPED_OF_CALL}
        if "Key-Value-Store" in call:
            store = _object(call["Key-Value-Store"])
            call["Key-Value-Store"] = {name: store[name] for name in _STORE if name in store}
        return call

    def _registration(self, payload: Plain) -> dict[str, object]:
        """Of an answer only what says which device it is."""
        redacted = self._object({n: v for n, v in payload.items() if n != "Fields"})
        kept = ("Account-ID", "Account-Realm", "Authorizing-ID", "Authorizing-Type", "Realm")
        fields = payload.get("Fields")
        if isinstance(fields, list):
            redacted["Fields"] = [
                {name: one[name] for name in kept if name in one}
                for one in fields
                if isinstance(one, dict)
            ]
        return redacted

    def _presence(self, payload: Plain) -> dict[str, object]:
        redacted: dict[str, object] = {}
        for name, value in payload.items():
            if not isinstance(value, str):
                redacted[name] = value
            elif name in _PRESENCE_IDS:
                redacted[name] = _inside_uri(value, self._user)
            elif name in {"Username", "Presentity-User"}:
                redacted[name] = self._user(value)
            elif name == "To-User":
                redacted[name] = self.name(value)
            else:
                redacted[name] = self._value(name, value)
        return redacted

    # ---- records --------------------------------------------------------------------------------

    def _record(self, plain: Plain) -> dict[str, object]:
        redacted = self._object(plain)
        entry = redacted.get("entry")
        if isinstance(entry, dict):
            redacted["entry"] = self._entry(entry)
        if isinstance(plain.get("replaces"), list):
            redacted["replaces"] = [self.call_id(str(one)) for one in _list(plain["replaces"])]
        for name in ("facts", "state"):
            if isinstance(plain.get(name), str) and plain[name]:
                redacted[name] = self._json_text(str(plain[name]))
        return redacted

    def _entry(self, entry: Plain) -> dict[str, object]:
        redacted = dict(entry)
        if isinstance(redacted.get("presence_user"), str):
            redacted["presence_user"] = self._user(str(redacted["presence_user"]))
        return redacted

    def _json_text(self, text: str) -> str:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return ""
        if not isinstance(value, dict):
            return ""
        if "Call" in value:
            self._learn_execute(value)
            value["Call"] = self._call(value["Call"])
        data = value.pop("Data", None)
        redacted = self._object(value) | ({} if data is None else {"Data": data})
        return dump(redacted).decode("ascii", "replace")

    def _table(self, state: Plain) -> dict[str, object]:
        sessions = []
        for row in _list(state.get("sessions")):
            plain = self._record(_object(row))
            decided = []
            for one in _list(plain.get("decided")):
                decision = self._object(_object(one))
                for name in ("entry", "previous"):
                    if isinstance(decision.get(name), dict):
                        decision[name] = self._entry(_object(decision[name]))
                decided.append(decision)
            sessions.append({**plain, "decided": decided})
        return {**state, "sessions": sessions, "kept": []}

    # ---- values ---------------------------------------------------------------------------------

    def _object(self, payload: Plain) -> dict[str, object]:
        return {name: self._value(name, value) for name, value in payload.items()}

    def _value(self, name: str, value: object) -> object:
        if isinstance(value, dict):
            if name in {"Custom-Channel-Vars", "Custom-Call-Vars"}:
                value = {key: item for key, item in value.items() if key in _VARIABLES}
            return self._object(value)
        if isinstance(value, list):
            return [self._value(name, item) for item in value]
        if not isinstance(value, str) or not value:
            return value
        if name in _NAMES:
            return self.name(value)
        if name in _NUMBERS:
            return self.number(value)
        if name in _CALLS:
            return self.call_id(value)
        if name in _URIS:
            return self._uri(value)
        return value

    def _uri(self, text: str) -> str:
        """The user of a URI, and the call a Replaces names."""
        redacted = _inside_uri(text, self.number)
        for plain, pseudonym in self._calls.items():
            if plain != pseudonym and plain in redacted:
                redacted = redacted.replace(plain, pseudonym)
        return redacted

    def number(self, text: str) -> str:
        """The pseudonym of a number; what is no number, a star code or a slot stays."""
        if text in self._kept or not _NUMBER.fullmatch(text):
            return text
        known = self._numbers.get(text)
        if known is None:
            known = self._numbers[text] = self._new_number(text)
            self._texts[text] = known
        return known

    def _new_number(self, text: str) -> str:
        american = _NORTH_AMERICAN.fullmatch(text)
        if american:
            core = american[2]
            return american[1] + self._digits(core, lambda new: bool(_NORTH_AMERICAN.match(new)))
        sign = "+" if text.startswith("+") else ""
        digits = text.removeprefix("+")
        return sign + self._digits(digits, lambda new: not _NORTH_AMERICAN.fullmatch(sign + new))

    def _digits(self, digits: str, good: Callable[[str], bool]) -> str:
        """As many other digits; the same ones for the same digits."""
        for turn in range(1000):
            seed = hmac.digest(self._key, f"{turn}:{digits}".encode(), hashlib.sha512)
            new = str(int.from_bytes(seed))[-len(digits) :].rjust(len(digits), "7")
            taken = new in self._kept or new in self._numbers
            if new[0] != "0" and good(new) and not taken and new != digits:
                return new
        return "9" * len(digits)

    def name(self, text: str) -> str:
        """The pseudonym of a display name, also when a field spells it in its own way."""
        if not text or text in self._kept:
            return text
        title = _TITLE.fullmatch(text)
        if title:
            return title[1] + self.name(title[2])
        if text in self._texts:
            return self._texts[text]
        if _NUMBER.fullmatch(text):
            return self.number(text)
        if text in {"unknown", "anonymous"} or text.startswith("*"):
            return text
        pseudonym = f"Person {hmac.digest(self._key, text.encode(), hashlib.sha256).hex()[:6]}"
        for spelling in (text, dialable_name(text), escape(text)):
            self._texts.setdefault(spelling, pseudonym)
        return pseudonym

    def _user(self, user: str) -> str:
        """A presence user: a star code, a slot, a number, or a dialled number and a slot."""
        dialled = user.removesuffix(SLOT_PLACEHOLDER)
        if dialled != user:
            return self.number(dialled) + SLOT_PLACEHOLDER
        if user in self._kept or not _NUMBER.fullmatch(user):
            return user
        for slot in self._slots:
            dialled = user.removesuffix(slot)
            if dialled != user and dialled in self._dialled:
                return self.number(dialled) + slot
        if user in self._dialled or user in self._numbers:
            return self.number(user)
        for dialled in self._dialled:
            if user.startswith(dialled) and _NUMBER.fullmatch(dialled):
                return self.number(dialled) + user.removeprefix(dialled)  # an automatic slot
        return self.number(user)

    def call_id(self, text: str) -> str:
        """A call id stays, except for the known numbers in it."""
        known = self._calls.get(text)
        if known is None:
            known = text
            for number, pseudonym in self._numbers.items():
                if len(number) >= _SHORTEST_IN_CALL_ID and number in known:
                    known = re.sub(rf"(?<![0-9]){re.escape(number)}(?![0-9])", pseudonym, known)
            self._calls[text] = known
        return known


def _inside_uri(text: str, change: Callable[[str], str]) -> str:
    match = _URI.fullmatch(text)
    if match is None:
        return change(text)
    return match["head"] + change(match["user"]) + match["tail"]


def _object(value: object) -> Plain:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
