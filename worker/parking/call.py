"""The call a session looks after: what the execute said about it, parsed once at the edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from worker.parking.model import AccountId, CallId


class Arrival(Enum):
    """How the call reached the park node (contract §7.3)."""

    DIRECT = "direct"
    """Dialled; no Referred-To."""
    BLIND = "blind"
    """Transferred into the slot; Referred-To without Replaces."""
    ATTENDED = "attended"
    """Completes an attended transfer; Referred-To with Replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Facts of one call (contract §2.2 to §2.4). Absent text is ``""``, never None."""

    call_id: CallId
    account: AccountId
    fetch_id: str = ""
    """Custom-Channel-Vars.Fetch-ID, else the top-level one: what usurp events are compared with."""
    arrival: Arrival = Arrival.DIRECT
    replaces: tuple[CallId, ...] = ()
    """Forms of the Replaces call id: as captured, then unescaped once more when that differs."""
    referred_user: str = ""
    """User part of Referred-By (``sip:``, ``sips:`` or ``tel:``)."""
    referred_realm: str = ""
    realm: str = ""
    """The account's realm as far as the call tells, letter case kept (contract §2.4)."""
    request_user: str = ""
    capture_group: str = ""
    child_keys: tuple[str, ...] = ()
    """Keys of the root node's children (contract §2.3), without ``_`` only if absent there."""
    restricted_endpoint_id: str = ""
    authorizing_id: str = ""
    authorizing_type: str = ""
    language: str = "en-us"
    switch_uri: str = ""
    switch_node: str = ""
    from_uri: str = ""
    """``user@realm``, no scheme."""
    from_tag: str = ""
    to_tag: str = ""
    caller_name: str = ""
    caller_number: str = ""
    callee_name: str = ""
    callee_number: str = ""
    direction: str = "inbound"
    inception: str = ""
    hold_media: str = ""
    """The call's own Hold-Media channel variable."""
    control_address: str = ""
    """Control-Queue, plain or ``pid://`` (contract §1.5)."""
    reply_address: str = ""
    """Server-ID of the execute, else Controller-Queue; empty: nobody to answer."""
    channel_vars: Mapping[str, object] = field(default_factory=dict)
    """Custom-Channel-Vars as they came: repeated in park events."""

    @property
    def parked_number(self) -> str:
        """The outside party's number: callee for outbound legs, else caller (contract §14)."""
        return self.callee_number if self.direction == "outbound" else self.caller_number
