"""Why shadow mode disagrees: each known difference and the row of docs/compatibility.md it is.

A row is named by its first column; where several rows share that, by what its second column begins
with as well (``§7.8 r18: Ringback intercepted``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.trace.differences import Difference, Kind

LAMP_REPEAT = "§5.3: Says terminated once"
LAMP_EXPIRES = "§5.1"
CALLER_TEXT = "design §8 r27"
COMPLETION = "§7.9 r22"
PROBES = "D27"
RETRIEVED_TWICE = "D18"
USURP = "§4.9"
RING_TIME = "D22"
ENDPOINT = "§7.10 r23"
CANCELLED = "§7.10 r24"
BREAK = "§14 r6"
LAMP_AGAIN = "§14 r7"
TAKEN_BACK = "D26"
NEVER_LIT = "§15: auto parks the dialling leg"
CONTROL_LOST = "§2.7"
SILENT_DEATH = "D16"
EVICTED = "§15: The slot of a dead call is taken over"
INTERCEPTED = "§7.8 r18: Ringback intercepted"
WILDCARD = "D19"
OVER_THE_MAXIMUM = "design §8 r7"
HOLD_ENDED = "D14"
HOLD_FAILS = "§7.8 r18: The hold fails"
MAX_SLOT = "result continue MAX_SLOT_EXCEEDED"
USURPED = "usurped"
"""Among what happened: control went to somebody else."""
STATUS_DEAD = "status terminated"
"""Among what happened: the switch told the platform that the channel is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known around one difference about a call."""

    one: Difference
    strict: bool
    """Whether the prediction was made with ``compat=strict``."""
    told: frozenset[str]
    """What the platform did: ``hold``, ``PARK_PARKED``, ``lamp lit``, ``result stop``."""
    would: frozenset[str]
    """What we would have done for it."""
    beside: frozenset[str]
    """Of that, what we would do in the same moment as this."""
    happened: frozenset[str]
    """Names of the switch's events about the call, USURPED, STATUS_DEAD."""
    retrieved: bool
    """Whether we, too, would say that the slot was retrieved, be it for the other call."""

    @property
    def pointers(self) -> frozenset[str]:
        return frozenset(change.pointer for change in self.one.fields)

    def is_(self, kind: Kind, *words: str) -> bool:
        """Of that kind, its subject naming each word."""
        return self.one.kind is kind and all(word in self.one.subject for word in words)

    def only(self, *pointers: str) -> bool:
        """Changed in these fields and no others."""
        return self.one.kind is Kind.CHANGED and self.pointers <= frozenset(pointers)

    @property
    def is_lamp(self) -> bool:
        return self.one.subject.startswith("lamp ")

    @property
    def is_lit_lamp(self) -> bool:
        return self.is_lamp and " terminated " not in self.one.subject

    def ends_lamp(self, kind: Kind) -> bool:
        return self.is_(kind, "lamp ", " terminated ")

    @property
    def is_one_sided(self) -> bool:
        return self.one.kind in {Kind.MISSING, Kind.UNEXPECTED}

    @property
    def is_untimely(self) -> bool:
        return self.one.kind in {Kind.EARLY, Kind.LATE}


_DEVICE_FIELDS = (
    "/Endpoints/0/Endpoint-Timeout",
    "/Endpoints/0/Outbound-Callee-ID-Name",
    "/Endpoints/0/Outbound-Callee-ID-Number",
    "/Endpoints/0/Presence-ID",
    "/Endpoints/0/Endpoint-URI",
    "/Endpoints/0/Endpoint-ID",
)
_CALLER_FIELDS = ("/To", "/To-User", "/Expires")
_COMPLETED = ("/Switch-URI", "/From-Tag", "/To-Tag", "/Expires")


def _evicted(c: Case) -> bool:
    """The platform gave the dead call's slot away without a word about it."""
    silent = STATUS_DEAD in c.happened and "lamp terminated" not in c.told
    return silent and (c.ends_lamp(Kind.UNEXPECTED) or c.is_untimely)


