"""The checks that look at one park node: each a small function from the node to its hits."""

from __future__ import annotations

from collections.abc import Iterator

from worker.lint.documents import Park
from worker.lint.rule import Hit
from worker.lint.scan import Path
from worker.lint.similar import nearest
from worker.lint.structure import data_keys, node_keys, shown, slot_keys
from worker.parking.node import over_max

WILDCARD = "_"
MAX_SLOT_EXCEEDED = "MAX_SLOT_EXCEEDED"
REMOTE_UNAVAILABLE = "REMOTE_UNAVAILABLE"

_MIN_PLAUSIBLE_MS = 1000
_PREFIX = "default_"
_NODE_KEY_ALIKE = 0.8
_MAX_DIGITS = 10


def timeout_in_seconds(park: Park) -> Iterator[Hit]:
    """Timeouts are milliseconds; the platform's own documentation says seconds for one of them."""
    keys = [key for key in data_keys() if key.endswith("_timeout")]
    for path, value in _options(park, sorted(keys), "_timeout"):
        number = _count(value)
        if number is not None and 0 <= number < _MIN_PLAUSIBLE_MS:
            seconds = f"; {number} seconds are {number * 1000}" if number else ""
            yield Hit(path, f"{shown(path[-1])} is {number} milliseconds{seconds}")


def unknown_key(park: Park) -> Iterator[Hit]:
    """Unknown keys are accepted by the platform and do nothing."""
    yield from _misplaced_node_keys(park)
    for key in park.data:
        if key not in data_keys():
            known = _PREFIX + key if key in slot_keys() else nearest(key, data_keys())
            yield _unknown((*park.data_path, key), key, known, "the node's data")
    for slot, entry in park.slots.items():
        if not isinstance(entry, dict):
            continue
        for key in entry:
            if key not in slot_keys():
                known = nearest(key.removeprefix(_PREFIX), slot_keys())
                yield _unknown((*park.slots_path, slot, key), key, known, "a slot's entry")


def unreachable_slot(park: Park) -> Iterator[Hit]:
    """An entry for a slot this flow never uses."""
    static = park.static_slot
    for slot in park.slots:
        path = (*park.slots_path, slot)
        if static and slot != static:
            yield Hit(path, f"the node always uses slot {shown(static)}", key=True)
        elif not static and not park.flow.can_reach(slot):
            message = f"no number or pattern of this flow leads to slot {shown(slot)}"
            yield Hit(path, message, key=True)


def slot_above_max(park: Park) -> Iterator[Hit]:
    """A slot that max_slot_number forbids."""
    limit = _count(park.data.get("max_slot_number"))
    if limit is None:
        return
    if over_max(park.static_slot, limit):
        message = f"slot {shown(park.static_slot)} is above max_slot_number {limit}"
        yield Hit((*park.data_path, "slot"), message)
    for slot in park.slots:
        if over_max(slot, limit):
            message = f"slot {shown(slot)} is above max_slot_number {limit}"
            yield Hit((*park.slots_path, slot), message, key=True)


def static_slot_direct_park(park: Park) -> Iterator[Hit]:
    """Everybody who gets here is parked in the one slot, unheard."""
    if park.static_slot and park.action == "direct_park":
        message = f"direct_park always into slot {shown(park.static_slot)}"
        yield Hit((*park.data_path, "slot"), message)


def no_max_slot_child(park: Park) -> Iterator[Hit]:
    """Calls above the limit take a child that is not there."""
    if park.children is None or park.data.get("max_slot_number") is None:
        return
    if MAX_SLOT_EXCEEDED not in park.children and park.action != "retrieve":
        message = f"max_slot_number without a child {MAX_SLOT_EXCEEDED}"
        yield Hit((*park.data_path, "max_slot_number"), message, key=True)


def child_is_no_slot(park: Park) -> Iterator[Hit]:
    """A child nobody is ever sent to."""
    reserved = {WILDCARD, MAX_SLOT_EXCEEDED, REMOTE_UNAVAILABLE}
    for key in park.children or ():
        if key in reserved or _may_be_slot(park, key):
            continue
        known = nearest(key, reserved - {WILDCARD})
        message = f"child {shown(key)} is no slot of this node"
        fix = f'Did you mean "{known}"?' if known else ""
        yield Hit((*park.children_path, key), message, fix, key=True)


def remote_not_root(park: Park) -> Iterator[Hit]:
    """A remote worker is told the children of the flow's first node only."""
    if _remote(park) and not park.subject.root:
        path = (*park.subject.path, "remote_execution")
        yield Hit(path, "remote_execution on a node that is not the first of its flow", key=True)


def remote_no_wildcard(park: Park) -> Iterator[Hit]:
    """Whenever the worker cannot serve the call it goes on to the wildcard child."""
    if _remote(park) and WILDCARD not in (park.children or ()):
        path = (*park.subject.path, "remote_execution")
        yield Hit(path, 'remote_execution without a wildcard child "_"', key=True)


def presence_terminated(park: Park) -> Iterator[Hit]:
    """Lamps of occupied slots stay dark."""
    for path, value in _options(park, ["default_presence_type"], "presence_type"):
        if value == "terminated":
            yield Hit(path, f'{shown(path[-1])} "terminated" keeps the lamp of a taken slot dark')


def _options(park: Park, keys: list[str], suffix: str) -> Iterator[tuple[Path, object]]:
    """The named options of the node, then those of each slot that end with ``suffix``."""
    for key in keys:
        if key in park.data:
            yield (*park.data_path, key), park.data[key]
    own = sorted(key for key in slot_keys() if key.endswith(suffix))
    for slot, entry in park.slots.items():
        if isinstance(entry, dict):
            for key in own:
                if key in entry:
                    yield (*park.slots_path, slot, key), entry[key]


def _unknown(path: Path, key: str, known: str | None, where: str) -> Hit:
    fix = f'Did you mean "{known}"?' if known else ""
    return Hit(path, f"unknown key {shown(key)} in {where}", fix, key=True)


def _misplaced_node_keys(park: Park) -> Iterator[Hit]:
    """Of the node itself only near misses: user interfaces keep notes of their own there."""
    for key in park.node:
        if key in node_keys():
            continue
        path = (*park.subject.path, key)
        if key in data_keys():
            message = f"key {shown(key)} beside the node's data"
            yield Hit(path, message, f'Move "{key}" into "data".', key=True)
        elif known := nearest(key, node_keys(), alike=_NODE_KEY_ALIKE):
            yield _unknown(path, key, known, "the node")


def _may_be_slot(park: Park, key: str) -> bool:
    if park.static_slot:
        return key == park.static_slot
    if key in park.slots or (key.isascii() and key.isdigit()):
        return True
    known_flow = bool(park.flow.numbers or park.flow.patterns)
    return known_flow and park.flow.can_reach(key)


def _remote(park: Park) -> bool:
    return park.node.get("remote_execution") in (True, "true")


def _count(value: object) -> int | None:
    """A number as the worker will read it; None for what the structure rule refuses anyway."""
    if isinstance(value, str):
        plain = value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS
        return int(value) if plain else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if isinstance(value, int) or value.is_integer() else None
