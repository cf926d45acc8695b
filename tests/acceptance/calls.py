"""One call at the black-box peer: its execute, how its channel answers commands, and its story."""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.acceptance.peer import Peer

Payload = dict[str, Any]
Answer = Callable[["PeerCall", Payload], None]
Answers = dict[str, Answer]

PARKER = "deadbeef000000000000000000000001"
"""The parker's device; its SIP user is ``user_parker``."""
CALLER = "deadbeef000000000000000000000002"

CONTINUE = "g2QACGNvbnRpbnVl"
STOP = "g2QABHN0b3A="
TRANSFER = "g2QACHRyYW5zZmVy"


def branch(child: str) -> str:
    """Result {continue, child} (contract §2.5)."""
    term = b"\x83h\x02d\x00\x08continuem" + len(child).to_bytes(4, "big") + child.encode()
    return base64.b64encode(term).decode()


NAMES = {CONTINUE: "continue", STOP: "stop", TRANSFER: "transfer"}


@dataclass(frozen=True)
class Seen:
    """One message the worker sent."""

    at: float
    exchange: str
    routing_key: str
    headers: Mapping[str, object]
    timestamp: int | None
    payload: Payload

    def __str__(self) -> str:
        name = self.payload.get("Application-Name") or self.payload.get("Event-Name")
        return f"{self.exchange} {self.routing_key} {name}"


