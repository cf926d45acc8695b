"""The words of parking: identifiers, closed sets and the records that describe a parked call.

Pure. Knows neither Kazoo's header names, nor JSON, nor a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

AccountId = NewType("AccountId", str)
CallId = NewType("CallId", str)
SessionId = NewType("SessionId", str)
"""The Msg-ID of the action.execute that started the session (contract §2.2)."""
SlotId = NewType("SlotId", str)
"""Text such as ``"101"``; any non-empty text is a slot, digits are not required."""
WorkerId = NewType("WorkerId", str)


class Action(StrEnum):
    """What the node asks for (contract §7.1)."""

    PARK = "park"
    RETRIEVE = "retrieve"
    AUTO = "auto"
    DIRECT_PARK = "direct_park"


class PresenceType(StrEnum):
    """The dialog state of an occupied slot (contract §5.2)."""

    EARLY = "early"
    CONFIRMED = "confirmed"
    TERMINATED = "terminated"


class Compat(StrEnum):
    """``fixed`` repairs the reference's defects, ``strict`` keeps what one hears (design §8)."""

    FIXED = "fixed"
    STRICT = "strict"


class ReleaseReason(StrEnum):
    """Why a slot became free."""

    RETRIEVED = "retrieved"
    """A retriever of ours is bridged to the parkee."""
    ANSWERED = "answered"
    """The parker answered the ringback."""
    INTERCEPTED = "intercepted"
    """Somebody picked the parkee up without us."""
    ABANDONED = "abandoned"
    """The parkee hung up or was found dead."""
    BRANCHED = "branched"
    """An unanswered ringback sent the parkee to the slot's own child."""
    LEFT = "left"
    """Control of the call went elsewhere: usurp, transferee, pivot."""
    EXPIRED = "expired"
    """A reservation of an attended transfer that was not completed."""
    EVICTED = "evicted"
    """The switch said the holder is gone when somebody else wanted the slot."""
    WITHDRAWN = "withdrawn"
    """The claiming call was gone before it was held, or its session crashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLamp:
    """The lamp of one slot where the node's entry for it differs from the others."""

    slot: SlotId
    user: str
    presence_type: PresenceType


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotEntry:
    """Who is in a slot (contract §7.2). ``reserved`` is the first stage of an attended park."""

    account: AccountId
    slot: SlotId
    session: SessionId
    """The session that holds the slot; its owner writes the lamp."""
    call_id: CallId
    reserved: bool = False
    retriever: SessionId | None = None
    """The one session that may pick the parkee up now."""
    switch_uri: str = ""
    switch_node: str = ""
    from_tag: str = ""
    to_tag: str = ""
    presence_user: str = ""
    presence_realm: str = ""
    presence_type: PresenceType = PresenceType.EARLY
    caller_name: str = ""
    caller_number: str = ""
    caller_uri: str = ""
    """The call's From as ``user@realm``."""
    endpoint_id: str = ""
    """Device document id of the parker; empty: hold without ringback."""
    parker_device: str = ""
    """Device whose own leg made the reservation: rung when nothing better is known."""
    hold_media: str = ""
    parked_number: str = ""
    parked_at_ms: int = 0
    """Wall clock in milliseconds since 1970."""
