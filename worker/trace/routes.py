"""The execute a call would have caused, had its park node been remote (contract §2.2).

When the platform's own module parks, the wire shows how the call was routed: the switch's
``route_req``, callflow's ``route_resp`` and the switch's ``route_win``. Together with the callflow
document that is all an ``action.execute`` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from worker.kapi.fields import as_object, as_text
from worker.kapi.sip import parse_referrer
from worker.trace.callflows import Callflows
from worker.trace.lines import Message

Plain = Mapping[str, object]

EXECUTE_KEY: Final = "callflow.action.park"
UNKNOWN_DEVICE: Final = "device-of-"
"""Stands before the SIP user when nobody knows the parker's device."""
MOST_CALLS: Final = 20_000

_FROM_REQUEST: Final = (
    "Caller-ID-Name",
    "Caller-ID-Number",
    "Call-Direction",
    "From-Tag",
    "Resource-Type",
    "Switch-Hostname",
    "Switch-Nodename",
    "Switch-URI",
    "Switch-URL",
    "Custom-SIP-Headers",
    "Custom-Application-Vars",
    "Inception",
)
_ADDRESSES: Final = ("From", "To", "Request")


@dataclass(slots=True)
class _Routing:
    request: Plain
    response: Plain = field(default_factory=dict)


@dataclass(slots=True)
class Routes:
    """Give it all routing messages in order; `execute_of` a route_win gives the execute."""

    callflows: Callflows
    nodes: set[str] = field(default_factory=set)
    """Nodes on which callflow runs: they park."""
    _calls: dict[str, _Routing] = field(default_factory=dict)
    _devices: dict[str, str] = field(default_factory=dict)

    def saw(self, message: Message) -> Message | None:
        """The derived execute when this is the win of a call that reaches a park node."""
        payload = message.payload or {}
        call_id = message.text("Call-ID")
        match message.text("Event-Name"):
            case "route_req":
                self._calls[call_id] = _Routing(payload)
                self._learn_device(payload)
                while len(self._calls) > MOST_CALLS:
                    del self._calls[next(iter(self._calls))]
            case "route_resp" if call_id in self._calls:
                self._calls[call_id].response = payload
                self.nodes.add(message.text("Node"))
            case "route_win":
                return self._execute(message, call_id, payload)
        return None

    def _learn_device(self, request: Plain) -> None:
        """Who calls tells us which device its SIP user is."""
        variables = as_object(request.get("Custom-Channel-Vars"))
        user, device = as_text(variables.get("Username")), as_text(variables.get("Authorizing-ID"))
        if user and device and variables.get("Authorizing-Type") == "device":
            self._devices[user] = device

    def _execute(self, win: Message, call_id: str, payload: Plain) -> Message | None:
        routing = self._calls.pop(call_id, None)
        if routing is None:
            return None
        request = routing.request
        variables = dict(as_object(payload.get("Custom-Channel-Vars")))
        account = as_text(variables.get("Account-ID"))
        number = as_text(request.get("Request")).partition("@")[0]
        match = self.callflows.find(account, number)
        if match is None:
            return None
        controller = routing.response.get("Server-ID") or f"pid://{win.key}"
        store = self._store(match.flow.id, match.flow.children, match.capture, variables)
        call = self._call(request, payload, variables, call_id, as_text(controller)) | {
            "Key-Value-Store": store
        }
        body = {
            "Event-Category": "callflow",
            "Event-Name": "action.execute",
            "App-Name": "callflow",
            "App-Version": "4.0.0",
            "Node": as_text(routing.response.get("Node")) or "callflow@shadow",
            "Msg-ID": _action_id(call_id, as_text(variables.get("Fetch-ID"))),
            "Server-ID": controller,
            "Call-ID": call_id,
            "Data": dict(match.flow.data),
            "Call": call,
        }
        return Message(
            at_ms=win.at_ms,
            exchange="kapps",
            key=EXECUTE_KEY,
            payload=body,
            sent_at_ms=win.at_ms,
            number=win.number,
        )

    def _store(
        self, flow: str, children: tuple[str, ...], capture: str, variables: Plain
    ) -> dict[str, object]:
        store: dict[str, object] = {
            "action-exit-keys": list(children),
            "cf_flow_id": flow,
            "cf_last_action": "park",
            "remote-action": "park",
        }
        if capture:
            store["cf_capture_group"] = capture
        user = parse_referrer(as_text(variables.get("Referred-By"))).user
        if user:
            device = self.callflows.devices.get(user) or self._devices.get(user)
            store["Restricted-Endpoint-ID"] = device or f"{UNKNOWN_DEVICE}{user}"
        return store

    @staticmethod
    def _call(
        request: Plain, win: Plain, variables: Plain, call_id: str, controller: str
    ) -> dict[str, object]:
        call: dict[str, object] = {
            name: request[name] for name in _FROM_REQUEST if name in request
        }
        for name in _ADDRESSES:
            address = as_text(request.get(name))
            user, _, realm = address.partition("@")
            call |= {name: address, f"{name}-User": user, f"{name}-Realm": realm}
        call |= {
            "Account-ID": variables.get("Account-ID"),
            "Authorizing-ID": variables.get("Authorizing-ID"),
            "Authorizing-Type": variables.get("Authorizing-Type"),
            "Call-ID": call_id,
            "Callee-ID-Name": "",
            "Callee-ID-Number": call["To-User"],
            "Control-Queue": win.get("Control-Queue"),
            "Controller-Queue": controller,
            "Custom-Channel-Vars": dict(variables),
            "Fetch-ID": variables.get("Fetch-ID"),
            "Language": as_text(request.get("Language")) or "en-us",
        }
        return {name: value for name, value in call.items() if value is not None}


def _action_id(call_id: str, fetch_id: str) -> str:
    """Stands for the action's Msg-ID: always the same for the same routing of the same call."""
    return hashlib.blake2b(f"{call_id} {fetch_id}".encode(), digest_size=16).hexdigest()
