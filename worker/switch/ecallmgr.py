"""ecallmgr's call control: command queues and applications (contract §4). Pure."""

from __future__ import annotations

from collections.abc import Callable

from worker.switch.bridging import Bridging
from worker.switch.channels import ENDLESS, Channel, Channels, Running, Session
from worker.switch.commands import check, flatten
from worker.switch.plan import Device
from worker.switch.wire import DroppedError, Payload, text
from worker.switch.world import World


class Ecallmgr:
    """Executes the commands the worker sends to control queues."""

    def __init__(self, world: World, channels: Channels, devices: dict[str, Device]) -> None:
        self.world = world
        self.channels = channels
        self.sessions: dict[str, Session] = {}
        self.bridging = Bridging(world, channels, devices, self)

    def open(self, channel: Channel, fetch_id: str) -> Session:
        """A new control session wins the channel; an older one ends (contract §3.5)."""
        session = Session(pid=self.world.new_pid(), fetch_id=fetch_id, call_id=channel.call_id)
        if channel.session is not None:
            channel.session.alive = False
        channel.session = session
        channel.channel_vars["Fetch-ID"] = fetch_id
        self.sessions[session.pid] = session
        return session

    # ---- commands in

    def command(self, pid: str, command: Payload) -> None:
        """One command from the wire. Raises DroppedError when it vanishes."""
        session = self.sessions.get(pid)
        if session is None or not session.alive:
            raise DroppedError(f"no control process {pid}")
        if text(command, "Event-Category") != "call" or text(command, "Event-Name") != "command":
            raise DroppedError("not a channel command")
        check(command)
        commands = flatten(command)
        channel = self.channels.by_id.get(session.call_id)
        if channel is None or command["Call-ID"] not in {channel.call_id, channel.other_leg}:
            self._error(session, command, "the call is not controlled here")
            return
        self.insert(session, channel, commands, str(command.get("Insert-At", "tail")))

    def insert(
        self, session: Session, channel: Channel, commands: list[Payload], where: str
    ) -> None:
        """Queue commands given in order of execution (contract §4.1)."""
        for command in commands:
            self.world.note(channel.call_id, str(command["Application-Name"]), command)
        if where == "now":
            for command in commands:
                self._execute(session, channel, command, queued=False)
            return
        if where == "flush":
            session.queue.clear()
            session.waits_for = ""
            self.stop_running(channel)
        if where == "head":
            session.queue.extendleft(reversed(commands))
        else:
            session.queue.extend(commands)
        self._advance(session, channel)

    def _advance(self, session: Session, channel: Channel) -> None:
        while session.queue and not session.waits_for and session.alive:
            command = session.queue.popleft()
            session.waits_for = text(command, "Msg-ID")
            self._execute(session, channel, command, queued=True)

    def _execute(
        self, session: Session, channel: Channel, command: Payload, *, queued: bool
    ) -> None:
        name = str(command["Application-Name"])
        refusal = session.refusal(name)
        if not channel.alive or refusal == "error":
            self._error(session, command, f"Could not execute dialplan action: {name}")
            self.finished(channel, text(command, "Msg-ID"))
            return
        if refusal == "silence":
            return
        application = self._applications().get(name)
        if application is None:
            self._error(session, command, f"Could not execute dialplan action: {name}")
            self.finished(channel, text(command, "Msg-ID"))
            return
        running = Running(name, text(command, "Msg-ID"), queued)
        if refusal == "failure" and name in {"call_pickup"}:
            self.bridging.intercept_failed(channel, command)
            return
        application(channel, command, running)

    def _applications(self) -> dict[str, Callable[[Channel, Payload, Running], None]]:
        return {
            "answer": self._answer,
            "hold": self._endless,
            "park": self._endless,
            "play": self._timed,
            "say": self._timed,
            "noop": self._noop,
            "set": self._set,
            "break": self._break,
            "hangup": self._hangup,
            "bridge": self.bridging.bridge,
            "call_pickup": self.bridging.pickup,
        }

    # ---- applications

    def _answer(self, channel: Channel, _command: Payload, running: Running) -> None:
        def done() -> None:
            self.answered(channel)
            self._complete(channel, running, "")

        self.start(channel, running)
        running.timer = self.world.after(self.world.plan.timing.answer_ms, done)

    def answered(self, channel: Channel) -> None:
        if not channel.answered:
            channel.answered = True
            self.channels.event(channel, "CHANNEL_ANSWER")

    def _endless(self, channel: Channel, _command: Payload, running: Running) -> None:
        current = channel.running.name if channel.running is not None else ""
        if current == "bridge":
            channel.deferred = running
            return
        # A hold over a hold replaces it without a word: the inner playback never ends by itself.
        if current in ENDLESS:
            channel.running = None
        self.start(channel, running)

    def resume_deferred(self, channel: Channel) -> None:
        """The bridge is over: what waited behind it begins."""
        deferred, channel.deferred = channel.deferred, None
        if deferred is not None and channel.alive and channel.running is None:
            self.start(channel, deferred)

    def _timed(self, channel: Channel, _command: Payload, running: Running) -> None:
        timing = self.world.plan.timing
        self.start(channel, running)
        running.timer = self.world.after(
            timing.play_ms if running.name == "play" else timing.say_ms,
            lambda: self._complete(channel, running, "FILE PLAYED"),
        )

    def _noop(self, channel: Channel, _command: Payload, running: Running) -> None:
        self._complete(channel, running, running.msg_id)

    def _set(self, channel: Channel, command: Payload, running: Running) -> None:
        values = command["Custom-Channel-Vars"]
        if isinstance(values, dict):
            channel.channel_vars.update(values)
        self.finished(channel, running.msg_id)

    def _break(self, channel: Channel, _command: Payload, running: Running) -> None:
        # Breaking does not cancel a ringing bridge; only a flush does (contract §4.10).
        if channel.running is not None and channel.running.name != "bridge":
            self.stop_running(channel)
        self.finished(channel, running.msg_id)

    def _hangup(self, channel: Channel, command: Payload, _running: Running) -> None:
        self.hang_up(channel, text(command, "Hangup-Cause") or "NORMAL_CLEARING")

    # ---- the application a channel executes

    def start(self, channel: Channel, running: Running) -> None:
        """Begin an application; one that plays is interrupted by it."""
        while channel.running is not None:
            self.stop_running(channel)
        channel.running = running

    def stop_running(self, channel: Channel) -> None:
        """End the running application before its time and report what the switch reports."""
        running = channel.running
        if running is None:
            return
        channel.running = channel.deferred = None
        if running.timer is not None:
            running.timer.cancel()
        if running.name == "bridge":
            self.bridging.cancelled(channel)
        elif running.name != "park":
            self.channels.completed(channel, running.name, "")
        self.finished(channel, running.msg_id)

    def _complete(self, channel: Channel, running: Running, response: str) -> None:
        if not channel.alive:
            return
        if channel.running is running:
            channel.running = None
        self.channels.completed(channel, running.name, response)
        self.finished(channel, running.msg_id)

    def finished(self, channel: Channel, msg_id: str) -> None:
        """Let the queue go on when its command was the finished one (contract §4.1)."""
        session = channel.session
        if session is not None and session.waits_for == msg_id:
            session.waits_for = ""
            self._advance(session, channel)

    def _error(self, session: Session, command: Payload, message: str) -> None:
        """A dialplan error; never for bridge and hangup (contract §3.7)."""
        if command["Application-Name"] in {"bridge", "hangup"}:
            return
        channel = self.channels.living(session.call_id)
        request = {
            key: value
            for key, value in command.items()
            if key not in {"App-Name", "App-Version", "Event-Category", "Event-Name", "Node"}
        }
        fields: Payload = {
            "Msg-ID": text(command, "Msg-ID"),
            "Error-Message": message,
            "Channel-Call-State": "ACTIVE" if channel is not None else "DOWN",
            "Request": request,
        }
        self.world.call_event(session.call_id, "dialplan", fields, category="error")

    def error(self, channel: Channel, command: Payload, message: str) -> None:
        """A dialplan error for a command of this channel."""
        if channel.session is not None:
            self._error(channel.session, command, message)
            self.finished(channel, text(command, "Msg-ID"))

    # ---- the end of a channel

    def hang_up(self, channel: Channel, cause: str, *, published: bool = True) -> None:
        """The channel ends; what it was bridged to learns of it (contract §4.12 item 8).

        WRONG_CALL_STATE is never published (contract §3.3)."""
        if not channel.alive:
            return
        channel.alive = False
        if channel.running is not None and channel.running.timer is not None:
            channel.running.timer.cancel()
        self.bridging.leg_ends(channel)
        session = channel.session
        if session is not None:
            session.queue.clear()
            self.world.after(self.world.plan.timing.control_linger_ms, lambda: self._close(session))
        if published and cause != "WRONG_CALL_STATE":
            self.channels.event(
                channel, "CHANNEL_DESTROY", Hangup_Cause=cause, Hangup_Code="sip:200"
            )
        self.bridging.after_leg(channel)

    def _close(self, session: Session) -> None:
        session.alive = False
        self.sessions.pop(session.pid, None)
