"""The dialogs a lamp book keeps, by what they are looked up with, and when each is due."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from worker.parking.lamp import Lamp, LampKey, Reason, Spelling
from worker.parking.model import AccountId, SessionId, SlotEntry, SlotId

SlotKey = tuple[AccountId, SlotId]


def slot_of(entry: SlotEntry) -> SlotKey:
    """The slot an entry is about."""
    return entry.account, entry.slot


@dataclass(slots=True)
class Dialog:
    """A dialog that is shown, or whose end is still being repeated."""

    lamp: Lamp
    holders: dict[SlotKey, SessionId] = field(default_factory=dict)
    """The slots that show it, each with its session."""
    mine: bool = False
    """We speak for it; otherwise another worker does."""
    ended_ms: int | None = None
    published_ms: int | None = None
    refresh_ms: int | None = None
    plan: list[tuple[int, Reason]] = field(default_factory=list)
    """When to say it again, besides the refresh; ascending."""
    spoken: dict[Spelling, None] = field(default_factory=dict)
    """Under which spellings it was lit."""
    booked_ms: int | None = None

    @property
    def lit(self) -> bool:
        """Ours and shown."""
        return self.mine and self.ended_ms is None

    def let_go(self) -> None:
        """Others speak for it from now on."""
        self.mine = False
        self.ended_ms = self.refresh_ms = self.booked_ms = None
        self.plan = []


class Dialogs:
    """All dialogs by row key, by presentity (in any letter case), by slot and by time."""

    def __init__(self) -> None:
        self._by_key: dict[LampKey, Dialog] = {}
        self._by_place: dict[Spelling, dict[LampKey, None]] = {}
        self._by_slot: dict[SlotKey, LampKey] = {}
        self._agenda: list[tuple[int, int, LampKey]] = []
        self._ticket = count()

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Dialog]:
        return iter(self._by_key.values())

    def find(self, key: LampKey) -> Dialog | None:
        return self._by_key.get(key)

    def at_key(self, key: LampKey) -> Dialog:
        """The dialog with this row key; KeyError when there is none."""
        return self._by_key[key]

    def at(self, place: Spelling) -> list[Dialog]:
        """What is shown on a presentity, oldest first."""
        return [self._by_key[key] for key in self._by_place.get(place, ())]

    def of_slot(self, slot: SlotKey) -> Dialog | None:
        """What a slot shows."""
        key = self._by_slot.get(slot)
        return None if key is None else self._by_key.get(key)

    def open(self, lamp: Lamp) -> Dialog:
        dialog = self._by_key[lamp.key] = Dialog(lamp)
        self._by_place.setdefault(lamp.place, {})[lamp.key] = None
        return dialog

    def close(self, dialog: Dialog) -> None:
        key, place = dialog.lamp.key, dialog.lamp.place
        for slot in list(dialog.holders):
            self.drop_holder(dialog, slot)
        del self._by_key[key]
        del self._by_place[place][key]
        if not self._by_place[place]:
            del self._by_place[place]

    def hold(self, dialog: Dialog, entry: SlotEntry) -> None:
        """The slot of ``entry`` shows this dialog."""
        dialog.holders[slot_of(entry)] = entry.session
        self._by_slot[slot_of(entry)] = dialog.lamp.key

    def drop_holder(self, dialog: Dialog, slot: SlotKey) -> bool:
        """The slot does not show it any more; True when none does."""
        dialog.holders.pop(slot, None)
        if self._by_slot.get(slot) == dialog.lamp.key:
            del self._by_slot[slot]
        return not dialog.holders

    def release(self, dialog: Dialog, entry: SlotEntry) -> bool:
        """``entry`` is over; True when no slot shows the dialog any more."""
        if dialog.holders.get(slot_of(entry), entry.session) != entry.session:
            return False
        return self.drop_holder(dialog, slot_of(entry))

    # ---- time -----------------------------------------------------------------------------------

    def schedule(self, dialog: Dialog, plan: list[tuple[int, Reason]]) -> None:
        """Replace the dialog's plan."""
        dialog.plan = plan
        self.book(dialog)

    def book(self, dialog: Dialog) -> None:
        """To be called whenever a plan or a refresh time has changed."""
        times = [at_ms for at_ms, _ in dialog.plan[:1]]
        if dialog.refresh_ms is not None:
            times.append(dialog.refresh_ms)
        at_ms = min(times, default=None)
        if at_ms is not None and at_ms != dialog.booked_ms:
            heapq.heappush(self._agenda, (at_ms, next(self._ticket), dialog.lamp.key))
        dialog.booked_ms = at_ms
        if len(self._agenda) > 4 * len(self._by_key) + 1_000:
            self._agenda = [item for item in self._agenda if self._valid(item)]
            heapq.heapify(self._agenda)

    def next_deadline_ms(self) -> int | None:
        """The earliest booking."""
        while self._agenda:
            if self._valid(self._agenda[0]):
                return self._agenda[0][0]
            heapq.heappop(self._agenda)
        return None

    def pop_due(self, now_ms: int) -> Dialog | None:
        """The dialog booked first, when that is not later than now. It has to be booked again."""
        at_ms = self.next_deadline_ms()
        if at_ms is None or at_ms > now_ms:
            return None
        dialog = self._by_key[heapq.heappop(self._agenda)[2]]
        dialog.booked_ms = None
        return dialog

    def _valid(self, item: tuple[int, int, LampKey]) -> bool:
        dialog = self._by_key.get(item[2])
        return dialog is not None and dialog.booked_ms == item[0]