def _intercepted(c: Case) -> bool:
    unproven = "CHANNEL_INTERCEPTED" in c.happened and "CHANNEL_BRIDGE" not in c.happened
    return unproven and (c.is_untimely or c.one.kind is Kind.MISSING)


def _hold_ended(c: Case) -> bool:
    """The platform let a call go that only we keep."""
    picked_up = {"CHANNEL_INTERCEPTED", "CHANNEL_BRIDGE"} & c.happened
    let_go = {"hold", "result transfer"} <= c.told and not picked_up and "bridge" not in c.told
    return let_go and c.is_one_sided


def _wildcard(c: Case) -> bool:
    branched = any(word.startswith("result continue") for word in c.told)
    left = {"bridge", "PARK_ABANDONED"} <= c.told and branched
    return left and not c.strict and "PARK_ABANDONED" not in c.would and c.is_one_sided


Rule = tuple[str, Callable[[Case], bool]]

RULES: tuple[Rule, ...] = (
    (LAMP_REPEAT, lambda c: c.ends_lamp(Kind.UNEXPECTED) and c.one.reason == "repeated"),
    (PROBES, lambda c: c.is_(Kind.UNEXPECTED, "lamp ") and c.one.reason == "probed"),
    (LAMP_EXPIRES, lambda c: c.is_lit_lamp and c.only("/Expires")),
    (CALLER_TEXT, lambda c: c.is_lamp and c.only(*_CALLER_FIELDS)),
    (COMPLETION, lambda c: c.is_lamp and c.only(*_COMPLETED)),
    (USURP, lambda c: not c.strict and c.only("/Publish-Usurp")),
    (
        RING_TIME,
        lambda c: not c.strict and "/Timeout" in c.pointers and c.only("/Timeout", *_DEVICE_FIELDS),
    ),
    (ENDPOINT, lambda c: c.is_(Kind.CHANGED, "bridge ") and c.only(*_DEVICE_FIELDS)),
    (CONTROL_LOST, lambda c: c.ends_lamp(Kind.UNEXPECTED) and USURPED in c.happened),
    (NEVER_LIT, lambda c: c.ends_lamp(Kind.MISSING) and "lamp lit" not in c.told),
    (EVICTED, _evicted),
    (
        LAMP_AGAIN,
        lambda c: c.is_(Kind.UNEXPECTED, "lamp ") and c.is_lit_lamp and "hold" in c.beside,
    ),
    (
        RETRIEVED_TWICE,
        lambda c: c.is_(Kind.MISSING, "PARK_RETRIEVED") and "hold" in c.told and c.retrieved,
    ),
    (
        SILENT_DEATH,
        lambda c: c.is_(Kind.UNEXPECTED, "PARK_ABANDONED")
        and bool({STATUS_DEAD, "CHANNEL_DESTROY"} & c.happened),
    ),
    (
        BREAK,
        lambda c: c.is_(Kind.UNEXPECTED, "break ") and not c.strict and "bridge" in c.beside,
    ),
    (CANCELLED, lambda c: c.is_(Kind.UNEXPECTED, "break ") and "bridge" in c.would),
    (INTERCEPTED, _intercepted),
    (
        TAKEN_BACK,
        lambda c: c.is_(Kind.MISSING, "result transfer")
        and not c.strict
        and "PARK_PARKED" not in c.told
        and "bridge" in c.told,
    ),
    (HOLD_ENDED, _hold_ended),
    (WILDCARD, _wildcard),
    (
        OVER_THE_MAXIMUM,
        lambda c: MAX_SLOT in c.would
        and MAX_SLOT not in c.told
        and (c.is_one_sided or c.is_(Kind.CHANGED, "result ")),
    ),
    (HOLD_FAILS, lambda c: c.is_(Kind.UNEXPECTED, "park ") and "dialplan" in c.happened),
)
"""The first that holds explains the difference."""


def explain(case: Case) -> str:
    """The row, or ``""`` when nothing known explains it."""
    return next((row for row, holds in RULES if holds(case)), "")


def all_rows() -> tuple[str, ...]:
    """Every row a rule may name."""
    return tuple(dict.fromkeys(row for row, _ in RULES))
