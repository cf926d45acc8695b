"""The rules a zone must keep, checked while it runs.

*Calm* time: time in which no fault, and no recovery from one that the design grants (5 s for an
adoption), is under way. What needs a moment (a hold that follows a release, a lamp that follows a
slot) must be right after so much calm time.

Windows that are granted, and nothing else:

- a released call is held by the switch until its result has travelled there (`SETTLE_MS`);
- a result or park event may be said twice, or a park event not at all, when the worker that says it
  is killed, cut off or replaced between saying it and having the log close the session;
- a worker that hears the log late acts, for so long, on what it knew (its lease bounds this);
- a result that crosses a change of the call's id is dropped by Kazoo;
- a lamp update that nobody could take (Kazoo was not back yet) is made good only by its refresh;
- a hold that ends by itself while nobody listens is begun again only by the next ringback;
- what was lost while the broker or a media server was away is found out by the next reconciliation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tests.simulation.story import Violation
from tests.simulation.truth import Stay
from worker.broker.port import Delivery
from worker.kapi.results import decode_result
from worker.parking.model import ReleaseReason, SessionId
from worker.parking.session import State
from worker.switch.callflow import Flow
from worker.switch.channels import Channel

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.zone import Zone

SETTLE_MS = 1_500
"""What follows from a record must have happened: a few messages there and back."""
LOST_MS = 3_000
"""A live call whose session nobody has at work."""
LISTENING_MS = 1_500
CALLBACK_MS = 3_000
RING_LATE_MS = 1_000
SILENCE_MS = 5_000
CUT_MS = 1_500
"""A conversation so old is known to whoever commands its legs."""
LAMPS_MS = 2_000
BOUNDS_MS: Mapping[State, int] = {
    State.NEW: 1_000,
    State.CHECKING: 15_000,
    State.CLAIMING: 6_000,
    State.CONFIRMING: 5_000,
    State.SUSPECTING: 5_000,
    State.RELEASING: 6_000,
    State.HANDING_OVER: 6_000,
    State.RETRIEVING: 6_000,
    State.PENDING: 2_000,
    State.AWAITING_TURN: 14_000,
    State.PICKING_UP: 12_000,
    State.DOUBTING: 12_000,
    State.INTERCEPTED: 5_000,
    State.LEAVING: 2_000,
    State.REFUSING: 7_000,
    State.EXPLAINING: 16_000,
    State.LOOKING_UP: 4_000,
    State.RINGING: 6_000,
    State.VISITING: 6_000,
    State.RESERVED: 6_000,
}
"""How long a session may stay in a state that is not meant to last."""
TAKEN = {ReleaseReason.RETRIEVED, ReleaseReason.ANSWERED, ReleaseReason.INTERCEPTED}
ABANDONED = {ReleaseReason.ABANDONED, ReleaseReason.BRANCHED, ReleaseReason.EVICTED}
CUTTING = {"hold", "bridge", "play", "say", "call_pickup", "park", "hangup", "queue"}


class Checker:
    """Watches log, switch and workers of one zone."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._agenda = zone.agenda
        self._truth = zone.truth
        self.violations: list[Violation] = []
        self._disturbed: list[tuple[int, int]] = []
        self._late: list[tuple[int, int]] = []
        self._since: dict[tuple[str, ...], int] = {}
        self._seen: set[tuple[str, ...]] = set()
        self._talking_since: dict[str, int] = {}
        self._seen_notes = 0
        self._results: dict[str, list[tuple[int, str]]] = {}
        self._active = False
        self._log_end = -1
        self._entered_ms: dict[str, int] = {}
        self._replaced_ms: dict[str, int] = {}
        self._hold_ended_ms: dict[str, int] = {}
        self._lamps_lost: set[tuple[str, str]] = set()
        self._lost_calls: set[str] = set()
        self._knowers: dict[str, list[Process]] = {}
        self._unheard: set[str] = set()
        """Sessions whose result crossed a change of id, or that died with all who knew."""

    # ---- saying so ------------------------------------------------------------------------------

    def violated(self, rule: str, text: str, about: set[str] | None = None) -> None:
        names = frozenset(self._related(about or set()))
        self.violations.append(Violation(self._agenda.elapsed_ms, rule, text, names))

    def _related(self, about: set[str]) -> set[str]:
        """Calls of the sessions named, and the other way round."""
        names = set(about)
        for _ in range(2):
            for flow in self._flows():
                if {flow.call_id, flow.action_id, flow.plan.call_id} & names:
                    names |= {flow.call_id, flow.action_id, flow.plan.call_id} - {""}
            for stay in self._truth.stays:
                if names & {stay.session, *stay.calls}:
                    names |= {stay.session, *stay.calls}
        return names

    def disturb(self, for_ms: int, *, late: bool = False) -> None:
        """A fault begins; within ``for_ms`` the zone must have recovered. ``late``: until then
        somebody hears the log late."""
        now_ms = self._agenda.now_ms
        slack_ms = 4 * self._zone.weather.climate.worst_ms
        self._disturbed.append((now_ms, now_ms + for_ms + slack_ms))
        if late:
            self._late.append((now_ms, now_ms + for_ms + slack_ms))

    def wiped(self) -> None:
        """The log is about to vanish: remember who knows which session."""
        table = self._truth.table
        sessions = {SessionId(flow.action_id) for flow, _ in self._live_flows()}
        for owner in [*table.workers, None]:
            sessions.update(table.sessions_of(owner))
        self._knowers |= {
            session: [
                process
                for process in self._zone.alive
                if (process.ready and process.table.session(session) is not None)
                or session in process.engine._calls.live
            ]
            for session in sorted(sessions)
        }

    def broker_stops(self) -> None:
        """Results under way in Kazoo's queues are lost with them, though they were confirmed."""
        for flow, _ in self._live_flows():
            if self._results.get(flow.action_id):
                self._unheard.add(flow.action_id)

    def _excuse_unknown(self) -> None:
        """A new log was settled: what nobody alive had known is lost, and rightly so."""
        for session, knowers in self._knowers.items():
            known = self._truth.table.is_known(SessionId(session))
            if not known and not any(process.alive for process in knowers):
                self._unheard.add(session)
                self._lost_calls |= self._related({session})
        self._knowers = {}

    def calm_ms(self, since_ms: int) -> int:
        """How much of the time since then was calm."""
        return self._apart_from(self._disturbed, since_ms)

    def _apart_from(self, spans: list[tuple[int, int]], since_ms: int) -> int:
        now_ms = self._agenda.now_ms
        calm, at_ms = 0, since_ms
        for start_ms, end_ms in sorted(spans):
            if start_ms > at_ms:
                calm += min(start_ms, now_ms) - at_ms
            at_ms = max(at_ms, end_ms)
            if at_ms >= now_ms:
                return calm
        return calm + now_ms - at_ms

    def was_disturbed(self, from_ms: int, until_ms: int) -> bool:
        return any(start < until_ms and end > from_ms for start, end in self._disturbed)

    def is_followed(self, call_id: str) -> bool:
        """Whether whoever looks after the call has been listening to it for a while."""
        now_ms = self._agenda.now_ms
        flow = next((each for each in self._flows() if each.call_id == call_id), None)
        entered_ms = -1 if flow is None else self._entered_ms.get(flow.action_id, now_ms)
        return self.calm_ms(entered_ms) > LISTENING_MS and not self.was_disturbed(
            now_ms, now_ms + 1
        )

    def replaced(self, call_id: str) -> None:
        self._replaced_ms[call_id] = self._agenda.now_ms

    def entered(self, session: str) -> None:
        self._entered_ms[session] = self._agenda.now_ms

    def _lasts(self, *key: str, for_ms: int) -> bool:
        """Whether the condition named by ``key`` has held for so much calm time. To be asked at
        each look while it holds."""
        self._seen.add(key)
        since_ms = self._since.setdefault(key, self._agenda.now_ms)
        slow_ms = 4 * self._zone.weather.climate.worst_ms
        return self.calm_ms(since_ms) > for_ms + slow_ms

    # ---- the world ------------------------------------------------------------------------------

    def _flows(self) -> list[Flow]:
        return list(self._zone.kazoo.core.callflow.flows.values())

    def _channel(self, call_id: str) -> Channel | None:
        return self._zone.kazoo.core.channels.living(call_id)

    def _live_flows(self) -> Iterator[tuple[Flow, Channel]]:
        """Flows that wait for a result, with their living channel."""
        for flow in self._flows():
            channel = None if flow.ended else self._channel(flow.call_id)
            known = flow.accepted or flow.action_id in self._truth.opened
            if channel is not None and known and flow.action_id not in self._unheard:
                yield flow, channel

    def begin(self) -> None:
        self._active = True

    # ---- while it runs --------------------------------------------------------------------------

    def look(self) -> None:
        """Every 100 ms."""
        if not self._active:
            return
        self._seen.clear()
        if self._knowers and self._truth.table.settled:
            self._excuse_unknown()
        self._look_at_calls()
        self._look_at_rings()
        self._look_at_sessions()
        self._look_at_lamps(LAMPS_MS)
        self._since = {key: at for key, at in self._since.items() if key in self._seen}

    def switch_stepped(self) -> None:
        """After everything the switch did."""
        world = self._zone.kazoo.core.world
        transcript = world.transcript
        for line in transcript[self._seen_notes :]:
            self._hear(line.direction, line.exchange, line.payload, line.dropped)
        self._seen_notes = len(transcript)
        now_ms = self._agenda.now_ms
        channels = self._zone.kazoo.core.channels.by_id
        for call_id, channel in channels.items():
            if channel.alive and channel.other_leg:
                self._talking_since.setdefault(call_id, now_ms)
            else:
                self._talking_since.pop(call_id, None)
        for stay in self._truth.current.values():
            if stay.first_hold_ms is None and not stay.reserved:
                held = channels.get(stay.calls[-1])
                if (
                    held is not None
                    and held.running is not None
                    and held.running.name in ("hold", "park")
                ):
                    stay.first_hold_ms = now_ms

    def _hear(
        self, direction: str, exchange: str, payload: Mapping[str, object], dropped: str
    ) -> None:
        call_id, name = str(payload.get("Call-ID", "")), str(payload.get("Event-Name"))
        if direction == "out" and exchange == "callevt":
            self._zone.tell("switch", f"{call_id}: {_event_words(payload)}", {call_id})
            if payload.get("Application-Name") == "bridge":
                for stay in self._truth.current.values():
                    if stay.calls[-1] == call_id:
                        stay.ring_ended_ms = self._agenda.now_ms
        elif direction == "in" and dropped:
            if name == "action.result" and "for call" in dropped:
                self._misdirected(str(payload["Msg-ID"]), call_id)
            self._zone.tell(
                "switch",
                f"{call_id}: drops {payload.get('Application-Name', name)}: {dropped}",
                {call_id},
            )

    def _misdirected(self, session: str, call_id: str) -> None:
        """A result with the wrong call id is lost. Granted only when the id has just changed."""
        self._unheard.add(session)
        replaced_ms = self._replaced_ms.get(call_id, 0)
        if self._agenda.now_ms - replaced_ms > 2 * self._zone.weather.climate.worst_ms + 100:
            self.violated("result", f"result of {session} for the old id {call_id}", {session})

    # ---- messages of workers, as they reach the broker ------------------------------------------

    def arrived(self, who: str, delivery: Delivery, payload: Mapping[str, object]) -> None:
        match delivery.exchange:
            case "callctl":
                flow = self._controlled(str(delivery.headers.get("Deliver-To-PID")))
                if flow is not None:
                    self._speaks(who, flow.action_id, f"command {payload['Application-Name']}")
                    self._commanded(who, flow, payload)
            case "targeted" if payload.get("Event-Name") == "action.result":
                session = str(payload["Msg-ID"])
                self._speaks(who, session, "result")
                self._resulted(who, session, payload)
            case "callevt" if str(payload.get("Event-Name")).startswith("PARK_"):
                self._announced(who, payload)
            case "presence" if payload.get("State") != "terminated":
                self._lit(who, payload)
            case _:
                pass

    def _controlled(self, control_pid: str) -> Flow | None:
        flows = self._flows()
        return next((flow for flow in flows if flow.control_pid == control_pid), None)

    def _speaks(self, who: str, session: str, what: str) -> None:
        """Only the owner by the log speaks for a session."""
        table = self._truth.table
        if not table.settled:
            return
        owner = self._truth.owner(session)
        if owner is not None and owner != who:
            self.violated("fencing", f"{who} sends {what} for {session} of {owner}", {session})
        closed = self._truth.closed_by.get(session)
        if owner is None and closed is not None and closed[1] != who and what != "result":
            self.violated("fencing", f"{who} sends {what} for {session}, closed", {session})

    def _commanded(self, who: str, flow: Flow, payload: Mapping[str, object]) -> None:
        name = str(payload["Application-Name"])
        if name in CUTTING:
            self._not_cut(who, flow, name)
        if name == "call_pickup":
            target = str(payload["Target-Call-ID"])
            if target not in self._truth.granted.get(flow.action_id, set()):
                self.violated(
                    "stranger",
                    f"{who} picks {target} up for {flow.call_id}",
                    {flow.call_id, target},
                )

    def _not_cut(self, who: str, flow: Flow, what: str) -> None:
        """Nobody interrupts a conversation that has stood for a while."""
        since_ms = self._talking_since.get(flow.call_id)
        channel = self._channel(flow.call_id)
        slow_ms = 2 * self._zone.weather.climate.worst_ms
        if since_ms is None or flow.ended or channel is None:
            return
        if self._apart_from(self._late, since_ms) > CUT_MS + slow_ms:
            self.violated(
                "conversation",
                f"{who} sends {what} into the conversation of {flow.call_id}",
                {flow.call_id, channel.other_leg},
            )

    def _resulted(self, who: str, session: str, payload: Mapping[str, object]) -> None:
        self._results.setdefault(session, []).append((self._agenda.now_ms, who))
        flow = next((each for each in self._flows() if each.action_id == session), None)
        if flow is None:
            self.violated("result", f"{who} answers {session}, which nobody asked", {session})
            return
        term = str(decode_result(str(payload["Result"])).atom)
        if term in ("continue", "stop"):
            self._not_cut(who, flow, f"result {term}")
        said = self._results[session]
        if len(said) > 1:
            self._zone.counts.doubled_results += 1
            first_ms = said[-2][0]
            excused = self.was_disturbed(first_ms - 3_000, self._agenda.now_ms + 1)
            if len(said) > 2 or not excused:
                told = ", ".join(f"{at - said[0][0]} ms {by}" for at, by in said)
                self.violated("result", f"{session} is answered again ({told})", {session})

    def result_lost(self, session: str) -> None:
        """A result came back as unroutable: it was not said."""
        self._results[session].pop()

    def _announced(self, who: str, payload: Mapping[str, object]) -> None:
        call_id, event = str(payload["Call-ID"]), str(payload["Event-Name"])
        stay = self._stay_meant(call_id, str(payload["Parking-Slot"]), event)
        if stay is None:
            self.violated("announcement", f"{event} of {call_id}, which is in no slot", {call_id})
            return
        stay.told.append((self._agenda.now_ms, who, event, call_id))

    def lamp_lost(self, payload: Mapping[str, object]) -> None:
        """A lamp update came back as unroutable."""
        presentity = f"{payload.get('From-User')}@{payload.get('From-Realm')}"
        self._lamps_lost.add((presentity, str(payload.get("Call-ID"))))

    def _stay_meant(self, call_id: str, slot: str, event: str) -> Stay | None:
        """The stay a park event is about: the newest that fits."""
        for stay in reversed(self._truth.stays):
            if stay.place[1] != slot:
                continue
            own = call_id in stay.calls
            by = next((flow for flow in self._flows() if flow.action_id == stay.by), None)
            retriever = by is not None and call_id in (by.call_id, by.plan.call_id)
            if event == "PARK_PARKED":
                if own:
                    return stay
            elif not stay.open and (own or retriever):
                return stay
        return None

    def _lit(self, who: str, payload: Mapping[str, object]) -> None:
        call_id = str(payload.get("Call-ID"))
        if not self._truth.table.settled or payload.get("Event-Name") != "dialog_update":
            return
        for stay in self._truth.current.values():
            same = payload.get("From-User") == stay.entry.presence_user
            if same and call_id == stay.calls[-1]:
                owner = self._truth.owner(stay.session)
                if owner != who:
                    self.violated("lamp", f"{who} lights {call_id} of {owner}", {call_id})

    # ---- replicas -------------------------------------------------------------------------------

    def record_placed(self, offset: int) -> None:
        self._log_end = offset
        self._truth.digests.clear()

    def record_read(self, process: Process, offset: int) -> None:
        """A replica that is level with the log must equal it."""
        if offset != self._log_end or process.table.offset != self._truth.table.offset:
            return
        if self._agenda.random.random() < 0.05 and process.replica.lease_ok():
            self._compare(process)

    def _compare(self, process: Process) -> None:
        if process.table.digest() != self._truth.table.digest():
            self.violated("replica", f"{process.name} differs from the log at {self._log_end}")

    # ---- calls ----------------------------------------------------------------------------------

    def _look_at_calls(self) -> None:
        settled = self._truth.table.settled
        for flow, channel in self._live_flows():
            session = flow.action_id
            stay = self._truth.stay_of(session) if settled else None
            if not self._at_work(session) and self._lasts("lost", session, for_ms=LOST_MS):
                self._forgotten(flow)
            if not settled:
                continue
            hears = channel.running.name if channel.running is not None else ""
            held = hears in ("hold", "park")
            if held and stay is None and self._lasts("held", session, for_ms=SETTLE_MS):
                text = f"{flow.call_id} hears hold but has no slot"
                self.violated("slot", text, {flow.call_id, session})
            parked = stay is not None and not stay.reserved
            mute = parked and not hears and not channel.other_leg
            if mute and self._unheard_end(flow.call_id):
                continue
            if mute and self._lasts("mute", session, for_ms=SILENCE_MS):
                self.violated("silence", f"{flow.call_id} is parked and hears nothing", {session})

    def hold_ended(self, call_id: str) -> None:
        self._hold_ended_ms[call_id] = self._agenda.now_ms

    def _unheard_end(self, call_id: str) -> bool:
        """Whether its hold ended by itself when perhaps nobody listened."""
        ended_ms = self._hold_ended_ms.get(call_id)
        return ended_ms is not None and self.was_disturbed(ended_ms - 500, ended_ms + 2_000)

    def _at_work(self, session: str) -> bool:
        owner = self._truth.owner(session)
        process = None if owner is None else self._zone.process(owner)
        return process is not None and SessionId(session) in process.engine._calls.live

    def _forgotten(self, flow: Flow) -> None:
        owner = self._truth.owner(flow.action_id)
        closed = self._truth.closed_by.get(flow.action_id)
        text = f"{flow.call_id} waits, nobody looks after it (owner {owner}, closed {closed})"
        self.violated("forgotten", text, {flow.call_id, flow.action_id})

    # ---- ringback -------------------------------------------------------------------------------

    def _look_at_rings(self) -> None:
        for stay in self._truth.current.values():
            if stay.reserved or not stay.entry.endpoint_id or stay.entry.retriever:
                continue
            flow = next((f for f in self._flows() if f.action_id == stay.session), None)
            channel = self._channel(stay.calls[-1])
            base_ms = stay.first_hold_ms
            if flow is None or flow.ended or channel is None or base_ms is None:
                continue
            if channel.other_leg or (channel.running and channel.running.name == "bridge"):
                stay.ring_ended_ms = self._agenda.now_ms
                continue
            timeout = flow.plan.data["default_ringback_timeout"]
            if not isinstance(timeout, int):
                continue
            due_ms = max(base_ms, stay.ring_ended_ms or 0) + max(timeout, 100)
            due_ms = max(due_ms, stay.free_to_retrieve_ms)
            for call_id in stay.calls:  # a ringback that crossed a change of id is lost: the next
                if call_id in self._replaced_ms:
                    due_ms = max(due_ms, self._replaced_ms[call_id] + CALLBACK_MS + timeout)
            late_ms = RING_LATE_MS + 4 * self._zone.weather.climate.worst_ms
            if due_ms < self._agenda.now_ms and self.calm_ms(due_ms) > late_ms:
                self.violated(
                    "ringback",
                    f"{stay.calls[-1]} should have been rung back since "
                    f"{due_ms - self._agenda.now_ms} ms",
                    {stay.session},
                )

    # ---- sessions -------------------------------------------------------------------------------

    def _look_at_sessions(self) -> None:
        for process in self._zone.alive:
            for session, live in process.engine._calls.live.items():
                state = live.session.state
                bound_ms = BOUNDS_MS.get(state)
                if bound_ms is None:
                    continue
                key = ("state", process.name, session, state.value, str(live.session.attempt))
                if self._lasts(*key, str(live.session.round), for_ms=bound_ms):
                    self.violated(
                        "stuck",
                        f"{session} is {state.value} at {process.name} and stays so",
                        {session},
                    )

    # ---- lamps ----------------------------------------------------------------------------------

    def _look_at_lamps(self, for_ms: int) -> None:
        if not self._truth.table.settled:
            return
        wanted: dict[tuple[str, str], Stay] = {}
        for stay in self._truth.current.values():
            entry = stay.entry
            if not stay.reserved and entry.presence_user and stay.first_hold_ms is not None:
                wanted[f"{entry.presence_user}@{entry.presence_realm}", entry.call_id] = stay
        lit = {
            (presentity, key.partition("@")[2]): row.state
            for presentity, lamp in self._zone.kazoo.core.kamailio.lamps.items()
            for key, row in lamp.rows.items()
            if row.state != "terminated"
        }
        for place, stay in wanted.items():
            if place in self._lamps_lost:
                continue
            if place not in lit and self._lasts("dark", *place, for_ms=for_ms):
                self.violated("lamp", f"{place} is dark", {stay.session, place[1]})
        for place in lit:
            if place[1] in self._lost_calls or place in self._lamps_lost:
                continue
            if place not in wanted and self._lasts("lit", *place, for_ms=for_ms):
                self.violated("lamp", f"{place} is lit for nobody", {place[1]})

    # ---- at rest --------------------------------------------------------------------------------

    def quiet(self) -> None:
        """All faults are over and the zone had time to recover."""
        if self.violations:
            return
        for process in self._zone.alive:
            if process.table.offset == self._truth.table.offset:
                self._compare(process)
        for stay in self._truth.stays:
            if stay.until_ms is not None and self._agenda.now_ms - stay.until_ms > LAMPS_MS:
                self._events_of(stay)

    def _events_of(self, stay: Stay) -> None:
        """RETRIEVED exactly once per retrieval, ABANDONED at most once, and not both."""
        if stay.reserved or stay.until_ms is None or stay.reason is None:
            return
        retrieved = [at for at, _, event, _ in stay.told if event == "PARK_RETRIEVED"]
        abandoned = [at for at, _, event, _ in stay.told if event == "PARK_ABANDONED"]
        parked = [at for at, _, event, _ in stay.told if event == "PARK_PARKED"]
        excused = self.was_disturbed(stay.until_ms - 3_000, stay.until_ms + 2_000)
        taken = stay.reason in TAKEN
        wrong = ""
        if len(retrieved) != (1 if taken else 0):
            wrong = f"{len(retrieved)} PARK_RETRIEVED"
        elif len(abandoned) > (1 if stay.reason in ABANDONED else 0):
            wrong = f"{len(abandoned)} PARK_ABANDONED"
        elif len(parked) > 1:
            wrong = f"{len(parked)} PARK_PARKED"
            excused = self.was_disturbed(stay.since_ms - 1_000, stay.until_ms)
        if not wrong:
            return
        self._zone.counts.excused += excused
        most = max(len(retrieved), len(abandoned), len(parked))
        mixed = (taken and abandoned) or (not taken and retrieved)
        if not excused or most > 2 or mixed:
            self.violated(
                "announcement",
                f"{wrong} for {stay.calls[-1]} ({stay.reason.value})",
                {stay.session, *stay.calls},
            )

    def over(self) -> None:
        """Everybody has hung up."""
        if self.violations:
            return
        for stay in self._truth.current.values():
            self.violated("left over", f"slot {stay.place[1]} has {stay.calls[-1]}", {stay.session})
        for process in self._zone.alive:
            for session in process.engine._calls.live:
                self.violated("left over", f"{process.name} still has {session}", {session})
            if process.table.offset == self._truth.table.offset:
                self._compare(process)
        for session in self._truth.table.sessions_of(None):
            self.violated("left over", f"{session} has no owner", {session})
        for stay in self._truth.stays:
            if not stay.open:
                self._events_of(stay)
        self._count()

    def _count(self) -> None:
        counts = self._zone.counts
        counts.stays = sum(not stay.reserved for stay in self._truth.stays)
        counts.retrieved = sum(stay.reason in TAKEN for stay in self._truth.stays)
        counts.moved = sum(map(len, self._truth.moved_ms.values()))
        counts.rung = sum(device.rung for device in self._zone.people.devices)


def _event_words(payload: Mapping[str, object]) -> str:
    shown = (
        "Application-Name",
        "Application-Response",
        "Other-Leg-Call-ID",
        "Intercepted-By",
        "Hangup-Cause",
        "Fetch-ID",
        "Replaced-By",
        "Connecting-Leg-B-UUID",
        "Error-Message",
    )
    words = [str(payload[key]) for key in shown if payload.get(key)]
    return " ".join([str(payload.get("Event-Name")), *words])
