"""The park node's data as typed values, and what follows from them for one slot.

Pure. ``parse_node`` expects data that ``schemas/callflows.park.json`` accepts and coerces what
Kazoo coerces (contract §7.1, design §8). Each option of a slot is looked for in the slot's entry,
then in the node, then in the account's and the system's defaults, then here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from worker.errors import InvalidNodeError
from worker.parking.model import Action, PresenceType, SlotId

SLOT_PLACEHOLDER = "{slot}"
"""Stands for the slot in a presence user while an automatic slot is undecided."""

BUILT_IN_RINGBACK_TIMEOUT_MS = 120_000
BUILT_IN_CALLBACK_TIMEOUT_MS = 30_000
BUILT_IN_PRESENCE_TYPE = PresenceType.EARLY
BUILT_IN_VALET_CLEANUP_MS = 3_000

_PARKING_STAR_CODE = "*3"
_STAR_CODE_LENGTH = 2

_Word = TypeVar("_Word", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions:
    """One entry of ``data.slots``. None: not said, or null."""

    ringback_timeout_ms: int | None = None
    callback_timeout_ms: int | None = None
    presence_type: PresenceType | None = None
    presence_id: str = ""


_NO_OPTIONS = SlotOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What the callflow's author asked for. None and ``""``: not said, or null."""

    action: Action = Action.PARK
    slot: str = ""
    ringback_timeout_ms: int | None = None
    callback_timeout_ms: int | None = None
    presence_type: PresenceType | None = None
    slots: Mapping[str, SlotOptions] = field(default_factory=dict)
    custom_presence_id: bool = False
    presence_id: str = ""
    max_slot: int | None = None
    force_presence_user: bool = False
    skip_module: bool = False
    hold_media: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What an account or the system says about parking (contract §9.1, §9.2). None: nothing."""

    ringback_timeout_ms: int | None = None
    callback_timeout_ms: int | None = None
    presence_type: PresenceType | None = None
    valet_cleanup_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What holds for one call in one slot; nothing is left open."""

    ringback_timeout_ms: int
    callback_timeout_ms: int
    presence_type: PresenceType
    valet_cleanup_ms: int


def parse_node(data: Mapping[str, object] | None) -> Node:
    """Type the node's data. None (no data at all) is the same as empty: park, automatic slot.

    Raises InvalidNodeError for what the schema should have refused before.
    """
    said: Mapping[str, object] = {} if data is None else data
    return Node(
        action=_word(Action, said, "action", "") or Action.PARK,
        slot=_slot(said.get("slot")),
        ringback_timeout_ms=_count(said, "default_ringback_timeout", ""),
        callback_timeout_ms=_count(said, "default_callback_timeout", ""),
        presence_type=_word(PresenceType, said, "default_presence_type", ""),
        slots=_slots(said.get("slots")),
        custom_presence_id=_switch(said, "custom_presence_id"),
        presence_id=_text(said, "presence_id", ""),
        max_slot=_count(said, "max_slot_number", ""),
        force_presence_user=_switch(said, "force_presence_user"),
        skip_module=_switch(said, "skip_module"),
        hold_media=_text(said, "hold_media", ""),
    )


def resolve(
    node: Node,
    slot: SlotId | None,
    account: Defaults = Defaults(),
    system: Defaults = Defaults(),
) -> Policy:
    """The policy for ``slot``: slot entry, node, account, system, built-in.

    ``slot`` None: an automatic slot that is undecided; call again once it is decided, because
    its entry may say something else.
    """
    own = _options(node, slot)
    return Policy(
        ringback_timeout_ms=_first(
            own.ringback_timeout_ms,
            node.ringback_timeout_ms,
            account.ringback_timeout_ms,
            system.ringback_timeout_ms,
            last=BUILT_IN_RINGBACK_TIMEOUT_MS,
        ),
        callback_timeout_ms=_first(
            own.callback_timeout_ms,
            node.callback_timeout_ms,
            account.callback_timeout_ms,
            system.callback_timeout_ms,
            last=BUILT_IN_CALLBACK_TIMEOUT_MS,
        ),
        presence_type=own.presence_type
        or node.presence_type
        or account.presence_type
        or system.presence_type
        or BUILT_IN_PRESENCE_TYPE,
        valet_cleanup_ms=_first(
            account.valet_cleanup_ms, system.valet_cleanup_ms, last=BUILT_IN_VALET_CLEANUP_MS
        ),
    )