@dataclass(kw_only=True)
class PeerCall:
    """A call that reaches a park node. ``data``: the node's data; ``children``: its keys."""

    name: str
    number: str
    account: str
    realm: str
    data: Payload = field(default_factory=dict)
    children: tuple[str, ...] = ()
    call_id: str = ""
    caller_name: str = "Caller One"
    caller_number: str = "+15550001001"
    user: str = "1001"
    blind: bool = False
    referred_by: str = "user_parker"
    """SIP user of the REFER; empty: no Referred-By."""
    replaces: str = ""
    capture_group: str = ""
    channel_vars: Payload = field(default_factory=dict)
    status: str = "active"
    """``active``, ``terminated``, ``tmpdown`` or ``silent``."""
    other_leg: str = ""
    answers: Answers = field(default_factory=dict)
    """How commands are answered when not in the usual way (`ANSWERS`)."""
    bridges: list[str] = field(default_factory=list)
    """Outcome of each next bridge: ``answer``, ``intercept``, ``ring`` or a failure cause."""
    lost: bool = False
    """Control is gone: commands go nowhere."""

    def __post_init__(self) -> None:
        self.call_id = self.call_id or f"{self.name}-{secrets.token_hex(3)}@10.0.0.9"
        self.fetch_id = f"{secrets.token_hex(8)}-fetch"
        self.action_id = secrets.token_hex(16)
        self.control_pid = self.flow_pid = ""
        self.peer: Peer | None = None
        self.log: list[tuple[str, Seen]] = []
        self.results: list[str] = []
        self.in_vain: list[str] = []
        self.asked = 0
        self.legs = 0
        self.channel_vars = {
            "Username": f"user_{self.user}",
            "Realm": self.realm,
            "Fetch-ID": self.fetch_id,
            "Ecallmgr-Node": "ecallmgr@127.0.0.1",
            "CallFlow-ID": "cf9b8f0779badbad3b46d6718ee95a68",
            "Call-Interaction-ID": f"63800000000-{self.name[:8]}",
            "Authorizing-Type": "device",
            "Authorizing-ID": CALLER,
            "Account-ID": self.account,
            **self.channel_vars,
        }
        if self.blind or self.replaces:
            replaces = f"?Replaces={self.replaces};to-tag=abc;from-tag=def" if self.replaces else ""
            self.channel_vars["Referred-To"] = f"<sip:{self.number}@{self.realm}{replaces}>"
            if self.referred_by:
                self.channel_vars["Referred-By"] = f"<sip:{self.referred_by}@{self.realm}>"

    # ---- the execute, shaped like golden/execute-*.json

    def execute_payload(self, control: str, controller: str) -> Payload:
        return {
            "Data": self.data,
            "Call": self._call(control, controller),
            "Call-ID": self.call_id,
            "Server-ID": controller,
            "Node": "kazoo_apps@127.0.0.1",
            "Msg-ID": self.action_id,
            "Event-Name": "action.execute",
            "Event-Category": "callflow",
            "App-Version": "4.0.0",
            "App-Name": "callflow",
        }

    def _call(self, control: str, controller: str) -> Payload:
        store: Payload = {
            "action-exit-keys": list(self.children),
            "cf_capture_groups": {},
            "cf_flow_id": "cf9b8f0779badbad3b46d6718ee95a68",
            "cf_flow_name": self.number,
            "cf_last_action": "park",
            "cf_no_match": False,
            "denied_call_restrictions": {},
            "remote-action": "park",
        }
        if self.capture_group:
            store["cf_capture_group"] = self.capture_group
        if "Referred-By" in self.channel_vars and self.referred_by == "user_parker":
            store["Restricted-Endpoint-ID"] = PARKER
        account = self.account
        return {
            "Key-Value-Store": store,
            "Account-DB": f"account%2F{account[:2]}%2F{account[2:4]}%2F{account[4:]}",
            "Account-ID": account,
            "Authorizing-ID": CALLER,
            "Authorizing-Type": "device",
            "Call-Bridged": False,
            "Call-Direction": "inbound",
            "Call-ID": self.call_id,
            "Callee-ID-Name": "",
            "Callee-ID-Number": self.number,
            "Caller-ID-Name": self.caller_name,
            "Caller-ID-Number": self.caller_number,
            "Control-Queue": control,
            "Controller-Queue": controller,
            "Custom-Application-Vars": {},
            "Custom-Channel-Vars": self.channel_vars,
            "Custom-SIP-Headers": {},
            "Fetch-ID": self.fetch_id,
            "From": f"{self.user}@{self.realm}",
            "From-Realm": self.realm,
            "From-Tag": f"ft{self.name[:6]}",
            "From-User": self.user,
            "Is-Recording": False,
            "Is-Call-Forward": False,
            "Language": "en-us",
            "Message-Left": False,
            "Request": f"{self.number}@{self.realm}",
            "Request-Realm": self.realm,
            "Request-User": self.number,
            "Resource-Type": "audio",
            "Switch-Hostname": "fs1.rig.example.com",
            "Switch-Nodename": "freeswitch@fs1.rig.example.com",
            "Switch-URI": "sip:10.0.0.1:11000",
            "Switch-URL": "sip:mod_sofia@10.0.0.1:11000",
            "To": f"{self.number}@{self.realm}",
            "To-Realm": self.realm,
            "To-User": self.number,
        }

    # ---- its story

    def add(self, name: str, one: Seen) -> None:
        self.log.append((name, one))

    def names(self) -> list[str]:
        return [name for name, _ in self.log]

    def count(self, name: str) -> int:
        return self.names().count(name)

    def payloads(self, name: str) -> list[Payload]:
        return [one.payload for logged, one in self.log if logged == name]

    def commands(self) -> list[str]:
        """Names of the channel commands, in order."""
        return [name for name, one in self.log if one.exchange == "callctl"]

    def lamp(self) -> str:
        """The last dialog state published for this call, empty if none."""
        states = [name for name, one in self.log if one.exchange == "presence"]
        return states[-1] if states else ""

    def story(self) -> str:
        results = [NAMES.get(result, result) for result in self.results]
        return f"{self.call_id}: {' '.join(self.names())} => {results or 'no result'}"

    def wait(self, name: str, timeout_s: float = 3.0, *, times: int = 1) -> Payload:
        """The ``times``-th message of that name: a command, ``PARK_…``, a dialog state,
        ``accepted`` or ``result``."""
        self._peer.wait(
            lambda: self.count(name) >= times, timeout_s, f"{self.call_id}: {times} x {name}"
        )
        return self.payloads(name)[times - 1]

    def wait_result(self, *wanted: str, timeout_s: float = 3.0) -> None:
        """The one result, which must be among ``wanted``."""
        self.wait("result", timeout_s)
        assert self.results[0] in wanted, self.story()
        assert len(self.results) == 1, self.story()

    @property
    def _peer(self) -> Peer:
        if self.peer is None:
            raise AssertionError(f"{self.call_id} was not placed")
        return self.peer

    # ---- what its channel does

    def event(self, name: str, **fields: object) -> None:
        self._peer.event(self, name, **fields)

    def completed(self, application: str, response: str = "", **fields: object) -> None:
        extra = {"Application_Response": response} if response else {}
        self.event("CHANNEL_EXECUTE_COMPLETE", Application_Name=application, **extra, **fields)

    def bridged(self, other_leg: str) -> None:
        self.other_leg = other_leg
        self.event("CHANNEL_BRIDGE", Other_Leg_Call_ID=other_leg, Other_Leg_Direction="outbound")

    def hang_up(self, cause: str = "NORMAL_CLEARING") -> None:
        if self.status != "terminated":
            self.status = "terminated"
            self.event("CHANNEL_DESTROY", Hangup_Cause=cause, Channel_State="DESTROY")

    def flow_ends(self, result: str) -> None:
        """What cf_exe does with a result (contract §2.5): hang up, or go on to a child."""
        if result == STOP or (result not in {TRANSFER, STOP} and not self.children):
            self.hang_up()


