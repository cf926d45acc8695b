"""The switch's channels and what ecallmgr tells about them (contract §3). Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from worker.switch.plan import Device
from worker.switch.wire import Outgoing, Payload, split_address, text
from worker.switch.world import Timer, World

ENDLESS = frozenset({"hold", "park"})


@dataclass(slots=True)
class Running:
    """The application a channel executes. ``queued``: its end lets the command queue go on."""

    name: str
    msg_id: str
    queued: bool
    timer: Timer | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """One control session of a channel: an ecallmgr call-control process (contract §3.5)."""

    pid: str
    fetch_id: str
    call_id: str
    queue: deque[Payload] = field(default_factory=deque)
    waits_for: str = ""
    """Msg-ID of the queued command that has not completed."""
    alive: bool = True
    refusals: dict[str, list[str]] = field(default_factory=dict)
    """Application → what to do with its next commands: ``error``, ``silence`` or ``failure``."""

    def refusal(self, name: str) -> str:
        planned = self.refusals.get(name)
        return planned.pop(0) if planned else ""


@dataclass(slots=True, kw_only=True)
class Channel:
    """One leg on a media server."""

    call_id: str
    server: int = 0
    direction: str = "inbound"
    device: Device | None = None
    answered: bool = False
    alive: bool = True
    other_leg: str = ""
    running: Running | None = None
    deferred: Running | None = None
    """A hold that came while a bridge was ringing: it does not cancel the bridge (§13)."""
    session: Session | None = None
    channel_vars: Payload = field(default_factory=dict)
    owned: bool = False
    """Made by a bridge command: dies with the leg that made it."""
    leg_ended: bool = False
    """Bridged by an intercept: one leg's end ends the other."""


class Channels:
    """All channels of the platform, by call id."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_id: dict[str, Channel] = {}
        self.lost_servers: set[int] = set()
        self.silent = False
        """No ecallmgr answers status queries (contract §3.6: unknown, never dead)."""

    def add(self, channel: Channel) -> None:
        self.by_id[channel.call_id] = channel

    def living(self, call_id: str) -> Channel | None:
        channel = self.by_id.get(call_id)
        return channel if channel is not None and channel.alive else None

    def hostname(self, server: int) -> str:
        return f"fs{server + 1}.{self.world.name}"

    def switch_fields(self, server: int) -> Payload:
        """Who the media server is, as the Call object tells it (contract §2.2)."""
        host = f"10.26.0.{11 + server}"
        return {
            "Switch-Hostname": self.hostname(server),
            "Switch-Nodename": f"freeswitch@{self.hostname(server)}",
            "Switch-URI": f"sip:{host}:11000",
            "Switch-URL": f"sip:mod_sofia@{host}:11000",
        }

    def event(self, channel: Channel, name: str, **fields: object) -> None:
        """Publish a channel event; keywords are field names with ``_`` for ``-``."""
        payload: Payload = {
            "App-Name": "freeswitch",
            "App-Version": "1.0",
            "Call-Direction": channel.direction,
            "Channel-State": "DESTROY" if name == "CHANNEL_DESTROY" else "EXECUTE",
            "Channel-Call-State": "ACTIVE" if channel.answered else "RINGING",
            "Media-Server": self.hostname(channel.server),
            "Custom-Channel-Vars": dict(channel.channel_vars),
            **self.switch_fields(channel.server),
        }
        payload.update({key.replace("_", "-"): value for key, value in fields.items() if value})
        self.world.call_event(channel.call_id, name, payload)

    def completed(self, channel: Channel, name: str, response: str, **fields: object) -> None:
        """CHANNEL_EXECUTE_COMPLETE (contract §3.3)."""
        self.event(
            channel,
            "CHANNEL_EXECUTE_COMPLETE",
            Application_Name=name,
            Application_Response=response or "NONE",
            **fields,
        )

    def usurp(self, call_id: str, fetch_id: str, reason: str) -> None:
        """usurp_control (contract §3.5)."""
        fields: Payload = {"Fetch-ID": fetch_id, "Reason": reason}
        self.world.call_event(call_id, "usurp_control", fields)

    # ---- status

    def status_asked(self, request: Payload) -> None:
        """Every ecallmgr node answers; those without the channel say ``terminated`` (§3.6)."""
        if self.silent:
            return
        call_id = text(request, "Call-ID")
        queue, headers = split_address(text(request, "Server-ID"))
        if not queue or not call_id:
            return
        if not self.world.plan.alone and call_id not in self.by_id:
            return
        holder = self._status(call_id)
        others = self.world.plan.ecallmgr_nodes - 1
        answers = [self._unknown(call_id)] * others + [holder or self._unknown(call_id)]
        for number, answer in enumerate(answers):
            if request.get("Active-Only") is True and answer["Status"] == "terminated":
                continue
            payload: Payload = {
                "Event-Category": "call_event",
                "Event-Name": "channel_status_resp",
                "App-Name": "ecallmgr",
                "App-Version": "4.0.0",
                "Node": f"ecallmgr{number or ''}@{self.world.name}",
                "Msg-ID": text(request, "Msg-ID"),
                **answer,
            }
            self.world.publish(
                Outgoing(exchange="targeted", routing_key=queue, payload=payload, headers=headers)
            )

    def _unknown(self, call_id: str) -> Payload:
        error = f"no node found with channel {call_id}"
        return {"Call-ID": call_id, "Status": "terminated", "Error-Msg": error}

    def _status(self, call_id: str) -> Payload | None:
        channel = self.living(call_id)
        if channel is None:
            return None
        down = channel.server in self.lost_servers
        answer: Payload = {
            "Call-ID": call_id,
            "Status": "tmpdown" if down else "active",
            "Custom-Channel-Vars": dict(channel.channel_vars),
            **self.switch_fields(channel.server),
        }
        if channel.other_leg:
            answer["Other-Leg-Call-ID"] = channel.other_leg
        return answer
