"""What a lamp is: one dialog shown on one presentity, and what may be said about it (contract §5).

Pure. `presence.LampBook` decides what is said and when; `kapi` gives an update its wire form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

from worker.parking.model import CallId, PresenceType, SlotEntry

Jitter = Callable[[str], float]
"""A number in [0, 1) for a text, always the same one for the same text."""

Spelling = tuple[str, str]
"""(user, realm) in one letter case."""


def hashed_jitter(text: str) -> float:
    """Spread texts evenly over [0, 1): the jitter used in production."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest) / 2**32


def folded(user: str, realm: str) -> Spelling:
    """The place of a lamp whatever its letter case."""
    return user.lower(), realm.lower()


class Reason(StrEnum):
    """Why an update is sent: for logs and counters, it changes nothing on the wire."""

    LIT = "lit"
    ENDED = "ended"
    REPEATED = "repeated"
    """The same again, because the first may lose a race inside Kamailio."""
    REFRESHED = "refreshed"
    """Before Expires runs out."""
    PROBED = "probed"
    RESET = "reset"
    RETURNED = "returned"
    """Kamailio was away."""
    ORPHANED = "orphaned"
    """The worker that should have said so died."""
    REPAIRED = "repaired"
    """The audit found drift."""


class LampKey(NamedTuple):
    """What makes a row in Kamailio: the Switch-URI is part of it with fast pick-up (§5.3)."""

    user: str
    realm: str
    call_id: str
    switch_uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lamp:
    """One dialog on one presentity, and the caller it shows."""

    user: str
    realm: str
    call_id: CallId
    switch_uri: str = ""
    caller_uri: str = ""
    caller_name: str = ""
    caller_number: str = ""
    presence_type: PresenceType = PresenceType.EARLY

    @classmethod
    def of(cls, entry: SlotEntry) -> Lamp:
        """The lamp of an occupied slot."""
        return cls(
            user=entry.presence_user,
            realm=entry.presence_realm,
            call_id=entry.call_id,
            switch_uri=entry.switch_uri,
            caller_uri=entry.caller_uri,
            caller_name=entry.caller_name,
            caller_number=entry.caller_number,
            presence_type=entry.presence_type,
        )

    @classmethod
    def of_free(cls, user: str, realm: str) -> Lamp:
        """A dark lamp nobody lit: its Call-ID is made up, and always the same."""
        name = "@".join(folded(user, realm)).encode("utf-8", "surrogatepass")
        call_id = CallId(f"free-{blake2b(name, digest_size=12).hexdigest()}")
        return cls(user=user, realm=realm, call_id=call_id, caller_uri=f"{user}@{realm}")

    @property
    def key(self) -> LampKey:
        return LampKey(self.user, self.realm, self.call_id, self.switch_uri)

    @property
    def spelling(self) -> Spelling:
        return self.user, self.realm

    @property
    def place(self) -> Spelling:
        return folded(self.user, self.realm)

    def spelled(self, spelling: Spelling) -> Lamp:
        """The same lamp as somebody else writes it."""
        user, realm = spelling
        return self if spelling == self.spelling else replace(self, user=user, realm=realm)


@dataclass(frozen=True, slots=True, kw_only=True)
class LampUpdate:
    """One dialog update to publish (contract §5.1). ``state`` TERMINATED: the dialog is over."""

    lamp: Lamp
    state: PresenceType
    expires_s: int
    reason: Reason


class DriftKind(StrEnum):
    """How a lamp differs from the slot table."""

    DARK = "dark"
    """The slot is occupied and its lamp was not lit."""
    LIT = "lit"
    """The lamp is lit for a call that has no slot."""
    DIFFERENT = "different"
    """Lit, but with another caller or state."""
    OVERDUE = "overdue"
    """Lit, but not said again in time: Kamailio has dropped it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A difference that lasted, now being repaired."""

    lamp: Lamp
    kind: DriftKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LampStats:
    """Numbers for metrics. ``lit`` are ours, ``foreign`` those of other workers."""

    lit: int
    ending: int
    foreign: int
    known: int
    ended: int
    published: int
    drift: int
