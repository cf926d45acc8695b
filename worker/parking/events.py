"""What happened: the inputs of a session. Past tense, frozen, no wire words.

Channel events (contract §3) carry the call they are about; a session ignores what is not about a
call it follows. Answers to the session's own questions carry what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from worker.parking.changes import (
    ClaimDecided,
    Released,
    ReleaseRefused,
    RetrieveDecided,
    Swapped,
)
from worker.parking.model import CallId, SessionId


class Liveness(Enum):
    """What the switch says of a channel (contract §3.6)."""

    ACTIVE = "active"
    DEAD = "dead"
    """At least one ``terminated``, no ``active`` in time."""
    UNKNOWN = "unknown"
    """No answer at all, or ``tmpdown``: never taken for dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEvent:
    """Something the switch said about ``call_id``."""

    call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDestroyed(ChannelEvent):
    hangup_cause: str = ""
    disposition: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDisconnected(ChannelEvent):
    """ecallmgr lost the media node; the channel may survive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelConnected(ChannelEvent):
    """The media node is seen again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelAnswered(ChannelEvent):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelBridged(ChannelEvent):
    other_leg: CallId = CallId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelUnbridged(ChannelEvent):
    other_leg: CallId = CallId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelIntercepted(ChannelEvent):
    """Published for the target: ``by`` picked this call up."""

    by: CallId = CallId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReplaced(ChannelEvent):
    """CHANNEL_REPLACED or CHANNEL_DIRECT (contract §3.4): the call has a new id."""

    new_call_id: CallId
    fetch_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTransferred(ChannelEvent):
    """CHANNEL_TRANSFEREE: with our own Fetch-ID the flow has left."""

    fetch_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPivoted(ChannelEvent):
    """CHANNEL_PIVOT: the flow was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlUsurped(ChannelEvent):
    """usurp_control: with a foreign Fetch-ID control is lost (contract §3.5)."""

    fetch_id: str
    reason: str = ""


class App(Enum):
    """Commands whose completion or failure a session waits for. Values are Kazoo's names."""

    ANSWER = "answer"
    HOLD = "hold"
    PARK = "park"
    PLAY = "play"
    SAY = "say"
    NOOP = "noop"
    BRIDGE = "bridge"
    PICKUP = "call_pickup"
    BREAK = "break"
    SET = "set"
    HANGUP = "hangup"
    QUEUE = "queue"
    OTHER = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCompleted(ChannelEvent):
    """CHANNEL_EXECUTE_COMPLETE (contract §3.3)."""

    app: App
    response: str = ""
    """Application-Response; for a noop the noop's Msg-ID."""
    disposition: str = ""
    hangup_cause: str = ""
    channel_state: str = ""
    """``HANGUP`` on a hold completion: the caller hung up (contract §14)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailed(ChannelEvent):
    """A dialplan error (contract §3.7) for the command with ``msg_id``."""

    app: App
    msg_id: str = ""
    message: str = ""
    channel_down: bool = False
    """Channel-Call-State was DOWN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReturned(ChannelEvent):
    """The broker could not route a command: the control queue is gone."""

    app: App


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessKnown(ChannelEvent):
    liveness: Liveness
    other_leg: CallId = CallId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallWatched(ChannelEvent):
    """The binding for the call's events is in place: from here nothing is missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationCompleted:
    """The attended transfer this session reserved the slot for is complete: another call has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFound:
    """The registrar's answer about the parker's device; empty when unknown (contract §9.4)."""

    endpoint_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalBegun:
    """Another session of ours was granted the pickup of the call this session holds."""

    retriever: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalEnded:
    """That pickup failed: the parkee is ours again. Also told to who waits its turn."""

    retriever: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFreed:
    """Told to a session that waits for a slot it does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The session begins. ``waited``: the execute lay in the queue, or was delivered again:
    the switch is asked before anything is done (design §8)."""

    waited: bool = False
    too_old: bool = False
    """Older than the switch's patience: only a channel proven active is acted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The session goes on after an outage or in a new owner: ask the switch first."""

    adopted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    """The deadline the session asked for has passed."""


Event = (
    Started
    | Resumed
    | DeadlinePassed
    | CallWatched
    | LivenessKnown
    | ClaimDecided
    | RetrieveDecided
    | Released
    | ReleaseRefused
    | Swapped
    | RetrievalBegun
    | RetrievalEnded
    | SlotFreed
    | EndpointFound
    | ReservationCompleted
    | ChannelDestroyed
    | ChannelDisconnected
    | ChannelConnected
    | ChannelAnswered
    | ChannelBridged
    | ChannelUnbridged
    | ChannelIntercepted
    | ChannelReplaced
    | ChannelTransferred
    | ChannelPivoted
    | ControlUsurped
    | CommandCompleted
    | CommandFailed
    | CommandReturned
)
