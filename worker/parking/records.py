"""The records of the slot log (design §4): the only things that change the slot table.

Every worker appends records and applies what comes back in log order. A record says what is
asked; the table (`slots.py`) decides what it means at its place in the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.parking.model import (
    AccountId,
    CallId,
    ReleaseReason,
    SessionId,
    SlotEntry,
    SlotId,
    SlotLamp,
    WorkerId,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Common to all: who wrote it and the author's wall clock (information only, never decides).

    ``epoch`` and ``seq`` are stamped by the replica when it appends: an epoch is one attachment of
    the author to the log, opened by a barrier with ``seq`` 1. The table takes an author's records
    only in turn (next number of the newest epoch), so a late duplicate has no effect and a hole is
    noticed. 0: not stamped, taken as it comes.
    """

    author: WorkerId
    at_ms: int
    epoch: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Record):
    """Ask for a slot. Opens the session when it is not open yet.

    ``entry.slot`` is empty for "lowest free number from 101", decided when applied.
    ``replaces``: call ids of a reservation (or parked call) this call completes; tried in order
    before the slot itself. ``evict``: the session that the switch has proven dead; if it still
    holds the slot it is released (EVICTED) first, in the same step.
    ``attempt`` counts the session's own tries from 1: (session, attempt) is the claim's identity.
    """

    entry: SlotEntry
    attempt: int = 1
    max_slot: int | None = None
    replaces: tuple[CallId, ...] = ()
    evict: SessionId | None = None
    evict_call: CallId | None = None
    """The call that was proven dead: a holder that has another id by now is left alone."""
    lamps: tuple[SlotLamp, ...] = ()
    """For an automatic slot: lamps that depend on which one it becomes."""
    facts: str = ""
    """JSON text: everything a successor needs to go on with the session. Opaque here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieve(Record):
    """Ask for the right to pick up a slot's call. Opens the session when it is not open yet."""

    session: SessionId
    account: AccountId
    slot: SlotId
    attempt: int = 1
    facts: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unretrieve(Record):
    """The pickup failed: the parkee stays, others may try."""

    session: SessionId
    account: AccountId
    slot: SlotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Record):
    """Free the slot if ``holder`` still has it. ``by`` is the session that says so."""

    account: AccountId
    slot: SlotId
    holder: SessionId
    by: SessionId
    reason: ReleaseReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap(Record):
    """The holder's call changed its id (contract §3.4)."""

    account: AccountId
    slot: SlotId
    holder: SessionId
    old_call_id: CallId
    new_call_id: CallId


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Record):
    """A session's progress (state, ringback round, deadline): what a successor resumes from."""

    session: SessionId
    state: str
    """JSON text, opaque here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Close(Record):
    """The session is over: its result is sent, or its call has left. Frees nothing by itself,
    except that a slot still held by the session is released (WITHDRAWN)."""

    session: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Record):
    """A worker is here. ``author`` is the worker. Sessions without an owner become its own."""

    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive(Record):
    """The author lives. ``beat`` grows by one each time."""

    beat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Record):
    """The author stops: its sessions are dealt to the others, decided by this record alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead(Record):
    """The author holds ``victim`` for dead, having seen its beats up to ``beat``.

    Void when a later beat of the victim stands before it in the log."""

    victim: WorkerId
    beat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier(Record):
    """Changes nothing. Seeing one's own proves that the log before it has been read."""

    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed(Record):
    """What the author knew when the log was found empty (the broker was wiped)."""

    state: str
    """JSON text of a table snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled(Record):
    """Ends the settling of a new log: from here claims are decided; those before it, now."""
