"""Two legs become one conversation: bridge, pickup, and their ends (contract §4.9, §4.10). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.switch.channels import Channel, Channels, Running
from worker.switch.plan import Device, Ring
from worker.switch.wire import Payload, table, text
from worker.switch.world import World

if TYPE_CHECKING:
    from worker.switch.ecallmgr import Ecallmgr


class Bridging:
    """The applications that connect legs."""

    def __init__(
        self, world: World, channels: Channels, devices: dict[str, Device], control: Ecallmgr
    ) -> None:
        self.world = world
        self.channels = channels
        self.devices = devices
        self.control = control
        self.ringing: dict[str, Device] = {}
        """Which device rings for a call."""
        self.redirected: list[str] = []
        """Call ids that were sent to another media server and must enter the flow again."""

    # ---- bridge

    def bridge(self, channel: Channel, command: Payload, running: Running) -> None:
        """Ring the endpoint. What cannot be resolved ends in silence (contract §4.10)."""
        device = self._device(command)
        if device is None:
            self.control.finished(channel, running.msg_id)
            return
        self.control.start(channel, running)
        ring = device.next_ring()
        timeout_ms = _seconds(command.get("Timeout"), default_s=60) * 1000
        device.screen = _title(command)
        self.ringing[channel.call_id] = device
        self.world.note(channel.call_id, "ringing", {"Device": device.id, "Display": device.screen})
        if not device.registered:
            device.screen = ""
            ring = Ring(
                cause="USER_NOT_REGISTERED",
                fail_after_ms=self.world.plan.timing.bridge_failure_ms,
            )
        if ring.cause and ring.fail_after_ms <= timeout_ms:
            running.timer = self.world.after(
                ring.fail_after_ms, lambda: self._failed(channel, running, ring.cause)
            )
        elif ring.answer_after_ms is not None and ring.answer_after_ms <= timeout_ms:
            running.timer = self.world.after(
                ring.answer_after_ms, lambda: self._answered(channel, command, running, ring)
            )
        else:
            running.timer = self.world.after(
                timeout_ms, lambda: self._failed(channel, running, "NO_ANSWER")
            )

    def _device(self, command: Payload) -> Device | None:
        endpoints = command["Endpoints"]
        if not isinstance(endpoints, list) or len(endpoints) != 1:
            return None
        endpoint = endpoints[0]
        if endpoint.get("Invite-Format") != "endpoint":
            return None
        device_id, _, account = text(endpoint, "Endpoint-URI").partition("@")
        device = self.devices.get(device_id)
        return device if device is not None and device.account == account else None

    def _failed(self, channel: Channel, running: Running, cause: str) -> None:
        channel.running = None
        self._stops_ringing(channel)
        self.channels.completed(
            channel,
            "bridge",
            cause,
            Disposition=cause,
            Hangup_Cause=cause,
            Bridge_Hangup_Cause=cause,
        )
        self.control.finished(channel, running.msg_id)
        self.control.resume_deferred(channel)

    def _answered(self, channel: Channel, command: Payload, running: Running, ring: Ring) -> None:
        device = self._device(command)
        if device is None:
            return
        leg = Channel(
            call_id=self.world.new_id("leg"),
            server=channel.server,
            direction="outbound",
            device=device,
            answered=True,
            owned=True,
            channel_vars={"Account-ID": device.account, "Authorizing-ID": device.id},
        )
        running.timer = None
        self.ringing.pop(channel.call_id, None)
        device.legs.append(leg.call_id)
        device.screen = _name_on_answer(command) or device.screen
        self.channels.add(leg)
        self.channels.event(leg, "CHANNEL_ANSWER")
        self.control.answered(channel)
        self._join(channel, leg)
        if ring.talk_ms is not None:
            self.world.after(ring.talk_ms, lambda: self.control.hang_up(leg, "NORMAL_CLEARING"))

    def _stops_ringing(self, channel: Channel) -> None:
        device = self.ringing.pop(channel.call_id, None)
        if device is not None:
            device.screen = ""

    def cancelled(self, channel: Channel) -> None:
        """A bridge was flushed: the phone stops ringing, or the conversation ends."""
        other = self.channels.living(channel.other_leg)
        channel.other_leg = ""
        if other is None:
            self._stops_ringing(channel)
            self.channels.completed(
                channel, "bridge", "ORIGINATOR_CANCEL", Disposition="ORIGINATOR_CANCEL"
            )
            return
        other.other_leg = ""
        self.channels.event(channel, "CHANNEL_UNBRIDGE", Other_Leg_Call_ID=other.call_id)
        self.channels.completed(channel, "bridge", "SUCCESS", Disposition="SUCCESS")
        self.control.hang_up(other, "NORMAL_CLEARING")

    def _join(self, first: Channel, second: Channel) -> None:
        first.other_leg, second.other_leg = second.call_id, first.call_id
        for leg, other in ((first, second), (second, first)):
            self.channels.event(
                leg,
                "CHANNEL_BRIDGE",
                Other_Leg_Call_ID=other.call_id,
                Bridge_B_Unique_ID=second.call_id,
            )

    # ---- pickup

    def pickup(self, channel: Channel, command: Payload, running: Running) -> None:
        """The table of contract §4.9."""
        target_id = text(command, "Target-Call-ID")
        target = self.channels.living(target_id)
        if target_id == channel.call_id:
            self.control.error(channel, command, "intercept target is the same as the caller")
        elif target is None:
            self.control.error(channel, command, f"failed to find target callid {target_id}")
        elif target.server != channel.server:
            self._redirect(channel, target)
        else:
            delay_ms = self.world.plan.timing.pickup_ms
            if not target.answered:
                self.control.answered(channel)
            if command.get("Publish-Usurp") is not False:
                self._usurp(target)
            self.world.after(delay_ms, lambda: self._intercept(channel, target, command, running))

    def _usurp(self, channel: Channel) -> None:
        self.channels.usurp(channel.call_id, self.world.new_hex()[:8], "redirect")
        if channel.session is not None:
            channel.session.alive = False

    def _redirect(self, channel: Channel, target: Channel) -> None:
        """The target is on another media server: the retriever's call enters again there."""
        self._usurp(channel)
        self.world.call_event(
            channel.call_id,
            "usurp_publisher",
            {"Reference": self.world.new_hex()[:8], "Reason": "redirect"},
        )
        channel.alive = False
        channel.server = target.server
        self.redirected.append(channel.call_id)

    def _intercept(
        self, channel: Channel, target: Channel, command: Payload, running: Running
    ) -> None:
        if not channel.alive:
            return
        busy = bool(target.other_leg) and command.get("Unbridged-Only") is True
        if busy or not target.alive:
            self.intercept_failed(channel, command)
            return
        self.control.answered(channel)
        self.channels.event(
            target,
            "CHANNEL_INTERCEPTED",
            Intercepted_By=channel.call_id,
            Other_Leg_Call_ID=channel.call_id,
        )
        self.end_playback(target)
        self.control.answered(target)
        channel.leg_ended = target.leg_ended = True
        self._join(channel, target)
        self.control.finished(channel, running.msg_id)

    def end_playback(self, channel: Channel) -> None:
        """Whatever runs on a channel that is taken away ends; hold and prompts say so (§4.4)."""
        if channel.session is not None:
            channel.session.queue.clear()
        self.control.stop_running(channel)

    def intercept_failed(self, channel: Channel, command: Payload) -> None:
        """The switch refused: without Continue-On-Fail the channel ends (contract §4.9)."""
        self.channels.completed(channel, "call_pickup", "")
        if command.get("Continue-On-Fail") is not True:
            self.control.hang_up(channel, "NORMAL_CLEARING")
        else:
            self.control.finished(channel, text(command, "Msg-ID"))

    def intercepted(self, target: Channel, by: Channel) -> None:
        """A phone takes the call over on the switch itself, without a command (fast pickup)."""
        self.channels.event(
            target, "CHANNEL_INTERCEPTED", Intercepted_By=by.call_id, Other_Leg_Call_ID=by.call_id
        )
        self.end_playback(target)
        by.answered = target.answered = True
        by.leg_ended = target.leg_ended = True
        self._join(by, target)

    # ---- the end of a leg

    def leg_ends(self, channel: Channel) -> None:
        """Said before the CHANNEL_DESTROY of a bridged leg."""
        self._stops_ringing(channel)
        if channel.device is not None:
            channel.device.screen = ""
        other = self.channels.living(channel.other_leg)
        if other is None:
            return
        self.channels.event(channel, "CHANNEL_UNBRIDGE", Other_Leg_Call_ID=other.call_id)

    def after_leg(self, channel: Channel) -> None:
        """Said after it: the other leg is unbridged, and ends too or goes on."""
        other = self.channels.living(channel.other_leg)
        channel.other_leg = ""
        if other is None:
            return
        other.other_leg = ""
        self.channels.event(other, "CHANNEL_UNBRIDGE", Other_Leg_Call_ID=channel.call_id)
        if other.owned or other.leg_ended:
            self.control.hang_up(other, "NORMAL_CLEARING")
            return
        running = other.running
        if running is not None and running.name == "bridge":
            other.running = None
            self.channels.completed(other, "bridge", "SUCCESS", Disposition="SUCCESS")
            self.control.finished(other, running.msg_id)
            self.control.resume_deferred(other)


def _endpoint(command: Payload) -> Payload:
    endpoints = command["Endpoints"]
    return endpoints[0] if isinstance(endpoints, list) and endpoints else {}


def _title(command: Payload) -> str:
    """What a ringing phone shows."""
    return text(_endpoint(command), "Outbound-Caller-ID-Name")


def _name_on_answer(command: Payload) -> str:
    """What it shows once answered: Endpoint-Actions, Execute-On-Answer (contract §4.11)."""
    actions = table(table(_endpoint(command), "Endpoint-Actions"), "Execute-On-Answer")
    return text(table(table(actions, "Set-Caller-ID"), "Custom-Channel-Vars"), "Caller-ID-Name")


def _seconds(value: object, *, default_s: int) -> int:
    if isinstance(value, bool):
        return default_s
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isdigit():
        return int(value)
    return default_s
