"""What applying a record to the slot table changed: read by the engine, never stored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from worker.parking.model import ReleaseReason, SessionId, SlotEntry, WorkerId


class ClaimOutcome(Enum):
    """How a claim was decided by its place in the log."""

    WON = "won"
    """The slot is the session's. ``entry`` is what is stored."""
    COMPLETED = "completed"
    """Won by completing a reservation; ``previous`` is the entry that was taken over."""
    OCCUPIED = "occupied"
    """``previous`` is the holder's entry."""
    EXCEEDED = "exceeded"
    """The number is above ``max_slot``."""


class RetrieveOutcome(Enum):
    """How a retrieval was decided."""

    WON = "won"
    EMPTY = "empty"
    PENDING = "pending"
    """An attended reservation, not completed yet."""
    BUSY = "busy"
    """Another session is picking this parkee up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimDecided:
    session: SessionId
    attempt: int
    outcome: ClaimOutcome
    entry: SlotEntry | None = None
    previous: SlotEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveDecided:
    session: SessionId
    attempt: int
    outcome: RetrieveOutcome
    entry: SlotEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveEnded:
    """``entry`` (as it is now, without the retriever) may be tried by others."""

    entry: SlotEntry
    session: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The slot is free; ``entry`` is what it held. ``by``/``author`` say who freed it.

    ``owner``: the worker that owned the holder's session then (it darkens the lamp)."""

    entry: SlotEntry
    reason: ReleaseReason
    by: SessionId
    author: WorkerId
    owner: WorkerId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRefused:
    """The holder did not have the slot any more: somebody else was first."""

    holder: SessionId
    by: SessionId
    reason: ReleaseReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    before: SlotEntry
    after: SlotEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    session: SessionId
    owner: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClosed:
    session: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMoved:
    """The session has a new owner, who must go on with it; the old one must say nothing more."""

    session: SessionId
    owner: WorkerId
    previous: WorkerId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJoined:
    worker: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGone:
    worker: WorkerId
    dead: bool


Change = (
    ClaimDecided
    | RetrieveDecided
    | RetrieveEnded
    | Released
    | ReleaseRefused
    | Swapped
    | SessionOpened
    | SessionClosed
    | SessionMoved
    | WorkerJoined
    | WorkerGone
)
