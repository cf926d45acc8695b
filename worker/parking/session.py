"""One call under our care: its facts, its state, its timers, and the few moves all states share.

What happens in which state is in `machine.py` (the table) and in the step modules it names
(`arriving`, `holding`, `ringing`, `reserving`, `retrieving`, `visiting`). Time comes in as
``now_ms`` (wall clock, milliseconds since 1970), effects go out as data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from worker.parking import effects as do
from worker.parking.call import Arrival, Call
from worker.parking.changes import Released, ReleaseRefused
from worker.parking.events import Liveness
from worker.parking.model import (
    Action,
    CallId,
    Compat,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    SlotLamp,
)
from worker.parking.node import (
    Defaults,
    Node,
    Policy,
    presence_depends_on_slot,
    presence_user,
    requested_slot,
    resolve,
)


class State(Enum):
    """Where a session stands. The comment says what it waits for."""

    NEW = "new"
    CHECKING = "checking"  # the switch, before anything is done for an execute that waited
    CLAIMING = "claiming"  # the log, to decide a claim
    CONFIRMING = "confirming"  # the switch, to say that the call that won its slot lives
    SUSPECTING = "suspecting"  # the switch, to say whether the slot's holder lives
    HOLDING = "holding"  # anything: the parkee hears hold media
    RINGING = "ringing"  # the parker, to answer the ringback
    ANSWERED = "answered"  # the end of the bridge between parkee and parker
    INTERCEPTED = "intercepted"  # the proof that a foreign pickup succeeded
    LEAVING = "leaving"  # a moment, to learn whether it was us who usurped the parkee
    ADRIFT = "adrift"  # the outcome of our own pickup; control of the parkee is lost
    RELEASING = "releasing"  # the log, to decide a release
    ANSWERING = "answering"  # attended, first stage: the parker's leg to be answered
    PROMPTING = "prompting"  # the prompt to end
    SAYING = "saying"  # the slot number to be said
    AWAITING_HANGUP = "awaiting_hangup"  # the parker's leg to go
    LINGERING = "lingering"  # the same, after the result was sent
    RESERVED = "reserved"  # the Replaces, the parker's leg being gone
    RETRIEVING = "retrieving"  # the log, to grant the pickup
    PENDING = "pending"  # a second, before asking again for a slot still reserved
    AWAITING_TURN = "awaiting_turn"  # somebody else's pickup of the same slot to end
    PICKING_UP = "picking_up"  # the bridge to the parkee
    DOUBTING = "doubting"  # the switch, to say whether the parkee lives after a failed pickup
    HANDING_OVER = "handing_over"  # the log, to decide that the slot is free after the bridge
    REFUSING = "refusing"  # the retriever's or parker's leg to be answered
    EXPLAINING = "explaining"  # the refusal's prompt to end
    LOOKING_UP = "looking_up"  # the registrar: who transferred a call into an occupied slot?
    VISITING = "visiting"  # that parker to take the call back
    VISITED = "visited"  # the end of that bridge
    ENDED = "ended"


class Timer(Enum):
    """A session's timers. The earliest is its deadline."""

    STEP = "step"
    """Bounds the present state."""
    RING = "ring"
    """Ring the parker back."""
    RECONCILE = "reconcile"
    """Ask the switch whether the channel still lives."""
    RECHECK = "recheck"
    """Ask again: the last answer was UNKNOWN."""


class Check(Enum):
    """Why the switch was asked about our own call."""

    RECONCILE = "reconcile"
    RING = "ring"
    HOLD = "hold"
    RESUME = "resume"
    FAULT = "fault"
    """A command failed, or the media node is out of sight."""


