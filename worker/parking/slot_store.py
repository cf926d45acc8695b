"""The slot table's storage and its indices: who is where, who owns what. Pure.

Knows no rules; every method leaves the indices consistent and tells the digest what it touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from urllib.parse import unquote

from worker.parking.model import AccountId, SessionId, SlotEntry, SlotId, WorkerId
from worker.parking.slot_rows import Numbers, SessionRow

DIGEST_BYTES = 16
MOST_TOUCHED = 20_000
"""Items changed without anybody asking for a digest; beyond this it is made anew when asked."""

ItemKey = tuple[str, str]


class StateDigest:
    """A digest of a set of items that is cheap to bring up to date: the sum of the items' hashes.

    Nothing is tracked before the first question, so a replica that is never asked pays nothing.
    """

    __slots__ = ("_hashes", "_total", "_touched")

    def __init__(self) -> None:
        self._hashes: dict[ItemKey, int] | None = None
        self._touched: set[ItemKey] = set()
        self._total = 0

    def touch(self, kind: str, key: str) -> None:
        if self._hashes is None:
            return
        self._touched.add((kind, key))
        if len(self._touched) > MOST_TOUCHED:
            self.reset()

    def reset(self) -> None:
        self._hashes = None
        self._touched.clear()
        self._total = 0

    def value(
        self, keys: Callable[[], Iterator[ItemKey]], render: Callable[[ItemKey], object | None]
    ) -> str:
        """Hex digest. ``render`` gives an item's present content, None when it is no more."""
        if self._hashes is None:
            self._hashes = {}
            self._touched = set(keys())
        for key in self._touched:
            content = render(key)
            self._total -= self._hashes.pop(key, 0)
            if content is not None:
                text = repr((key, content)).encode("utf-8", "surrogatepass")
                item = int.from_bytes(blake2b(text, digest_size=DIGEST_BYTES).digest(), "big")
                self._hashes[key] = item
                self._total += item
        self._touched.clear()
        return f"{self._total % (1 << 8 * DIGEST_BYTES):0{2 * DIGEST_BYTES}x}"


class AccountSlots:
    """The occupied slots of one account, by slot, by call id and by number."""

    __slots__ = ("calls", "entries", "numbers")

    def __init__(self) -> None:
        self.entries: dict[SlotId, SlotEntry] = {}
        self.calls: dict[str, tuple[SlotId, ...]] = {}
        self.numbers = Numbers()

    def put(self, entry: SlotEntry) -> None:
        before = self.entries.get(entry.slot)
        if before is not None and before.call_id == entry.call_id:
            self.entries[entry.slot] = entry
            return
        self.pop(entry.slot)
        self.entries[entry.slot] = entry
        self.numbers.take(entry.slot)
        for call in _forms(entry.call_id):
            self.calls[call] = (*self.calls.get(call, ()), entry.slot)

    def pop(self, slot: SlotId) -> None:
        entry = self.entries.pop(slot, None)
        if entry is None:
            return
        self.numbers.free(slot)
        for call in _forms(entry.call_id):
            rest = tuple(other for other in self.calls[call] if other != slot)
            if rest:
                self.calls[call] = rest
            else:
                del self.calls[call]

    def of_call(self, call_id: str) -> SlotEntry | None:
        """The entry of this call; the least slot text when several slots have it."""
        slots = self.calls.get(call_id)
        return self.entries[min(slots)] if slots else None


def _forms(call_id: str) -> tuple[str, ...]:
    """A call id and, when it differs, the id unquoted once: a Replaces may name either."""
    plain = unquote(call_id)
    return (call_id,) if plain == call_id else (call_id, plain)


class SlotStore:
    """Sessions, entries and closed ids, with their indices."""

    __slots__ = ("_owned", "accounts", "closed", "digest", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[SessionId, SessionRow] = {}
        self.accounts: dict[AccountId, AccountSlots] = {}
        self.closed: dict[SessionId, None] = {}
        """Ids of closed sessions, oldest first."""
        self._owned: dict[WorkerId | None, set[SessionId]] = {}
        self.digest = StateDigest()

    # ---- questions ------------------------------------------------------------------------------

    def entry(self, account: AccountId, slot: SlotId) -> SlotEntry | None:
        slots = self.accounts.get(account)
        return slots.entries.get(slot) if slots else None

    def of_call(self, account: AccountId, call_id: str) -> SlotEntry | None:
        slots = self.accounts.get(account)
        return slots.of_call(call_id) if slots else None

    def lowest(self, account: AccountId) -> SlotId:
        slots = self.accounts.get(account)
        return slots.numbers.lowest() if slots else Numbers().lowest()

    def held_by(self, row: SessionRow) -> SlotEntry | None:
        return None if row.holds is None else self.entry(row.account, row.holds)

    def owned(self, worker: WorkerId | None) -> list[SessionId]:
        """The worker's sessions (None: those without an owner), sorted."""
        return sorted(self._owned.get(worker, ()))

    def owners(self) -> list[WorkerId | None]:
        """Whoever owns at least one session; sorted, None first."""
        return sorted(self._owned, key=lambda worker: (worker is not None, worker or ""))

    # ---- entries --------------------------------------------------------------------------------

    def put(self, entry: SlotEntry) -> None:
        """Store or replace a slot's entry. The holder's row follows the entry's session."""
        before = self.entry(entry.account, entry.slot)
        if before is not None and before.session != entry.session:
            self._unhold(before)
        self.accounts.setdefault(entry.account, AccountSlots()).put(entry)
        self.sessions[entry.session].holds = entry.slot
        self.digest.touch("session", entry.session)

    def remove(self, entry: SlotEntry) -> None:
        slots = self.accounts[entry.account]
        slots.pop(entry.slot)
        if not slots.entries:
            del self.accounts[entry.account]
        self._unhold(entry)

    def _unhold(self, entry: SlotEntry) -> None:
        holder = self.sessions.get(entry.session)
        if holder is not None and holder.holds == entry.slot:
            holder.holds = None
        self.digest.touch("session", entry.session)

    # ---- sessions -------------------------------------------------------------------------------

    def add(self, row: SessionRow) -> None:
        self.sessions[row.session] = row
        self._owned.setdefault(row.owner, set()).add(row.session)
        self.digest.touch("session", row.session)

    def drop(self, row: SessionRow) -> None:
        """Forget the row. What it held must be removed before."""
        del self.sessions[row.session]
        self._disown(row)
        self.digest.touch("session", row.session)

    def give(self, row: SessionRow, owner: WorkerId | None) -> None:
        self._disown(row)
        row.owner = owner
        self._owned.setdefault(owner, set()).add(row.session)
        self.digest.touch("session", row.session)

    def _disown(self, row: SessionRow) -> None:
        mine = self._owned[row.owner]
        mine.discard(row.session)
        if not mine:
            del self._owned[row.owner]

    def close(self, session: SessionId, limit: int) -> None:
        """Remember the id as closed, forgetting the oldest beyond ``limit``."""
        if session in self.closed:
            return
        self.closed[session] = None
        self.digest.touch("closed", session)
        while len(self.closed) > limit:
            oldest = next(iter(self.closed))
            del self.closed[oldest]
            self.digest.touch("closed", oldest)