def requested_slot(node: Node, capture_group: str) -> SlotId | None:
    """The slot that node and dialled number ask for; None: automatic (contract §7.1)."""
    return SlotId(node.slot or capture_group) or None


def over_max(slot: str, max_slot: int | None) -> bool:
    """Whether ``slot`` is a number above ``max_slot``. Other text is never limited."""
    if max_slot is None or not (slot.isascii() and slot.isdigit()):
        return False
    # Compared as text: a captured group may hold more digits than int() is willing to read.
    digits, limit = slot.lstrip("0"), str(max_slot).lstrip("0")
    return (len(digits), digits) > (len(limit), limit)


def presence_user(node: Node, slot: SlotId | None, *, request_user: str, captured: bool) -> str:
    """User part of the slot's lamp (contract §5.2, §14). ``captured``: a pattern captured text.

    ``slot`` None, for an undecided automatic slot, gives a template: `SLOT_PLACEHOLDER` stands
    where the number goes. Entries of single slots cannot show in it: when
    `presence_depends_on_slot`, ask `presence_user_for` again once the slot is decided.
    """
    decided = SlotId(SLOT_PLACEHOLDER) if slot is None else slot
    return presence_user_for(node, decided, request_user=request_user, captured=captured)


def presence_user_for(node: Node, slot: SlotId, *, request_user: str, captured: bool) -> str:
    """User part of the lamp of a decided slot (contract §5.2, §14)."""
    if node.custom_presence_id:
        user = _options(node, slot).presence_id or node.presence_id or request_user
    elif captured:
        user = request_user
    else:
        user = f"{request_user}{slot}"
    return _forced(user, slot) if node.force_presence_user else user


def presence_depends_on_slot(node: Node) -> bool:
    """Whether an entry of a single slot changes its lamp: its user or its type."""
    return any(
        entry.presence_type is not None or (node.custom_presence_id and entry.presence_id)
        for entry in node.slots.values()
    )


def _forced(user: str, slot: str) -> str:
    """Contract §14: one lamp ``*3<slot>`` whatever star code was dialled."""
    if user.startswith(_PARKING_STAR_CODE):
        return user
    if user == slot or (user.startswith("*") and user[1:].endswith(slot)):
        return _PARKING_STAR_CODE + slot
    if user.startswith("*") and len(user) > _STAR_CODE_LENGTH:
        return _PARKING_STAR_CODE + user[_STAR_CODE_LENGTH:]
    return user


def _options(node: Node, slot: str | None) -> SlotOptions:
    return node.slots.get(slot, _NO_OPTIONS) if slot is not None else _NO_OPTIONS


def _first(*values: int | None, last: int) -> int:
    return next((value for value in values if value is not None), last)


def _slots(value: object) -> dict[str, SlotOptions]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidNodeError("not an object", "/slots")
    return {slot: _slot_options(slot, entry) for slot, entry in value.items()}


def _slot_options(slot: str, entry: object) -> SlotOptions:
    if entry is None:
        return _NO_OPTIONS
    base = "/slots/" + slot.replace("~", "~0").replace("/", "~1")
    if not isinstance(entry, Mapping):
        raise InvalidNodeError("not an object", base)
    return SlotOptions(
        ringback_timeout_ms=_count(entry, "ringback_timeout", base),
        callback_timeout_ms=_count(entry, "callback_timeout", base),
        presence_type=_word(PresenceType, entry, "presence_type", base),
        presence_id=_text(entry, "presence_id", base),
    )


def _slot(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidNodeError("neither text nor a whole number", "/slot")


def _count(said: Mapping[str, object], key: str, base: str) -> int | None:
    value = said.get(key)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.strip().isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidNodeError("not a whole number", f"{base}/{key}")


def _word(words: type[_Word], said: Mapping[str, object], key: str, base: str) -> _Word | None:
    value = said.get(key)
    if value is None:
        return None
    if isinstance(value, str) and value in list(words):
        return words(value)
    raise InvalidNodeError(f"not one of {', '.join(words)}", f"{base}/{key}")


def _text(said: Mapping[str, object], key: str, base: str) -> str:
    value = said.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise InvalidNodeError("not text", f"{base}/{key}")


def _switch(said: Mapping[str, object], key: str) -> bool:
    value = said.get(key)
    if value is None or value is False or value == "false":
        return False
    if value is True or value == "true":
        return True
    raise InvalidNodeError("neither true nor false", f"/{key}")
