"""Recordings of a platform's own park module, written by us after the contract (§4 to §7, §11).

`Stage` builds the messages of a call that is routed, parked and retrieved by callflow's module the
way the contract tells it. ``python -m tests.unit.trace.platform_module`` writes
fixtures/traces/platform-*.json; a test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.kapi.keys import encode

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "fixtures" / "traces"
ACCOUNT = "fedcba9876543210fedcba9876543210"
REALM = "stage.example.com"
PARKER_DEVICE = "c0ffee00000000000000000000000001"
APPS = "kazoo_apps@stage"
SWITCH = "ecallmgr@stage"
CONTROL = "ecallmgr-stage-ctl"
FLOWS = "callflow-stage"

FLOW_DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": "auto",
        "numbers": [],
        "patterns": [r"^\*3([0-9]+)$"],
        "flow": {
            "module": "park",
            "data": {"action": "auto", "default_ringback_timeout": 5000},
            "children": {},
        },
    },
    {
        "id": "wildcard",
        "numbers": ["700"],
        "flow": {
            "module": "park",
            "data": {"action": "park", "slot": "700", "default_ringback_timeout": 5000},
            "children": {"_": {"module": "voicemail", "data": {}, "children": {}}},
        },
    },
    {
        "id": "limited",
        "numbers": ["800"],
        "flow": {
            "module": "park",
            "data": {"action": "park", "slot": "800", "max_slot_number": 110},
            "children": {},
        },
    },
    {"id": "other", "numbers": ["900"], "flow": {"module": "voicemail", "data": {}}},
]


@dataclass
class Stage:
    """One recording in the making; `after` lets time pass."""

    name: str
    description: str
    now_ms: float = 0.0
    messages: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    _ids: int = 0

    def after(self, ms: float) -> Stage:
        self.now_ms += ms
        return self

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:032x}"

    def _add(
        self, exchange: str, key: str, payload: dict[str, Any], *, headers: Any = None, out: bool
    ) -> None:
        self.messages.append(
            {
                "t_ms": round(self.now_ms, 1),
                "direction": "out" if out else "in",
                "exchange": exchange,
                "routing_key": key,
                "properties": {"headers": headers or {}, "content_type": "application/json"},
                "payload": payload,
            }
        )

    # ---- the switch -----------------------------------------------------------------------------

    def routed(self, call_id: str, number: str, *, blind: bool = False, user: str = "ann") -> None:
        """route_req, route_resp, route_win, and the announcement of the win."""
        fetch = f"fetch-{call_id}"
        variables: dict[str, Any] = {
            "Account-ID": ACCOUNT,
            "Realm": REALM,
            "Username": user,
            "Authorizing-Type": "device",
            "Authorizing-ID": f"device-{user}",
            "Fetch-ID": fetch,
        }
        if blind:
            variables["Referred-By"] = f"<sip:parker@{REALM}>"
            variables["Referred-To"] = f"<sip:{number}@{REALM}>"
        self.variables[call_id] = variables
        head = {"Call-ID": call_id, "App-Name": "ecallmgr", "App-Version": "4.0.0", "Node": SWITCH}
        request = {
            **head,
            "Event-Category": "dialplan",
            "Event-Name": "route_req",
            "Msg-ID": fetch,
            "Caller-ID-Name": user.title(),
            "Caller-ID-Number": "+15550002001",
            "From": f"{user}@{REALM}",
            "To": f"{number}@{REALM}",
            "Request": f"{number}@{REALM}",
            "Call-Direction": "inbound",
            "Resource-Type": "audio",
            "From-Tag": f"tag-{user}",
            "Switch-Nodename": "freeswitch@stage",
            "Switch-URI": "sip:10.9.0.1:11000",
            "Custom-Channel-Vars": variables,
            "Server-ID": f"pid://<0.9.0>/{CONTROL}",
        }
        self._add("callmgr", f"route.req.audio.{ACCOUNT}", request, out=False)
        response = {
            "Event-Category": "dialplan",
            "Event-Name": "route_resp",
            "Msg-ID": fetch,
            "Call-ID": call_id,
            "Method": "park",
            "Routes": [],
            "Server-ID": f"pid://<0.4.{len(self.variables)}>/{FLOWS}",
            "App-Name": "callflow",
            "App-Version": "4.0.0",
            "Node": APPS,
        }
        self.after(1)._add("targeted", CONTROL, response, out=True)
        win = {
            **head,
            "Event-Category": "dialplan",
            "Event-Name": "route_win",
            "Msg-ID": call_id,
            "Control-Queue": f"pid://<0.9.0>/{CONTROL}",
            "Custom-Channel-Vars": variables,
            "Server-ID": CONTROL,
        }
        self.after(1)._add("targeted", FLOWS, win, out=False)
        self.event("usurp_control", call_id, Fetch_ID=fetch, Reason="Route-Win")
        self.after(2)

    def event(self, name: str, call_id: str, category: str = "call_event", **fields: Any) -> None:
        payload = {
            "Event-Category": category,
            "Event-Name": name,
            "Call-ID": call_id,
            "Msg-ID": f"{self.now_ms:.0f}",
            "App-Name": "freeswitch",
            "App-Version": "1.0",
            "Node": SWITCH,
            "Custom-Channel-Vars": self.variables.get(call_id, {}),
            **{field.replace("_", "-"): value for field, value in fields.items()},
        }
        key = f"call.{name}.{encode(call_id)}"
        self._add("callevt", key, payload, headers={"call-id": call_id}, out=False)

    def completed(self, app: str, call_id: str, response: str = "", **fields: Any) -> None:
        extra = {"Application_Response": response} if response else {}
        self.event(
            "CHANNEL_EXECUTE_COMPLETE", call_id, Application_Name=app, **extra, **fields
        )

    def asked(self, call_id: str, status: str) -> None:
        """The platform asks for a channel and gets its answer."""
        msg_id = self._new_id()
        request = {
            "Event-Category": "call_event",
            "Event-Name": "channel_status_req",
            "Call-ID": call_id,
            "Msg-ID": msg_id,
            "Server-ID": "kz_amqp_pool",
            "App-Name": "kapps_call_command",
            "App-Version": "4.0.0",
            "Node": APPS,
        }
        self._add("callevt", f"call.status_req.{encode(call_id)}", request, out=True)
        answer = {
            "Event-Category": "call_event",
            "Event-Name": "channel_status_resp",
            "Call-ID": call_id,
            "Msg-ID": msg_id,
            "Status": status,
            "App-Name": "ecallmgr",
            "App-Version": "4.0.0",
            "Node": SWITCH,
        }
        self.after(1)._add("targeted", "kz_amqp_pool", answer, out=False)
        self.after(1)

    # ---- callflow's module ----------------------------------------------------------------------

    def _envelope(self, category: str, name: str, call_id: str) -> dict[str, Any]:
        return {
            "Event-Category": category,
            "Event-Name": name,
            "Call-ID": call_id,
            "Msg-ID": self._new_id(),
            "App-Name": "callflow",
            "App-Version": "4.0.0",
            "Node": APPS,
        }

    def command(self, name: str, call_id: str, **fields: Any) -> str:
        payload = self._envelope("call", "command", call_id) | {"Application-Name": name}
        payload |= {field.replace("_", "-"): value for field, value in fields.items()}
        headers = {"Deliver-To-PID": "<0.9.0>"}
        self._add("callctl", CONTROL, payload, headers=headers, out=True)
        return str(payload["Msg-ID"])

    def park_event(self, name: str, call_id: str, slot: str) -> None:
        variables = self.variables[call_id]
        number = str(variables.get("Referred-To", "")) or ""
        payload = self._envelope("call_event", name, call_id) | {
            "Caller-ID-Name": str(variables["Username"]).title(),
            "Caller-ID-Number": "+15550002001",
            "Callee-ID-Number": number.removeprefix("<sip:").partition("@")[0] or self.dialled,
            "Custom-Channel-Vars": {**variables, "Realm": REALM},
            "Parking-Slot": slot,
        }
        key = f"call.{name}.{encode(call_id)}"
        self._add("callevt", key, payload, headers={"call-id": call_id}, out=True)

    dialled: str = ""
    """What the call dialled that was not transferred."""

    def lamp(self, state: str, call_id: str, user: str, *, expires: int = 3600) -> None:
        who = str(self.variables[call_id]["Username"])
        uri = f"{user}@{REALM}"
        payload = self._envelope("presence", "dialog_update", call_id) | {
            "App-Name": "park",
            "Presence-ID": uri,
            "From": f"sip:{uri}",
            "From-User": user,
            "From-Realm": REALM,
            "From-Tag": "A",
            "To": f"{who}@{REALM}",
            "To-User": who.title(),
            "To-Realm": REALM,
            "To-Tag": "B",
            "To-URI": f"sip:{uri}",
            "State": state,
            "Switch-URI": "sip:10.9.0.1:11000",
            "Direction": "recipient",
            "Expires": 10 if state == "terminated" else expires,
            "Event-Package": "dialog",
        }
        self._add("presence", f"dialog.{encode(REALM)}.{encode(call_id)}", payload, out=True)

    def outcome(self, call_id: str, result: str, *arguments: str) -> None:
        args = [f'<<"{argument}">>' for argument in arguments]
        self.outcomes.append(
            {"call_id": call_id, "outcome": result, "args": args, "t_ms": round(self.now_ms, 1)}
        )

    def parked(self, call_id: str, number: str, slot: str, user: str) -> None:
        """A blind transfer, up to the hold."""
        self.routed(call_id, number, blind=True)
        self.park_event("PARK_PARKED", call_id, slot)
        self.lamp("early", call_id, user)
        self.after(1).command("hold", call_id, Insert_At="now")
        self.after(20)

    def rung(self, call_id: str, slot: str, number: str) -> None:
        """The ringback as §7.10 has it."""
        self.asked(call_id, "active")
        caller = str(self.variables[call_id]["Username"]).title()
        none: dict[str, Any] = {"Custom_Call_Vars": {}, "Export_All": False, "Insert_At": "now"}
        for name, value in (("Number", "+15550002001"), ("Name", caller)):
            self.command("set", call_id, Custom_Channel_Vars={f"Callee-ID-{name}": value}, **none)
        restore = self._envelope("call", "command", self._new_id()) | {
            "Application-Name": "set",
            "Custom-Channel-Vars": {"Caller-ID-Name": caller},
            "Custom-Call-Vars": {},
        }
        endpoint = {
            "Invite-Format": "endpoint",
            "Endpoint-URI": f"{PARKER_DEVICE}@{ACCOUNT}",
            "Endpoint-ID": PARKER_DEVICE,
            "Account-ID": ACCOUNT,
            "Outbound-Caller-ID-Name": f"Parking slot {slot} - {caller}",
            "Outbound-Caller-ID-Number": "+15550002001",
            "Outbound-Callee-ID-Name": "The parker",
            "Outbound-Callee-ID-Number": number,
            "Privacy-Method": "kazoo",
            "Custom-Channel-Vars": {},
            "Endpoint-Actions": {"Execute-On-Answer": {"Set-Caller-ID": restore}},
        }
        forms = {"e164": number, "npan": number, "1npan": number, "strip_plus": number}
        self.command(
            "bridge",
            call_id,
            Timeout=20,
            Ignore_Early_Media="true",
            Ignore_Forward="false",
            Dial_Endpoint_Method="single",
            Call_Context={
                "Inception": "onnet",
                "Flags": ["direct_call"],
                "request": {**forms, "route": number},
            },
            Endpoints=[endpoint],
        )
        self.after(2)

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "messages": self.messages,
            "outcome": self.outcomes,
        }


# ---- the recordings -----------------------------------------------------------------------------


def parked_and_abandoned() -> Stage:
    stage = Stage("parked-and-abandoned", "blind park, the caller hangs up after three seconds")
    stage.parked("ann@10.9.0.2", "*3101", "101", "*3101")
    stage.after(3_000).event("CHANNEL_DESTROY", "ann@10.9.0.2", Hangup_Cause="NORMAL_CLEARING")
    stage.after(1).park_event("PARK_ABANDONED", "ann@10.9.0.2", "101")
    stage.lamp("terminated", "ann@10.9.0.2", "*3101")
    stage.outcome("ann@10.9.0.2", "stop")
    return stage


def retrieved_twice() -> Stage:
    stage = Stage("retrieved-twice", "D18: both sides of a pickup say PARK_RETRIEVED")
    stage.parked("ann@10.9.0.2", "*3101", "101", "*3101")
    stage.dialled = "*3101"
    stage.after(900).routed("bob@10.9.0.3", "*3101", user="bob")
    stage.command(
        "call_pickup",
        "bob@10.9.0.3",
        Target_Call_ID="ann@10.9.0.2",
        Unbridged_Only=True,
        Continue_On_Fail=False,
        Continue_On_Cancel=True,
        Park_After_Pickup=False,
    )
    stage.after(5).event("CHANNEL_INTERCEPTED", "ann@10.9.0.2", Intercepted_By="bob@10.9.0.3")
    stage.completed("hold", "ann@10.9.0.2")
    stage.event("CHANNEL_BRIDGE", "bob@10.9.0.3", Other_Leg_Call_ID="ann@10.9.0.2")
    stage.event("CHANNEL_BRIDGE", "ann@10.9.0.2", Other_Leg_Call_ID="bob@10.9.0.3")
    stage.after(1).park_event("PARK_RETRIEVED", "ann@10.9.0.2", "101")
    stage.lamp("terminated", "ann@10.9.0.2", "*3101")
    stage.park_event("PARK_RETRIEVED", "bob@10.9.0.3", "101")
    stage.outcome("ann@10.9.0.2", "transfer")
    stage.outcome("bob@10.9.0.3", "transfer")
    return stage


def wildcard_child() -> Stage:
    stage = Stage("wildcard-child", "D19: an unanswered ringback goes to the wildcard child")
    stage.parked("ann@10.9.0.2", "700", "700", "700700")
    stage.after(4_975).rung("ann@10.9.0.2", "700", "700")
    stage.after(15_000).completed(
        "bridge", "ann@10.9.0.2", "NO_ANSWER", Disposition="NO_ANSWER", Hangup_Cause="NO_ANSWER"
    )
    stage.after(1).park_event("PARK_ABANDONED", "ann@10.9.0.2", "700")
    stage.lamp("terminated", "ann@10.9.0.2", "700700")
    stage.outcome("ann@10.9.0.2", "continue", "700")
    return stage


def hold_ended() -> Stage:
    stage = Stage("hold-ended", "D14: the hold ends by itself and is taken for a pickup")
    stage.parked("ann@10.9.0.2", "*3101", "101", "*3101")
    stage.after(2_000).completed("hold", "ann@10.9.0.2")
    stage.after(1).park_event("PARK_RETRIEVED", "ann@10.9.0.2", "101")
    stage.lamp("terminated", "ann@10.9.0.2", "*3101")
    stage.outcome("ann@10.9.0.2", "transfer")
    return stage


def over_the_maximum() -> Stage:
    stage = Stage("over-the-maximum", "D4: a blind transfer above max_slot_number crashes")
    stage.routed("ann@10.9.0.2", "800", blind=True)
    stage.after(1).outcome("ann@10.9.0.2", "continue")
    return stage


def not_parked() -> Stage:
    stage = Stage("not-parked", "a call to another module is nobody's business here")
    stage.routed("ann@10.9.0.2", "900")
    stage.event("CHANNEL_DESTROY", "ann@10.9.0.2", Hangup_Cause="NORMAL_CLEARING")
    return stage


RECORDINGS: tuple[Callable[[], Stage], ...] = (
    parked_and_abandoned,
    retrieved_twice,
    wildcard_child,
    hold_ended,
    over_the_maximum,
    not_parked,
)


def files() -> dict[Path, str]:
    """Path → content of everything this module writes."""
    stages = [make() for make in RECORDINGS]
    found = {
        FOLDER / f"platform-{stage.name}.json": json.dumps(stage.document(), indent=1) + "\n"
        for stage in stages
    }
    flows = {"devices": {"parker": PARKER_DEVICE}, "data": FLOW_DOCUMENTS}
    found[FOLDER / "callflows" / "stage.json"] = json.dumps(flows, indent=1) + "\n"
    return found


def main() -> int:
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
