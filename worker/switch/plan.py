"""What a test or demo wants to happen on the simulated switch: devices, calls, times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ACCOUNT = "0123456789abcdef0123456789abcdef"
REALM = "acme.sip.example.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """What a phone does when it is rung once. Neither answer nor cause: it rings until the end."""

    answer_after_ms: int | None = None
    fail_after_ms: int = 20
    cause: str = ""
    """A bridge failure such as ``USER_BUSY`` (contract §3.3)."""
    talk_ms: int | None = None
    """The phone hangs up this long after answering; None: never by itself."""


IGNORE = Ring()
BUSY = Ring(cause="USER_BUSY")


@dataclass(slots=True, kw_only=True)
class Device:
    """A phone known to the account. ``rings`` are used up in order, the last one stays."""

    id: str
    username: str
    number: str = ""
    name: str = ""
    account: str = ACCOUNT
    realm: str = REALM
    registered: bool = True
    rings: list[Ring] = field(default_factory=lambda: [IGNORE])
    rung: int = 0
    """How often it has been rung."""
    legs: list[str] = field(default_factory=list)
    """Call ids of the legs it has answered."""
    screen: str = ""
    """What its display shows while it rings or talks."""

    def next_ring(self) -> Ring:
        self.rung += 1
        return self.rings.pop(0) if len(self.rings) > 1 else self.rings[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlan:
    """A call that reaches a park node (contract §2.2).

    ``transferred_by``: the phone whose REFER brought it (blind; attended with ``replaces``).
    ``unknown_referrer``: a REFER without Referred-By. ``call_id`` may be that of a living channel:
    the new control session then takes over from its old one.
    """

    number: str
    data: Mapping[str, object] = field(default_factory=dict)
    children: Mapping[str, object] = field(default_factory=dict)
    caller: Device | None = None
    caller_name: str = "Alice"
    caller_number: str = "4001"
    call_id: str = ""
    account: str = ACCOUNT
    realm: str = REALM
    capture_group: str = ""
    transferred_by: Device | None = None
    unknown_referrer: bool = False
    replaces: str = ""
    replaced_leg_ends: bool = True
    """The consultation leg hangs up once its transfer is complete."""
    server: int = 0
    """Which media server the channel is on."""
    channel_vars: Mapping[str, object] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)
    """Merged over the ``Call`` object last."""
    cold: bool = False
    """The channel is gone before the flow starts (the execute waited too long)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the switch takes, in milliseconds."""

    answer_ms: int = 5
    play_ms: int = 40
    say_ms: int = 40
    pickup_ms: int = 5
    bridge_failure_ms: int = 20
    status_ms: int = 1
    replaced_leg_ms: int = 20
    redirect_ms: int = 30
    control_linger_ms: int = 2_000
    """A control process outlives its channel this long (contract §3.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchPlan:
    """The platform as a whole."""

    module: str = "park"
    """Module name in the executes' routing key; the demo uses one of its own (contract §2.2)."""
    ecallmgr_nodes: int = 2
    """How many answer status queries; all but one say ``terminated`` (contract §3.6)."""
    servers: int = 2
    watch_all_lamps: bool = True
    """False: an update for a lamp nobody subscribed to is dropped, as Kamailio does."""
    byte_array_headers: bool = True
    timing: Timing = field(default_factory=Timing)
    sysconf: Mapping[str, object] = field(default_factory=dict)
    """Keys of ``callflow.park`` the sysconf application knows (contract §9.1)."""
    alone: bool = True
    """False where a real Kazoo may share the broker: only what is this switch's own is answered."""
    transcript_limit: int | None = 20_000
