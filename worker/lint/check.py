"""Files in, findings out: reads a document, applies the table of rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.lint.documents import Park, Subject, as_park, subjects
from worker.lint.rule import Finding, Hit, Rule
from worker.lint.rules import DUPLICATE_KEY, INVALID_JSON, RULES, SHARED_SLOT, STRUCTURE
from worker.lint.scan import BrokenJsonError, Document, Path, line_and_column, pointer, scan
from worker.lint.structure import Misfit, node_misfits, park_misfits, shown

MAX_FILE_BYTES = 32 * 1024 * 1024
"""Larger files are refused, so that no file can exhaust the memory."""

_PARK_RULES = tuple((rule, rule.check) for rule in RULES if rule.check is not None)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(slots=True)
class Run:
    """One run over many files: counts, and what is compared across files."""

    files: int = 0
    nodes: int = 0
    parks: int = 0
    others: int = 0
    """Files without any node: not about callflows."""
    findings: int = 0
    _slot_users: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    """Account and slot -> the first flow that parks there: its identity and place."""

    def check_bytes(self, name: str, raw: bytes) -> list[Finding]:
        """The findings of one file's content, in the order of the file."""
        self.files += 1
        if len(raw) > MAX_FILE_BYTES:
            return self._broken(name, "", BrokenJsonError("the file is larger than 32 MiB", 0))
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode("utf-8")
            broken = BrokenJsonError("not UTF-8", len(before))
            return self._broken(name, before, broken)
        if text.startswith(_BYTE_ORDER_MARK):
            return self._broken(name, text, BrokenJsonError("a byte order mark is no JSON", 0))
        try:
            document = scan(text)
        except BrokenJsonError as error:
            return self._broken(name, text, error)
        return self._check(name, document)

    def unreadable(self, name: str, reason: str) -> list[Finding]:
        """The finding for a file that cannot be opened or read."""
        self.files += 1
        return self._broken(name, "", BrokenJsonError(reason, 0))

    def _check(self, name: str, document: Document) -> list[Finding]:
        found: list[Finding] = []
        before = self.nodes
        if not isinstance(document.value, dict | list):
            hit = Hit((), "neither a callflow nor a node nor data of a node")
            found.append(_finding(name, document, STRUCTURE, hit))
        for subject in subjects(document.value):
            self.nodes += 1
            for rule, hit in self._hits(name, document, subject):
                found.append(_finding(name, document, rule, hit))
        self.others += before == self.nodes and not found
        self.findings += len(found)
        found.sort(key=lambda finding: (finding.line, finding.column, finding.rule))
        return found

    def _hits(self, name: str, document: Document, subject: Subject) -> Iterator[tuple[Rule, Hit]]:
        park = as_park(subject)
        for hit in _structure(subject, park):
            yield STRUCTURE, hit
        if document.duplicates:
            for path in _duplicates(document, subject, park):
                message = f"the key {shown(path[-1])} stands twice, the last one counts"
                yield DUPLICATE_KEY, Hit(path, message, key=True)
        if park is None:
            return
        self.parks += 1
        for rule, check in _PARK_RULES:
            for hit in check(park):
                yield rule, hit
        yield from self._shared_slot(name, document, park)

    def _shared_slot(self, name: str, document: Document, park: Park) -> Iterator[tuple[Rule, Hit]]:
        slot, owner = park.static_slot, park.subject.owner
        if not slot or park.subject.bare or park.action == "retrieve":
            return
        path = (*park.data_path, "slot")
        line, column = document.line_and_column(document.offset(path))
        flow = owner.ident or f"{self.files}{pointer(owner.path)}"
        place = f"{name}:{line}:{column}"
        first, where = self._slot_users.setdefault((owner.account, slot), (flow, place))
        if first != flow:
            yield SHARED_SLOT, Hit(path, f"slot {shown(slot)} is also used by the flow at {where}")

    def _broken(self, name: str, text: str, error: BrokenJsonError) -> list[Finding]:
        self.findings += 1
        line, column = line_and_column(text, error.offset)
        return [_place(name, line, column, INVALID_JSON, Hit((), error.reason))]


def _structure(subject: Subject, park: Park | None) -> Iterator[Hit]:
    if not subject.bare:
        yield from _placed(subject.path, node_misfits(subject.value))
    if park is not None:
        yield from _placed(park.data_path, park_misfits(park.data))


def _placed(base: Path, misfits: Iterator[Misfit]) -> Iterator[Hit]:
    for misfit in misfits:
        path = (*base, *misfit.path)
        subject = shown(path[-1]) if path and isinstance(path[-1], str) else "the node"
        yield Hit(path, f"{subject} {misfit.message}", key=misfit.key)


def _duplicates(document: Document, subject: Subject, park: Park | None) -> Iterator[Path]:
    """Keys that stand twice in what belongs to the node itself."""
    looked_at: list[tuple[Path, object]] = [(subject.path, subject.value)]
    if isinstance(subject.value, dict):
        looked_at.append(((*subject.path, "children"), subject.value.get("children")))
    if park is not None:
        if not subject.bare:
            looked_at.append((park.data_path, park.data))
        looked_at.append((park.slots_path, park.slots))
        looked_at.extend(((*park.slots_path, slot), entry) for slot, entry in park.slots.items())
    for path, container in looked_at:
        for key, _ in document.duplicates.get(id(container), ()):
            yield (*path, key)


def _finding(name: str, document: Document, rule: Rule, hit: Hit) -> Finding:
    line, column = document.line_and_column(document.offset(hit.path, key=hit.key))
    return _place(name, line, column, rule, hit)


def _place(name: str, line: int, column: int, rule: Rule, hit: Hit) -> Finding:
    return Finding(
        file=name,
        line=line,
        column=column,
        pointer=pointer(hit.path),
        rule=rule.id,
        severity=rule.severity,
        message=hit.message,
        fix=hit.fix or rule.fix,
    )
