"""The callflow application: one cf_exe per call runs its park node remotely (contract §2). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from worker.switch.channels import Channel, Channels
from worker.switch.ecallmgr import Ecallmgr
from worker.switch.plan import CallPlan
from worker.switch.wire import (
    DroppedError,
    FlowResult,
    Outgoing,
    Payload,
    ResultError,
    address,
    decode_result,
    table,
    text,
)
from worker.switch.world import World

LATE_RESULT = "result after the flow ended"
"""Why such a result is dropped; harmless (contract §12)."""


@dataclass(slots=True, kw_only=True)
class Flow:
    """One cf_exe process with its remote action."""

    plan: CallPlan
    call_id: str
    fetch_id: str
    action_id: str
    """Msg-ID of the action.execute."""
    pid: str
    control_pid: str
    accepted: int = 0
    results: list[FlowResult] = field(default_factory=list)
    """Every decoded result that passed the Call-ID and Msg-ID checks while the flow waited."""
    late_results: int = 0
    """Results for a flow that was over already."""
    ended: str = ""
    """``continue``, ``stop``, ``transfer``, ``destroyed``, ``control_usurped``, ``pivot``,
    ``unroutable``; empty while the action runs."""
    branch: str | None = None
    """The child the call went on to."""
    destroyed: bool = False

    @property
    def result(self) -> FlowResult | None:
        return self.results[0] if self.results else None


class Callflow:
    """Publishes action.execute and acts on what comes back."""

    def __init__(
        self, world: World, channels: Channels, control: Ecallmgr, queues: tuple[str, str]
    ) -> None:
        self.world = world
        self.channels = channels
        self.control = control
        self.control_queue, self.controller_queue = queues
        self.flows: dict[str, Flow] = {}
        """By controller pid, finished ones too: their late results are counted."""
        self.by_call: dict[str, Flow] = {}
        world.listeners.append(self._event)

    # ---- a call enters

    def place(self, plan: CallPlan) -> Flow:
        """A route_win: the call's flow reaches its park node now."""
        call_id = plan.call_id or self.world.new_id("call")
        channel = self.channels.living(call_id)
        if channel is None:
            channel = Channel(call_id=call_id, server=plan.server, device=plan.caller)
            channel.answered = plan.transferred_by is not None or plan.unknown_referrer
            self.channels.add(channel)
        channel.channel_vars = self._channel_vars(plan, call_id)
        session = self.control.open(channel, f"{self.world.new_hex()[:16]}-fetch")
        flow = Flow(
            plan=plan,
            call_id=call_id,
            fetch_id=session.fetch_id,
            action_id=self.world.new_hex(),
            pid=self.world.new_pid(),
            control_pid=session.pid,
        )
        self.flows[flow.pid] = flow
        self.channels.usurp(call_id, session.fetch_id, "Route-Win")
        self.by_call[call_id] = flow
        if plan.cold:
            channel.alive = False
        self._execute(flow, channel)
        if plan.replaces and plan.replaced_leg_ends:
            self._end_replaced_leg(plan.replaces)
        return flow

    def _end_replaced_leg(self, call_id: str) -> None:
        def end() -> None:
            leg = self.channels.living(call_id)
            if leg is not None:
                self.control.hang_up(leg, "NORMAL_CLEARING")

        self.world.after(self.world.plan.timing.replaced_leg_ms, end)

    def _channel_vars(self, plan: CallPlan, call_id: str) -> Payload:
        values: Payload = {
            "Account-ID": plan.account,
            "Account-Realm": plan.realm,
            "Realm": plan.realm,
            "Ecallmgr-Node": self.world.node,
            "Call-Interaction-ID": f"63800000000-{call_id[:8]}",
        }
        if plan.caller is not None:
            values["Username"] = plan.caller.username
            values["Authorizing-ID"] = plan.caller.id
            values["Authorizing-Type"] = "device"
        if plan.transferred_by is not None:
            referrer = plan.transferred_by
            values["Referred-By"] = f"<sip:{referrer.username}@{referrer.realm}>"
        if plan.replaces:
            replaces = f"?Replaces={plan.replaces};to-tag=abc;from-tag=def"
            values["Referred-To"] = f"<sip:{plan.number}@{plan.realm}{replaces}>"
        elif plan.transferred_by is not None or plan.unknown_referrer:
            values["Referred-To"] = f"<sip:{plan.number}@{plan.realm}>"
        values.update(plan.channel_vars)
        return values

    def _execute(self, flow: Flow, channel: Channel) -> None:
        payload: Payload = {
            "Event-Category": "callflow",
            "Event-Name": "action.execute",
            "App-Name": "callflow",
            "App-Version": "4.0.0",
            "Node": f"kazoo_apps@{self.world.name}",
            "Msg-ID": flow.action_id,
            "Server-ID": address(flow.pid, self.controller_queue),
            "Call-ID": flow.call_id,
            "Data": dict(flow.plan.data),
            "Call": self._call(flow, channel),
        }
        self.world.note(flow.call_id, "execute", payload)
        self.world.publish(
            Outgoing(
                exchange="kapps",
                routing_key=f"callflow.action.{self.world.plan.module}",
                payload=payload,
                mandatory=True,
            )
        )

    def _call(self, flow: Flow, channel: Channel) -> Payload:
        plan = flow.plan
        user = plan.caller.username if plan.caller is not None else plan.caller_number
        call: Payload = {
            "Account-ID": plan.account,
            "Account-DB": "%2F".join(
                ("account", plan.account[:2], plan.account[2:4], plan.account[4:])
            ),
            "Call-Bridged": False,
            "Call-Direction": "inbound",
            "Call-ID": flow.call_id,
            "Callee-ID-Name": "",
            "Callee-ID-Number": plan.number,
            "Caller-ID-Name": plan.caller_name,
            "Caller-ID-Number": plan.caller_number,
            "Control-Queue": address(flow.control_pid, self.control_queue),
            "Controller-Queue": address(flow.pid, self.controller_queue),
            "Custom-Application-Vars": {},
            "Custom-Channel-Vars": dict(channel.channel_vars),
            "Custom-SIP-Headers": {},
            "Fetch-ID": flow.fetch_id,
            "From": f"{user}@{plan.realm}",
            "From-Realm": plan.realm,
            "From-Tag": f"ft-{flow.action_id[:8]}",
            "From-User": user,
            "Key-Value-Store": self._store(plan),
            "Language": "en-us",
            "Message-Left": False,
            "Request": f"{plan.number}@{plan.realm}",
            "Request-Realm": plan.realm,
            "Request-User": plan.number,
            "Resource-Type": "audio",
            "To": f"{plan.number}@{plan.realm}",
            "To-Realm": plan.realm,
            "To-User": plan.number,
            **self.channels.switch_fields(channel.server),
        }
        if plan.caller is not None:
            call["Authorizing-ID"] = plan.caller.id
            call["Authorizing-Type"] = "device"
        call.update(plan.extra)
        return call

    def _store(self, plan: CallPlan) -> Payload:
        store: Payload = {
            "action-exit-keys": [*plan.children],
            "cf_flow_id": "cf9b8f0779badbad3b46d6718ee95a68",
            "cf_last_action": "park",
            "cf_no_match": False,
            "remote-action": "park",
        }
        if plan.capture_group:
            store["cf_capture_group"] = plan.capture_group
        if plan.transferred_by is not None:
            store["Restricted-Endpoint-ID"] = plan.transferred_by.id
        return store

    def unroutable(self, action_id: str) -> None:
        """basic.return of an execute: the listener crashes and the caller hangs (contract §2.6)."""
        for flow in self.flows.values():
            if flow.action_id == action_id and not flow.ended:
                self._end(flow, "unroutable")

    def redirect(self, call_id: str) -> None:
        """The call was sent to another media server and runs its flow again there (§4.9)."""
        old = self.by_call.get(call_id)
        channel = self.channels.by_id.get(call_id)
        if old is None or channel is None:
            return
        channel.alive = True
        channel.running = None
        channel_vars = {**old.plan.channel_vars, "Redirected-By": "<sip:redirect@10.26.0.1>"}
        self.place(replace(old.plan, call_id=call_id, channel_vars=channel_vars))

    # ---- what comes back

    def received(self, pid: str, payload: Payload) -> None:
        """action.accepted and action.result. Raises DroppedError for what cf_exe ignores."""
        flow = self.flows.get(pid)
        if flow is None:
            raise DroppedError(f"no flow {pid}")
        name = text(payload, "Event-Name")
        if text(payload, "Event-Category") != "callflow" or name not in HANDLERS:
            raise DroppedError(f"unexpected {text(payload, 'Event-Category')}/{name}")
        if text(payload, "Call-ID") != flow.call_id:
            named = text(payload, "Call-ID")
            raise DroppedError(f"{name} for call {named!r}, not {flow.call_id!r}")
        if text(payload, "Msg-ID") != flow.action_id:
            raise DroppedError(f"{name} with another Msg-ID")
        HANDLERS[name](self, flow, payload)

    def _accepted(self, flow: Flow, payload: Payload) -> None:
        flow.accepted += 1
        self.world.note(flow.call_id, "accepted", payload)

    def _result(self, flow: Flow, payload: Payload) -> None:
        if flow.ended:
            flow.late_results += 1
            self.world.note(flow.call_id, "late-result", payload)
            raise DroppedError(f"{LATE_RESULT} ({flow.ended})")
        try:
            result = decode_result(payload.get("Result"))
        except ResultError as error:
            self.world.note(flow.call_id, "crash", {"Reason": str(error)})
            result = FlowResult(verdict="continue")
        flow.results.append(result)
        self.world.note(flow.call_id, "result", {**payload, "Term": str(result)})
        self._act(flow, result)

    def _act(self, flow: Flow, result: FlowResult) -> None:
        """The table of contract §2.5."""
        self._end(flow, "destroyed" if flow.destroyed else result.verdict)
        if flow.destroyed:
            return
        if result.verdict == "continue":
            children = flow.plan.children
            key = result.argument or "_"
            flow.branch = key if key in children else "_" if "_" in children else None
            if flow.branch is None:
                self._hang_up(flow, {})
            else:
                self.world.note(flow.call_id, "branch", {"Child": flow.branch})
        elif result.verdict == "stop":
            self._hang_up(flow, {"Hangup-Cause": result.argument} if result.argument else {})

    def _hang_up(self, flow: Flow, fields: Mapping[str, object]) -> None:
        channel = self.channels.living(flow.call_id)
        session = self.control.sessions.get(flow.control_pid)
        if channel is None or session is None or not session.alive:
            return
        command: Payload = {
            "Application-Name": "hangup",
            "Call-ID": flow.call_id,
            "Msg-ID": self.world.new_hex(),
            **fields,
        }
        # The queued hangup waits its turn; a hold or park that was sent ``now`` does not delay it.
        self.control.insert(session, channel, [command], "tail")

    def _end(self, flow: Flow, how: str) -> None:
        flow.ended = how
        self.world.note(flow.call_id, "flow-ended", {"How": how})

    # ---- what cf_exe sees of its call (contract §2.7)

    def _event(self, call_id: str, payload: Payload) -> None:
        flow = self.by_call.get(call_id)
        if flow is None or flow.ended:
            return
        name = text(payload, "Event-Name")
        own = text(table(payload, "Custom-Channel-Vars"), "Fetch-ID") == flow.fetch_id
        if name == "CHANNEL_DESTROY":
            flow.destroyed = True
            self._end(flow, "destroyed")
        elif name == "CHANNEL_DISCONNECTED":
            flow.destroyed = True
        elif name == "usurp_control" and text(payload, "Fetch-ID") != flow.fetch_id:
            self._end(flow, "control_usurped")
        elif name == "CHANNEL_TRANSFEREE" and own:
            self._end(flow, "transfer")
        elif name == "CHANNEL_PIVOT":
            self._end(flow, "pivot")
        elif name in {"CHANNEL_REPLACED", "CHANNEL_DIRECT"} and own:
            field_name = "Replaced-By" if name == "CHANNEL_REPLACED" else "Connecting-Leg-B-UUID"
            self._follow(flow, text(payload, field_name))

    def _follow(self, flow: Flow, new_call_id: str) -> None:
        self.by_call.pop(flow.call_id, None)
        flow.call_id = new_call_id
        self.by_call[new_call_id] = flow


HANDLERS: Mapping[str, Callable[[Callflow, Flow, Payload], None]] = {
    "action.accepted": Callflow._accepted,
    "action.result": Callflow._result,
}