RECHECK_MS = 2_000
RELEASE_AGAIN_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What does not depend on the call: defaults, compatibility, intervals."""

    compat: Compat = Compat.FIXED
    account: Defaults = Defaults()
    system: Defaults = Defaults()
    reconcile_ms: int = 45_000

    @property
    def strict(self) -> bool:
        return self.compat is Compat.STRICT


class Session:
    """The state of one call. Not thread-safe; `machine.receive` is its only writer."""

    __slots__ = (
        "announced",
        "asked",
        "attempt",
        "bridge_over",
        "bridged_leg",
        "call",
        "call_dead",
        "call_id",
        "checks",
        "control_lost",
        "effects",
        "endpoint_id",
        "entry",
        "finished",
        "freed",
        "held_since_ms",
        "id",
        "inherits_lamp",
        "intercepted",
        "liveness",
        "node",
        "presumed_dead",
        "refusal",
        "releasing",
        "resumed",
        "retrieving",
        "retry_used",
        "ring_ended_at_ms",
        "round",
        "rules",
        "slot",
        "state",
        "target",
        "timers",
        "took",
        "unsent",
        "watched",
    )

    def __init__(self, session_id: SessionId, call: Call, node: Node, rules: Rules) -> None:
        self.id = session_id
        self.call = call
        self.node = node
        self.rules = rules
        self.state = State.NEW
        self.call_id: CallId = call.call_id
        """The call's present id: follows replacements (contract §3.4)."""
        wanted = requested_slot(node, call.capture_group)
        self.slot: SlotId | None = SlotId(wanted) if wanted else None
        self.entry: SlotEntry | None = None
        """The slot this session holds."""
        self.freed: Released | None = None
        """Adopted too late: how the slot it held became free."""
        self.took: Released | ReleaseRefused | None = None
        """Adopted too late: what the log answered when it was bridged to whom it retrieved."""
        self.target: SlotEntry | None = None
        """The slot this session picks up from, or that it suspects to be held by a dead call."""
        self.timers: dict[Timer, int] = {}
        self.checks: set[Check] = set()
        self.effects: list[do.Effect] = []
        self.unsent: list[do.Effect] = []
        """Commands that wait for the call's binding."""
        self.attempt = 0
        self.round = 0
        self.endpoint_id = call.restricted_endpoint_id
        self.retrieving: SessionId | None = None
        self.releasing: ReleaseReason | None = None
        self.refusal: do.Prompt | None = None
        self.asked: CallId | None = None
        self.liveness: Liveness | None = None
        self.bridged_leg: CallId | None = None
        self.held_since_ms: int | None = None
        self.ring_ended_at_ms: int | None = None
        self.watched = False
        self.inherits_lamp = False
        """The slot came from a session that had its lamp lit."""
        self.presumed_dead = False
        """One check that nobody waits for has said DEAD: the next one decides."""
        self.resumed = False
        self.announced = False
        self.intercepted = False
        self.bridge_over = False
        self.call_dead = False
        self.control_lost = False
        self.retry_used = False
        self.finished = False

    # ---- what the node wants ---------------------------------------------------------------

    @property
    def action(self) -> Action:
        return self.node.action

    @property
    def policy(self) -> Policy:
        """Timeouts and presence type of the session's slot, in the documented order."""
        return self.policy_of(self.slot)

    def policy_of(self, slot: SlotId | None) -> Policy:
        return resolve(self.node, slot, self.rules.account, self.rules.system)

    @property
    def auto_retrieves(self) -> bool:
        return self.action is Action.AUTO

    @property
    def reserves(self) -> bool:
        """Attended, first stage: the parker dialled the slot and will transfer into it."""
        return self.call.arrival is Arrival.DIRECT and self.action is not Action.DIRECT_PARK

    def wanted_entry(self, now_ms: int) -> SlotEntry:
        """The entry this session asks the log for; the slot is empty when it is automatic."""
        call = self.call
        return SlotEntry(
            account=call.account,
            slot=self.slot or SlotId(""),
            session=self.id,
            call_id=self.call_id,
            reserved=self.reserves,
            switch_uri=call.switch_uri,
            switch_node=call.switch_node,
            from_tag=call.from_tag,
            to_tag=call.to_tag,
            presence_user=self.presence_user(self.slot),
            presence_realm=call.realm,
            presence_type=self.policy.presence_type,
            caller_name=call.caller_name,
            caller_number=call.caller_number,
            caller_uri=call.from_uri,
            endpoint_id=self.endpoint_id,
            hold_media=self.node.hold_media or call.hold_media,
            parked_number=call.parked_number,
            parked_at_ms=now_ms,
        )

    def presence_user(self, slot: SlotId | None) -> str:
        call = self.call
        return presence_user(
            self.node, slot, request_user=call.request_user, captured=bool(call.capture_group)
        )

    def lamps_by_slot(self) -> tuple[SlotLamp, ...]:
        """What an automatic slot's own entry says of its lamp, for the log to choose from."""
        automatic = not requested_slot(self.node, self.call.capture_group)
        if not automatic or not presence_depends_on_slot(self.node):
            return ()
        slots = [SlotId(slot) for slot in self.node.slots]
        return tuple(
            SlotLamp(
                slot=slot,
                user=self.presence_user(slot),
                presence_type=self.policy_of(slot).presence_type,
            )
            for slot in slots
        )

    def hold_entry(self, entry: SlotEntry) -> None:
        """Take the slot as decided."""
        self.slot, self.entry = entry.slot, entry
        self.endpoint_id = entry.endpoint_id or self.endpoint_id or entry.parker_device

    # ---- moves every state may make --------------------------------------------------------

    def emit(self, *effects: do.Effect) -> None:
        self.effects.extend(effects)

    def enter(self, state: State, now_ms: int = 0, step_ms: int | None = None) -> None:
        """Go to a state; its STEP timer replaces the old one."""
        self.state = state
        if step_ms is None:
            self.timers.pop(Timer.STEP, None)
        else:
            self.timers[Timer.STEP] = now_ms + step_ms

    def check(self, why: Check) -> None:
        """Ask the switch about our own call; asking is bundled while an answer is awaited."""
        if not self.checks:
            self.emit(do.AskLiveness(call_id=self.call_id))
        self.checks.add(why)

    def ask_again(self, why: Check) -> None:
        """Ask even if an answer is awaited: it may never come."""
        self.checks.add(why)
        self.emit(do.AskLiveness(call_id=self.call_id, patient=True))

    def finish(self, verdict: do.Verdict, child: str | None = None) -> None:
        """Send the one result, unless it was sent or the flow is no longer ours."""
        if not self.finished and not self.control_lost:
            self.finished = True
            self.emit(do.Finish(verdict=verdict, child=child))

    def end(self) -> None:
        self.state = State.ENDED
        self.timers.clear()
        self.emit(do.End())

    def release(self, reason: ReleaseReason, now_ms: int) -> None:
        """Ask the log to free our slot; what follows from it waits for the decision."""
        if self.entry is None:
            self.end()
            return
        self.releasing = reason
        self.timers.pop(Timer.RING, None)
        self.timers.pop(Timer.RECHECK, None)
        self.enter(State.RELEASING, now_ms, RELEASE_AGAIN_MS)
        self.emit(do.ReleaseSlot(slot=self.entry.slot, holder=self.id, reason=reason))

    def next_deadline_ms(self) -> int | None:
        return min(self.timers.values(), default=None)

    def due(self, now_ms: int) -> list[Timer]:
        """Timers that have run out, earliest first; they are taken off."""
        ready = sorted((at, t.value, t) for t, at in self.timers.items() if at <= now_ms)
        for _, _, timer in ready:
            del self.timers[timer]
        return [timer for _, _, timer in ready]

    # ---- what a successor needs ------------------------------------------------------------

    def checkpoint(self) -> dict[str, object]:
        """Plain data for the log: where we are. Deadlines are wall clock."""
        saved: dict[str, object] = {
            "state": self.state.value,
            "call_id": self.call_id,
            "attempt": self.attempt,
            "round": self.round,
            "timers": {t.value: self.timers[t] for t in Timer if t in self.timers},
        }
        optional: Mapping[str, object] = {
            "slot": self.slot,
            "endpoint_id": self.endpoint_id,
            "held_since_ms": self.held_since_ms,
            "announced": self.announced,
            "finished": self.finished,
            "control_lost": self.control_lost,
        }
        saved.update({key: value for key, value in optional.items() if value})
        return saved
