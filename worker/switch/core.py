"""The simulated Kazoo without I/O: messages and the time in, messages and one deadline out.

`receive` and `tick` are the whole interface to the broker; the other methods are what people do
with their phones. Everything Kazoo would send waits in `take`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from worker.switch.applications import registration_asked, sysconf_asked
from worker.switch.callflow import Callflow, Flow
from worker.switch.channels import Channel, Channels
from worker.switch.ecallmgr import Ecallmgr
from worker.switch.kamailio import Kamailio
from worker.switch.plan import CallPlan, Device, SwitchPlan
from worker.switch.wire import DroppedError, Incoming, Outgoing, Payload, parse, recipient, text
from worker.switch.world import Line, World


class SwitchCore:
    """All of contract §4.12, pure. ``name`` makes this switch's queues, nodes and ids unique."""

    def __init__(self, name: str, plan: SwitchPlan | None = None) -> None:
        self.world = World(name=name, plan=plan or SwitchPlan())
        self.control_queue = f"ecallmgr@{name}-callctl"
        self.controller_queue = f"callflow@{name}-route"
        self.status_queue = f"ecallmgr@{name}-status"
        self.presence_queue = f"presence-dialog-{name}"
        self.watch_queue = f"webhooks@{name}-parking"
        self.sysconf_queue = f"sysconf@{name}"
        self.registrar_queue = f"ecallmgr@{name}-registrar"
        self.devices: dict[str, Device] = {}
        self.channels = Channels(self.world)
        self.ecallmgr = Ecallmgr(self.world, self.channels, self.devices)
        self.callflow = Callflow(
            self.world,
            self.channels,
            self.ecallmgr,
            (self.control_queue, self.controller_queue),
        )
        self.kamailio = Kamailio(self.world)
        self.crashes: list[str] = []
        """Messages a Kazoo listener would have died of."""
        self._consumers: dict[str, Callable[[Incoming, Payload], None]] = {
            self.control_queue: self._control,
            self.controller_queue: self._controller,
            self.status_queue: self._status,
            self.presence_queue: lambda _message, payload: self.kamailio.update(payload),
            self.watch_queue: self._park_event,
            self.sysconf_queue: lambda _message, payload: sysconf_asked(self.world, payload),
            self.registrar_queue: lambda _message, payload: registration_asked(
                self.world, self.devices, payload
            ),
        }

    # ---- the broker's side

    def receive(self, message: Incoming, now_ms: int) -> list[Outgoing]:
        """One consumed message. What Kazoo would drop is dropped, and says so in the transcript."""
        due = self.tick(now_ms)
        payload: Payload = {}
        try:
            payload = parse(message)
            place = len(self.world.transcript)
            self.world.received(message, payload)
            try:
                self._consumers[message.queue](message, payload)
            except DroppedError as drop:
                line = self.world.transcript[place]
                self.world.transcript[place] = replace(line, dropped=drop.reason)
                if drop.crash:
                    self.crashes.append(drop.reason)
        except DroppedError as drop:
            self.world.received(message, payload, drop.reason)
            if drop.crash:
                self.crashes.append(drop.reason)
        return [*due, *self.tick(now_ms)]

    def tick(self, now_ms: int) -> list[Outgoing]:
        """Let time pass up to ``now_ms``; what is to be published comes out, in order."""
        self.world.now_ms = max(self.world.now_ms, now_ms)
        self.world.run_due()
        while self.ecallmgr.bridging.redirected:
            call_id = self.ecallmgr.bridging.redirected.pop(0)
            again = partial(self.callflow.redirect, call_id)
            self.world.after(self.world.plan.timing.redirect_ms, again)
        outgoing = self.world.outgoing
        self.world.outgoing = []
        return outgoing

    @property
    def next_deadline_ms(self) -> int | None:
        return self.world.next_deadline_ms

    def returned(self, message: Outgoing) -> None:
        """The broker could not route a mandatory message (contract §2.6)."""
        self.callflow.unroutable(text(message.payload, "Msg-ID"))

    @property
    def dropped(self) -> list[Line]:
        """What the worker sent in vain."""
        return [line for line in self.world.transcript if line.dropped]

    # ---- consumers

    def _control(self, message: Incoming, payload: Payload) -> None:
        self.ecallmgr.command(recipient(message), payload)

    def _controller(self, message: Incoming, payload: Payload) -> None:
        self.callflow.received(recipient(message), payload)

    def _status(self, _message: Incoming, payload: Payload) -> None:
        if text(payload, "Event-Name") == "channel_status_req":
            self.channels.status_asked(payload)

    def _park_event(self, _message: Incoming, payload: Payload) -> None:
        name = text(payload, "Event-Name")
        if not name.startswith("PARK_"):
            return
        channel_vars = payload.get("Custom-Channel-Vars")
        if not isinstance(channel_vars, dict) or not channel_vars.get("Account-ID"):
            raise DroppedError(f"{name} without an account")
        if not isinstance(payload.get("Parking-Slot"), str):
            raise DroppedError(f"{name} without a slot as text")
        self.world.note(text(payload, "Call-ID"), name, payload)

    # ---- what people do

    def place(self, plan: CallPlan) -> Flow:
        """A call reaches its park node."""
        return self.callflow.place(plan)

    def hang_up(self, call_id: str, cause: str = "NORMAL_CLEARING") -> None:
        """The party of this channel hangs up. ``WRONG_CALL_STATE``: nobody is told."""
        channel = self.channels.living(call_id)
        if channel is not None:
            self.ecallmgr.hang_up(channel, cause)

    def vanish(self, call_id: str) -> None:
        """The channel is gone without any event; only a status query can tell."""
        channel = self.channels.living(call_id)
        if channel is not None:
            self.ecallmgr.hang_up(channel, "", published=False)

    def replace_call(self, call_id: str, new_call_id: str, *, direct: bool = False) -> None:
        """The channel goes on under another id (contract §3.4)."""
        channel = self.channels.living(call_id)
        if channel is None:
            return
        del self.channels.by_id[call_id]
        self.world.notes[new_call_id] = self.world.notes.setdefault(call_id, [])
        event = "CHANNEL_DIRECT" if direct else "CHANNEL_REPLACED"
        field = "Connecting_Leg_B_UUID" if direct else "Replaced_By"
        self.channels.event(channel, event, **{field: new_call_id})
        channel.call_id = new_call_id
        other = self.channels.living(channel.other_leg)
        if other is not None:
            other.other_leg = new_call_id
        if channel.session is not None:
            channel.session.call_id = new_call_id
        self.channels.add(channel)

    def usurp(self, call_id: str) -> None:
        """Another control process wins the call; the worker's session is over (§3.5)."""
        channel = self.channels.living(call_id)
        if channel is not None:
            self.channels.usurp(call_id, self.world.new_hex()[:8], "Route-Win")
            if channel.session is not None:
                channel.session.alive = False

    def transfer_away(self, call_id: str) -> None:
        """CHANNEL_TRANSFEREE with the call's own Fetch-ID (contract §2.7)."""
        self._event(call_id, "CHANNEL_TRANSFEREE", Transfer_Type="blind")

    def pivot(self, call_id: str, flow: Payload) -> None:
        """CHANNEL_PIVOT: cf_exe runs another flow now."""
        self._event(call_id, "CHANNEL_PIVOT", Application_Data=flow)

    def pick_up(self, call_id: str, by_call_id: str) -> None:
        """A phone intercepts the call without any flow (fast pickup)."""
        target, by = self.channels.living(call_id), self.channels.living(by_call_id)
        if target is None:
            return
        if by is None:
            by = Channel(call_id=by_call_id, server=target.server)
            self.channels.add(by)
        self.ecallmgr.bridging.intercepted(target, by)

    def end_application(self, call_id: str, *, state: str = "EXECUTE") -> None:
        """The running application ends by itself; with ``HANGUP`` the caller did it (§14)."""
        channel = self.channels.living(call_id)
        if channel is None or channel.running is None:
            return
        running, channel.running = channel.running, None
        self.channels.completed(channel, running.name, "", Channel_State=state)
        self.ecallmgr.finished(channel, running.msg_id)

    def refuse(self, call_id: str, application: str, how: str = "error") -> None:
        """The call's next such command fails: ``error``, ``silence``, or ``failure`` (pickup)."""
        channel = self.channels.living(call_id)
        if channel is not None and channel.session is not None:
            channel.session.refusals.setdefault(application, []).append(how)

    def lose_server(self, server: int) -> None:
        """ecallmgr loses a media server: its channels are disconnected and ``tmpdown``."""
        self.channels.lost_servers.add(server)
        for channel in self._on(server):
            self.channels.event(channel, "CHANNEL_DISCONNECTED", App_Name="ecallmgr")

    def regain_server(self, server: int, *, survivors: bool = True) -> None:
        """The media server is seen again, with its channels or without."""
        self.channels.lost_servers.discard(server)
        for channel in self._on(server):
            if survivors:
                self.channels.event(channel, "CHANNEL_CONNECTED", App_Name="ecallmgr")
            else:
                channel.alive = False

    def _on(self, server: int) -> list[Channel]:
        return [
            channel
            for channel in self.channels.by_id.values()
            if channel.alive and channel.server == server
        ]

    def _event(self, call_id: str, name: str, **fields: object) -> None:
        channel = self.channels.living(call_id)
        if channel is not None:
            self.channels.event(channel, name, **fields)
