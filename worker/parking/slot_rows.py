"""The rows of the slot table: sessions, workers, and the lowest-free-number finder. Pure."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from worker.parking.changes import ClaimDecided, RetrieveDecided
from worker.parking.model import AccountId, SessionId, SlotEntry, SlotId, WorkerId

FIRST_NUMBER = 101
"""The lowest automatic slot (contract §7.2)."""

REMEMBERED_DECISIONS = 16
"""Decisions kept for one session; attempts older than these are taken for duplicates."""

LONGEST_NUMBER = 18
"""More digits than this is above every limit; also keeps ``int()`` away from endless digits."""

Decision = ClaimDecided | RetrieveDecided

TOOK_FIRST = "first"
"""The slot was freed by the retriever's word."""
TOOK_LATE = "late"
"""Somebody else had freed it before."""


def number_of(slot: str) -> int | None:
    """The slot's number when its text is a plain run of digits (``"0101"`` is 101), else None."""
    if not (slot.isascii() and slot.isdigit()):
        return None
    digits = slot.lstrip("0") or "0"
    return int(digits[: LONGEST_NUMBER + 1])


def exceeds(slot: str, max_slot: int | None) -> bool:
    """Whether a numeric slot is above the limit. Other texts are never limited (contract §7.5)."""
    if max_slot is None:
        return False
    number = number_of(slot)
    return number is not None and number > max_slot


class Numbers:
    """The numbers in use in one account; finds the lowest free one from 101 without a scan.

    Every free number below ``_fresh`` is in the heap; numbers from ``_fresh`` on are free unless
    used. Heap members that were taken meanwhile are dropped when they come to the top.
    """

    __slots__ = ("_freed", "_fresh", "_queued", "_used")

    def __init__(self) -> None:
        self._used: set[int] = set()
        self._freed: list[int] = []
        self._queued: set[int] = set()
        self._fresh = FIRST_NUMBER

    @staticmethod
    def _canonical(slot: str) -> int | None:
        """Only ``"101"`` stands for 101: ``"0101"`` is a slot of its own."""
        number = number_of(slot)
        return number if number is not None and str(number) == slot else None

    def take(self, slot: SlotId) -> None:
        number = self._canonical(slot)
        if number is not None and number >= FIRST_NUMBER:
            self._used.add(number)

    def free(self, slot: SlotId) -> None:
        number = self._canonical(slot)
        if number is None or number not in self._used:
            return
        self._used.discard(number)
        if number < self._fresh and number not in self._queued:
            self._queued.add(number)
            heapq.heappush(self._freed, number)

    def lowest(self) -> SlotId:
        while self._freed and self._freed[0] in self._used:
            self._queued.discard(heapq.heappop(self._freed))
        if self._freed:
            return SlotId(str(self._freed[0]))
        while self._fresh in self._used:
            self._fresh += 1
        return SlotId(str(self._fresh))


@dataclass(slots=True, kw_only=True)
class WorkerRow:
    """A live member. ``beat`` is the last one applied."""

    beat: int = 0
    name: str = ""


@dataclass(slots=True, kw_only=True)
class SessionRow:
    """An open session. Read it as you like; only the table writes it.

    ``generation`` counts changes of owner. ``era`` and ``position`` say where in which log the row
    last changed: of two rows for one session the higher (era, position) is the newer.
    """

    session: SessionId
    account: AccountId
    owner: WorkerId | None
    opened: int
    """Offset of the record that opened it."""
    generation: int = 0
    era: int = 0
    position: int = 0
    facts: str = ""
    state: str = ""
    """The last checkpoint's text."""
    freed: str = ""
    """Why the slot it held is free again (a ReleaseReason), for a successor; "" while it is not."""
    freed_by: str = ""
    """The session that freed it."""
    took: str = ""
    """A retriever that has said that it is bridged: TOOK_FIRST or TOOK_LATE; for a successor."""
    holds: SlotId | None = None
    retrieves: SlotId | None = None
    decided: list[Decision] = field(default_factory=list)
    forgotten_claim: int = 0
    """Highest claim attempt whose decision was dropped from ``decided``."""
    forgotten_retrieve: int = 0

    @property
    def rank(self) -> tuple[int, int, int]:
        return (self.era, self.position, self.generation)

    def decision(self, kind: type[Decision], attempt: int) -> Decision | None:
        """The original decision of this attempt, if it is remembered."""
        for decision in reversed(self.decided):
            if decision.attempt == attempt and type(decision) is kind:
                return decision
        return None

    def is_forgotten(self, kind: type[Decision], attempt: int) -> bool:
        floor = self.forgotten_claim if kind is ClaimDecided else self.forgotten_retrieve
        return attempt <= floor

    def remember(self, decision: Decision) -> None:
        self.decided.append(decision)
        if len(self.decided) <= REMEMBERED_DECISIONS:
            return
        oldest = self.decided.pop(0)
        if isinstance(oldest, ClaimDecided):
            self.forgotten_claim = max(self.forgotten_claim, oldest.attempt)
        else:
            self.forgotten_retrieve = max(self.forgotten_retrieve, oldest.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededSession:
    """A session row and the entry it holds, as read from a snapshot or seed."""

    row: SessionRow
    entry: SlotEntry | None