# ---- how commands are answered -------------------------------------------------------------------


def _answer(call: PeerCall, _command: Payload) -> None:
    call.event("CHANNEL_ANSWER")
    call.completed("answer")


def _queue(call: PeerCall, command: Payload) -> None:
    for element in reversed(command["Commands"]):
        name = element["Application-Name"]
        call.completed(name, element["Msg-ID"] if name == "noop" else "FILE PLAYED")


def _say(call: PeerCall, _command: Payload) -> None:
    call.completed("say", "FILE PLAYED")


def _noop(call: PeerCall, command: Payload) -> None:
    call.completed("noop", command["Msg-ID"])


def _hangup(call: PeerCall, _command: Payload) -> None:
    call.hang_up()


def _bridge(call: PeerCall, _command: Payload) -> None:
    """Starting a bridge ends the hold; then what the script says (contract §4.10)."""
    outcome = call.bridges.pop(0) if call.bridges else "ring"
    call.completed("hold")
    call.legs += 1
    match outcome:
        case "ring":
            pass
        case "answer":
            call.bridged(f"parkerleg-{call.legs}-{call.name}")
        case "intercept":
            call.event("CHANNEL_INTERCEPTED", Intercepted_By="third@10.0.0.3")
            call.bridged("third@10.0.0.3")
        case cause:
            call.completed("bridge", cause, Disposition=cause, Hangup_Cause=cause)


def _pickup(call: PeerCall, command: Payload) -> None:
    """A pickup that succeeds, in the order of contract §4.9."""
    target_id = command["Target-Call-ID"]
    target = call._peer.calls.get(target_id)
    if target is None or target.status != "active":
        not_found(call, command)
        return
    if command.get("Publish-Usurp") is not False:
        target.event("usurp_control", Fetch_ID=secrets.token_hex(4), Reason="redirect")
        target.lost = True
    call.event("CHANNEL_ANSWER")
    target.event("CHANNEL_INTERCEPTED", Intercepted_By=call.call_id, Other_Leg_Call_ID=call.call_id)
    target.completed("hold")
    call.bridged(target_id)
    target.bridged(call.call_id)


def recorded_pickup(call: PeerCall, command: Payload) -> None:
    """As in golden 01: the parkee's hold ends without a word of the interception."""
    target = call._peer.calls[command["Target-Call-ID"]]
    call.event("CHANNEL_ANSWER")
    target.completed("hold")
    target.other_leg = call.call_id
    call.bridged(target.call_id)


def not_found(call: PeerCall, command: Payload) -> None:
    """The dialplan error for a target nobody knows (contract §3.7, §4.9)."""
    refuse(call, command, f"failed to find target callid {command.get('Target-Call-ID')}")


def refuse(call: PeerCall, command: Payload, message: str = "Could not execute") -> None:
    """A dialplan error for a command."""
    call.event(
        "dialplan",
        Event_Category="error",
        App_Name="ecallmgr",
        Msg_ID=command["Msg-ID"],
        Error_Message=message,
        Channel_Call_State="ACTIVE",
        Request={
            "Application-Name": command["Application-Name"],
            "Call-ID": call.call_id,
            "Msg-ID": command["Msg-ID"],
        },
    )


ANSWERS: Mapping[str, Answer] = {
    "answer": _answer,
    "queue": _queue,
    "say": _say,
    "noop": _noop,
    "hangup": _hangup,
    "bridge": _bridge,
    "call_pickup": _pickup,
}
"""hold, park, set and break are answered with silence."""


def account_of(name: str) -> str:
    """An account of one's own for a scenario: 32 hex digits."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def pause(duration_s: float) -> None:
    """Time that passes for people, not a wait for the worker."""
    time.sleep(duration_s)
