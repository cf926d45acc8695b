"""What is in a file: the nodes to check, wherever they stand.

A file holds a callflow document (with ``flow``), a single node, the bare data of a park node, or
a list of these. Other objects are somebody else's JSON and are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from worker.lint.patterns import Flow
from worker.lint.scan import Path
from worker.lint.similar import nearest
from worker.lint.structure import data_keys, slot_keys

Members = Mapping[str, object]

_NODE_MARKS = ("module", "children", "remote_execution")
_ACCOUNT_KEYS = ("pvt_account_id", "account_id", "pvt_account_db")
_LIKE_A_KNOWN_KEY = 0.85
_NOTHING: Members = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The document a node belongs to."""

    path: Path = ()
    flow: Flow = field(default_factory=Flow)
    account: str = ""
    ident: str = ""
    """The document's own id; empty when it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A node as it stands in the file, or the bare data of a park node."""

    value: object
    path: Path
    owner: Owner
    root: bool = True
    """It is the first node of its flow."""
    bare: bool = False
    """It is data without a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """A park node, its parts shaped so that rules need no care: what has a wrong type is empty."""

    subject: Subject
    node: Members
    data: Members
    data_path: Path
    slots: Members
    children: Members | None
    """None: unknown, because only the data is there."""

    @property
    def slots_path(self) -> Path:
        return (*self.data_path, "slots")

    @property
    def children_path(self) -> Path:
        return (*self.subject.path, "children")

    @property
    def flow(self) -> Flow:
        return self.subject.owner.flow

    @property
    def action(self) -> object:
        return "park" if self.data.get("action") is None else self.data["action"]

    @property
    def static_slot(self) -> str:
        """The slot the node always uses; empty when it depends on the call."""
        slot = self.data.get("slot")
        if isinstance(slot, float) and slot.is_integer():
            slot = int(slot)
        if isinstance(slot, str) or (isinstance(slot, int) and not isinstance(slot, bool)):
            return str(slot)
        return ""


def subjects(value: object) -> Iterator[Subject]:
    """Every node of a parsed file, in the file's order. Nothing: the file is not about flows."""
    if not isinstance(value, list):
        yield from _document(value, ())
        return
    for index, item in enumerate(value):
        yield from _document(item, (index,))


def as_park(subject: Subject) -> Park | None:
    """The subject as a park node; None when it is something else."""
    if not isinstance(subject.value, dict):
        return None
    value: Members = subject.value
    if subject.bare:
        return Park(
            subject=subject,
            node=_NOTHING,
            data=value,
            data_path=subject.path,
            slots=_members(value.get("slots")),
            children=None,
        )
    if value.get("module") != "park":
        return None
    data = _members(value.get("data"))
    return Park(
        subject=subject,
        node=value,
        data=data,
        data_path=(*subject.path, "data"),
        slots=_members(data.get("slots")),
        children=_members(value.get("children")),
    )


def _document(value: object, path: Path) -> Iterator[Subject]:
    if not isinstance(value, dict):
        return
    inner = value.get("data")
    if isinstance(inner, dict) and "flow" in inner and "module" not in value:
        # The envelope of the platform's REST interface.
        value, path = inner, (*path, "data")
    if _is_flow(value):
        owner = _owner(value, path)
        yield from _nodes(Subject(value=value["flow"], path=(*path, "flow"), owner=owner))
    elif any(mark in value for mark in _NODE_MARKS) or isinstance(value.get("data"), dict):
        yield from _nodes(Subject(value=value, path=path, owner=Owner(path=path)))
    elif _is_data(value):
        yield Subject(value=value, path=path, owner=Owner(path=path), bare=True)


def _is_flow(value: Members) -> bool:
    listed = isinstance(value.get("numbers"), list) or isinstance(value.get("patterns"), list)
    return isinstance(value.get("flow"), dict) or ("flow" in value and listed)


def _is_data(value: Members) -> bool:
    known = data_keys() | slot_keys() | {f"default_{key}" for key in slot_keys()}
    if not value or not known.isdisjoint(value):
        return True
    return any(nearest(key, known, alike=_LIKE_A_KNOWN_KEY) for key in value)


def _owner(document: Members, path: Path) -> Owner:
    accounts = (document.get(key) for key in _ACCOUNT_KEYS)
    idents = (document.get(key) for key in ("_id", "id"))
    return Owner(
        path=path,
        flow=Flow(_texts(document.get("numbers")), _texts(document.get("patterns"))),
        account=next((text for text in accounts if isinstance(text, str)), ""),
        ident=next((text for text in idents if isinstance(text, str)), ""),
    )


def _nodes(root: Subject) -> Iterator[Subject]:
    """The node and all below it, parents first. Without recursion: flows may be deep."""
    waiting = [root]
    while waiting:
        subject = waiting.pop()
        yield subject
        if not isinstance(subject.value, dict):
            continue
        children = _members(subject.value.get("children"))
        waiting.extend(
            Subject(
                value=child,
                path=(*subject.path, "children", key),
                owner=subject.owner,
                root=False,
            )
            for key, child in reversed(list(children.items()))
        )


def _members(value: object) -> Members:
    return value if isinstance(value, dict) else _NOTHING


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
