"""A session at work in this worker: its state machine plus what the engine knows around it."""

from __future__ import annotations

from hashlib import blake2b

from worker.parking.model import SessionId
from worker.parking.session import Session


class LiveSession:
    """One call this worker looks after."""

    __slots__ = ("_ids", "deadline_ms", "facts", "generation", "opened", "session", "tag")

    def __init__(self, session: Session, *, facts: str, generation: int, opened: bool) -> None:
        self.session = session
        self.facts = facts
        """What the log is told of it, until it is opened there."""
        self.generation = generation
        """How often it has changed its owner: part of its ids, so no two owners repeat one."""
        self.opened = opened
        self.tag: int | None = None
        """Delivery tag of an execute that is not acknowledged yet."""
        self.deadline_ms: int | None = None
        self._ids = 0

    @property
    def id(self) -> SessionId:
        return self.session.id

    def new_id(self) -> str:
        """32 hex digits, the same again when the session is replayed."""
        self._ids += 1
        return session_made_id(self.session.id, self.generation, self._ids)


def session_made_id(session: str, generation: int, number: int) -> str:
    """The ``number``-th id a session makes up while it is with its ``generation``-th owner."""
    name = f"{session}:{generation}:{number}"
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
