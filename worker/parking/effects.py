"""What a session wants done. Imperative, frozen, no wire words: `kapi` gives them their wire form.

Commands (contract §4) go to the control queue of the session's own call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from worker.parking.model import CallId, ReleaseReason, SessionId, SlotEntry, SlotId, SlotLamp


class Prompt(Enum):
    """System prompts of parking (contract §4.6)."""

    PLACED = "park-call_placed_in_spot"
    IN_USE = "park-already_in_use"
    NO_CALLER = "park-no_caller"


class ParkEvent(Enum):
    """Park events (contract §6)."""

    PARKED = "PARK_PARKED"
    RETRIEVED = "PARK_RETRIEVED"
    ABANDONED = "PARK_ABANDONED"


# ---- the flow -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """action.accepted for the execute."""


class Verdict(Enum):
    """The term of action.result (contract §2.5)."""

    CONTINUE = "continue"
    STOP = "stop"
    TRANSFER = "transfer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The one action.result. ``child``: {continue, child}. Sent at most once per session."""

    verdict: Verdict
    child: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The session is over and can be forgotten (a result may or may not have been sent)."""


# ---- questions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Listen to a call's events; answered by CallWatched."""

    call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwatch:
    call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLiveness:
    """Ask the switch whether the channel lives; answered by LivenessKnown within 2 s.

    ``quick``: when nobody has answered at all after a short grace, UNKNOWN is told at once, and
    what becomes known later is told as well. ``patient``: nobody waits for it, so it may wait its
    turn: after a take-over of many calls the switch is not asked about all of them at once."""

    call_id: CallId
    quick: bool = False
    patient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AskEndpoint:
    """Ask the registrar for the device of a SIP user; answered by EndpointFound within 2 s."""

    user: str
    realm: str


# ---- channel commands ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Endless hold media; empty media: the channel's default."""

    media: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkSilently:
    """The switch's own park: silence. Used when hold media cannot be played."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A prompt, then a noop whose completion says it has ended."""

    prompt: Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """Spell a slot number."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCallee:
    """Two set commands: the callee id the parker will see (contract §4.11)."""

    number: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """Ring the parker's device (contract §4.10, §4.11)."""

    endpoint_id: str
    timeout_s: int
    slot: SlotId
    caller_name: str
    caller_number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """End the running application at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pickup:
    """Intercept the parkee. ``usurp``: let ecallmgr end the parkee's control session (strict)."""

    target: CallId
    usurp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hangup:
    pass


Command = (
    Answer | Hold | ParkSilently | Play | Say | SetCallee | Bridge | Break | Pickup | Hangup
)

# ---- the log, the lamp, the world ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSlot:
    """Append a Claim."""

    entry: SlotEntry
    attempt: int
    max_slot: int | None = None
    replaces: tuple[CallId, ...] = ()
    evict: SessionId | None = None
    evict_call: CallId | None = None
    lamps: tuple[SlotLamp, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveSlot:
    slot: SlotId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpRetrieval:
    slot: SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSlot:
    slot: SlotId
    holder: SessionId
    reason: ReleaseReason


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapCall:
    slot: SlotId
    old_call_id: CallId
    new_call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """Append a Checkpoint with the session's present state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LightLamp:
    """The slot is occupied: its lamp shows ``entry.presence_type`` from now on."""

    entry: SlotEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Publish a park event about the session's own call."""

    event: ParkEvent
    slot: SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSlot:
    """Tell this session (SlotFreed, RetrievalEnded) when ``slot`` changes."""

    slot: SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One line for the log: constant text plus fields."""

    text: str
    fields: tuple[tuple[str, str], ...] = ()


Effect = (
    Accept
    | Finish
    | End
    | Watch
    | Unwatch
    | AskLiveness
    | AskEndpoint
    | Command
    | ClaimSlot
    | RetrieveSlot
    | GiveUpRetrieval
    | ReleaseSlot
    | SwapCall
    | Save
    | LightLamp
    | Announce
    | AwaitSlot
    | Note
)
