"""The one ordered writer of the lamps this worker owns (contract §5, design §6).

Pure. Time comes in as ``now_ms``; what is to be published comes out, in order. Kamailio remembers
nothing for us: updates are lost while it is away, overtake each other inside it and vanish when
Expires runs out, so everything is said again at the right moment.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from worker.parking.lamp import (
    Drift,
    DriftKind,
    Jitter,
    Lamp,
    LampKey,
    LampStats,
    LampUpdate,
    Reason,
    Spelling,
    folded,
    hashed_jitter,
)
from worker.parking.lamp_memory import MAX_SPELLINGS, Ended, EndedLamps, KnownPlaces
from worker.parking.model import AccountId, PresenceType, SessionId, SlotEntry, SlotId, WorkerId

__all__ = [
    "Drift",
    "DriftKind",
    "Jitter",
    "Lamp",
    "LampBook",
    "LampKey",
    "LampStats",
    "LampUpdate",
    "Reason",
    "hashed_jitter",
]

DEFAULT_EXPIRES_S = 600
TERMINATED_EXPIRES_S = 10
REPEATS_MS = (300, 1_500)
"""``terminated`` is said again after these. Kamailio deals updates out to unordered workers: said
once it loses against the ``early`` before it in up to half of the cases, said twice in none that
was measured. The third time is for a worker process that stalls longer."""
OVERTAKE_MS = 200
"""How much later than a ``terminated`` the lit lamps of the same presentity are said again: Kazoo's
pick-up table forgets the presentity at each ``terminated``, whichever call it is about."""
UNSETTLED_MS = 5_000
"""Where a dialog ended less than this ago, a late ``terminated`` may still be under way."""
ORPHAN_MS = 60_000
"""How long a release is remembered in case its owner died without saying so."""
RESET_DELAY_MS = 300
"""Kamailio reads resets and updates from different queues: the reset must come first."""
RETURN_DELAY_MS = 1_000
"""Kamailio advertises itself before its consumers are up."""
SPREAD_MS = 2_000
"""Many lamps are said again over at least this long, and at most about 1,000 a second."""
DRIFT_GRACE_MS = 5_000
"""A session may be between its slot and its lamp for a moment: that is not drift."""

_Slot = tuple[AccountId, SlotId]
Mine = Callable[[str], bool]
"""True in exactly one live worker for each ``user@realm`` (lower case)."""


@dataclass(slots=True)
class _Dialog:
    """A dialog that is shown, or whose end is still being repeated."""

    lamp: Lamp
    holders: dict[_Slot, SessionId] = field(default_factory=dict)
    mine: bool = False
    ended_ms: int | None = None
    published_ms: int | None = None
    refresh_ms: int | None = None
    plan: list[tuple[int, Reason]] = field(default_factory=list)
    spoken: dict[Spelling, None] = field(default_factory=dict)

    @property
    def lit(self) -> bool:
        return self.mine and self.ended_ms is None

    @property
    def next_ms(self) -> int | None:
        times = [self.plan[0][0]] if self.plan else []
        if self.refresh_ms is not None:
            times.append(self.refresh_ms)
        return min(times, default=None)


class LampBook:
    """Which lamps are lit, and what has to be said about them next.

    `light`, `darken` and `probe` return what to publish at once, in order. Everything else speaks
    through `due`, to be called when `next_deadline_ms` has passed. Every worker tells its book of
    the whole slot log (`saw_occupied` and `saw_free`, before the sessions react) and of every probe
    it hears, so that letter cases, known slots and a dead worker's unfinished business are known.
    """

    def __init__(
        self,
        *,
        expires_s: int = DEFAULT_EXPIRES_S,
        jitter: Jitter = hashed_jitter,
        known_limit: int = 50_000,
        ended_limit: int = 20_000,
        repeats_ms: tuple[int, ...] = REPEATS_MS,
    ) -> None:
        self._expires_s = expires_s
        self._jitter = jitter
        self._repeats_ms = repeats_ms
        self._dialogs: dict[LampKey, _Dialog] = {}
        self._shown: dict[Spelling, dict[LampKey, None]] = {}
        self._slots: dict[_Slot, LampKey] = {}
        self._known = KnownPlaces(known_limit)
        self._ended = EndedLamps(ended_limit, max(ORPHAN_MS, expires_s * 1000))
        self._suspects: dict[tuple[LampKey, DriftKind], int] = {}
        self._agenda: list[tuple[int, int, LampKey]] = []
        self._ticket = count()
        self._published = 0
        self._drift = 0

    # ---- lamps of our own -----------------------------------------------------------------------

    def light(self, entry: SlotEntry, now_ms: int) -> list[LampUpdate]:
        """The slot holds a call of ours. What the slot showed before is ended, if different."""
        self.know(entry.presence_user, entry.presence_realm)
        if not _visible(entry):
            return self._vacate(_slot(entry), None, now_ms)
        said = self._vacate(_slot(entry), Lamp.of(entry).key, now_ms)
        dialog = self._take(entry)
        dark_ms = self._known.at(dialog.lamp.spelling).dark_ms
        if dark_ms is not None and now_ms - dark_ms < UNSETTLED_MS:
            self._repeat(dialog, now_ms)
        return said + self._say_lit(dialog, Reason.LIT, now_ms)

    def darken(self, entry: SlotEntry, now_ms: int) -> list[LampUpdate]:
        """The call of ``entry`` is not in its slot any more. It is said again by itself later."""
        if not _visible(entry):
            return []
        lamp = Lamp.of(entry)
        dialog = self._dialogs.get(lamp.key)
        if dialog is None:
            ended = self._ended.find(lamp.key)
            if ended is not None and ended.said:
                return []
            return self._end(self._open(lamp), now_ms)
        if dialog.ended_ms is not None or not self._release(dialog, entry):
            return []
        return self._end(dialog, now_ms)

    def adopt(self, entry: SlotEntry, now_ms: int) -> None:
        """The session of ``entry`` is ours now: what its last owner said is said again."""
        if _visible(entry):
            dialog = self._take(entry)
            delay_ms = self._spread(dialog, Reason.ADOPTED, SPREAD_MS // 2)
            self._schedule(dialog, [(now_ms + delay_ms, Reason.ADOPTED)])

    def forget(self, entry: SlotEntry) -> None:
        """The session of ``entry`` moved to another worker: its lamp is not ours any more."""
        dialog = self._dialogs.get(Lamp.of(entry).key)
        if dialog is None or not dialog.lit:
            return
        if dialog.holders.get(_slot(entry), entry.session) == entry.session:
            self._let_go(dialog)

    # ---- what the slot log says of everybody's --------------------------------------------------

    def know(self, user: str, realm: str) -> None:
        """``user@realm`` is the presentity of some slot, be it free."""
        if user:
            self._known.at((user, realm))

    def saw_occupied(self, entry: SlotEntry) -> None:
        """A slot was claimed or its call changed its id, whoever did it. Publishes nothing."""
        self.know(entry.presence_user, entry.presence_realm)
        if not _visible(entry):
            return
        lamp, slot = Lamp.of(entry), _slot(entry)
        self._ended.forget(lamp.key)
        dialog = self._dialogs.get(lamp.key) or self._open(lamp)
        if dialog.ended_ms is not None or dialog.holders.get(slot, "") not in ("", entry.session):
            # Somebody lights it again, perhaps another worker: no ``terminated`` of ours may follow.
            self._let_go(dialog)
        dialog.holders[slot] = entry.session
        before = self._dialogs.get(self._slots.get(slot, lamp.key))
        if before is None or not before.lit:
            if before is not None and before is not dialog and before.ended_ms is None:
                before.holders.pop(slot, None)
                if not before.holders:
                    self._close(before)
            self._slots[slot] = lamp.key

    def saw_free(self, entry: SlotEntry, owner: WorkerId | None, now_ms: int) -> None:
        """A slot was freed. ``owner``: the worker whose duty it is to darken the lamp."""
        if not _visible(entry):
            return
        lamp = Lamp.of(entry)
        dialog = self._dialogs.get(lamp.key)
        if dialog is not None:
            if dialog.mine or not self._release(dialog, entry):
                return
            self._close(dialog)
        self._known.at(lamp.spelling).dark_ms = now_ms
        self._ended.add(Ended(lamp, (lamp.spelling,), now_ms, owner), now_ms)
        self._repeat_others(lamp, now_ms)

    def owner_gone(self, worker: WorkerId, now_ms: int, mine: Mine) -> None:
        """A worker died or left: what it may have failed to darken is darkened by one of us."""
        for ended in self._ended:
            if ended.owner != worker:
                continue
            ended.owner = None
            if now_ms - ended.at_ms <= ORPHAN_MS and not ended.said and mine(_name(ended.lamp)):
                self._end_again(ended, now_ms, Reason.ORPHANED)

    # ---- what others ask for --------------------------------------------------------------------

    def probe(self, realm: str, user: str, mine: Mine | None = None) -> list[LampUpdate]:
        """Somebody subscribed to ``user@realm``, in this letter case. Unknown: nothing to say.

        With ``mine`` every worker hears the probe: a lit lamp is answered for by its owner, a free
        one where ``mine`` is true. Without it we are the only one who hears, and answer for all.
        """
        spelling = user, realm
        dialogs = self._at(folded(user, realm))
        known = self._known.find(folded(user, realm))
        if known is not None and spelling in known.own:
            dialogs = [dialog for dialog in dialogs if dialog.lamp.spelling == spelling]
        elif not dialogs and known is None:
            return []
        self._known.learn(spelling)
        shown = [dialog for dialog in dialogs if dialog.ended_ms is None]
        if shown:
            answering = [dialog for dialog in shown if mine is None or dialog.mine]
            return [self._update(dialog, spelling, Reason.PROBED) for dialog in answering]
        if mine is not None and not mine("@".join(folded(user, realm))):
            return []
        lamp = dialogs[-1].lamp.spelled(spelling) if dialogs else Lamp.of_free(user, realm)
        return [self._terminated(lamp, Reason.PROBED)]

    def reset(self, realm: str, user: str, now_ms: int) -> None:
        """Kamailio was told to forget ``user`` (``*``: everybody) of ``realm`` (§5.6)."""
        place = folded(user, realm)
        again = [
            dialog
            for dialog in self._dialogs.values()
            if dialog.lit and dialog.lamp.place in (place, (dialog.lamp.place[0], place[1]))
            if user in ("*", "") or dialog.lamp.place == place
        ]
        self._say_again(again, now_ms + RESET_DELAY_MS, Reason.RESET)

    def kamailio_back(self, now_ms: int) -> None:
        """Kamailio may have lost its rows, and what was said while it was away is lost."""
        current = [dialog for dialog in self._dialogs.values() if dialog.mine]
        self._say_again(current, now_ms + RETURN_DELAY_MS, Reason.RETURNED)
        for ended in self._ended:
            if ended.said and now_ms - ended.at_ms <= self._expires_s * 1000:
                self._end_again(ended, now_ms + RETURN_DELAY_MS, Reason.RETURNED)

    # ---- time -----------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When `due` has something to say next."""
        while self._agenda:
            at_ms, _, key = self._agenda[0]
            dialog = self._dialogs.get(key)
            if dialog is not None and dialog.next_ms == at_ms:
                return at_ms
            heapq.heappop(self._agenda)
        return None

    def due(self, now_ms: int) -> list[LampUpdate]:
        """What is to be published now, in order."""
        said: list[LampUpdate] = []
        while (at_ms := self.next_deadline_ms()) is not None and at_ms <= now_ms:
            dialog = self._dialogs[heapq.heappop(self._agenda)[2]]
            reason = Reason.REFRESHED
            while dialog.plan and dialog.plan[0][0] <= now_ms:
                reason = dialog.plan.pop(0)[1]
            if dialog.ended_ms is None:
                said += self._say_lit(dialog, reason, now_ms)
            else:
                said += self._say_ended(dialog, reason, now_ms)
        return said

    def audit(self, wanted: Iterable[SlotEntry], now_ms: int) -> list[Drift]:
        """Compare with the slots our sessions hold in the slot table; call it every few seconds.

        What differs for 5 s is returned, counted and repaired (through `due`).
        """
        entries = {Lamp.of(entry).key: entry for entry in wanted if _visible(entry)}
        suspects: dict[tuple[LampKey, DriftKind], int] = {}
        drifts: list[Drift] = []
        for key, kind in list(self._differences(entries, now_ms)):
            since_ms = self._suspects.get((key, kind), now_ms)
            if now_ms - since_ms < DRIFT_GRACE_MS:
                suspects[key, kind] = since_ms
            else:
                drifts.append(Drift(lamp=self._repair(key, entries.get(key), now_ms), kind=kind))
        self._suspects = suspects
        self._drift += len(drifts)
        return drifts

    def stats(self) -> LampStats:
        """Numbers for metrics."""
        lit = sum(dialog.lit for dialog in self._dialogs.values())
        ending = sum(dialog.ended_ms is not None for dialog in self._dialogs.values())
        return LampStats(
            lit=lit,
            ending=ending,
            foreign=len(self._dialogs) - lit - ending,
            known=len(self._known),
            ended=len(self._ended),
            published=self._published,
            drift=self._drift,
        )

    # ---- saying ---------------------------------------------------------------------------------

    def _say_lit(self, dialog: _Dialog, reason: Reason, now_ms: int) -> list[LampUpdate]:
        expires_ms = self._expires_s * 1000
        early = self._jitter(f"refresh {dialog.lamp.key} {now_ms}")
        dialog.published_ms = now_ms
        dialog.refresh_ms = now_ms + int(expires_ms * (2 / 3 - early / 10))
        self._book(dialog)
        spellings = self._known.at(dialog.lamp.spelling).spellings(dialog.lamp)
        return [self._update(dialog, spelling, reason) for spelling in spellings]

    def _say_ended(self, dialog: _Dialog, reason: Reason, now_ms: int) -> list[LampUpdate]:
        spellings = list(dict.fromkeys((dialog.lamp.spelling, *dialog.spoken)))
        if dialog.plan:
            self._book(dialog)
        else:
            at_ms = now_ms if dialog.ended_ms is None else dialog.ended_ms
            ended = Ended(dialog.lamp, tuple(dialog.spoken), at_ms, said=True)
            self._close(dialog)
            self._ended.add(ended, now_ms)
        return [self._terminated(dialog.lamp.spelled(spelling), reason) for spelling in spellings]

    def _update(self, dialog: _Dialog, spelling: Spelling, reason: Reason) -> LampUpdate:
        dialog.spoken.pop(spelling, None)
        dialog.spoken[spelling] = None
        while len(dialog.spoken) > 2 * MAX_SPELLINGS:
            del dialog.spoken[next(iter(dialog.spoken))]
        self._published += 1
        return LampUpdate(
            lamp=dialog.lamp.spelled(spelling),
            state=dialog.lamp.presence_type,
            expires_s=self._expires_s,
            reason=reason,
        )

    def _terminated(self, lamp: Lamp, reason: Reason) -> LampUpdate:
        self._published += 1
        state = PresenceType.TERMINATED
        return LampUpdate(lamp=lamp, state=state, expires_s=TERMINATED_EXPIRES_S, reason=reason)

    # ---- the dialogs ----------------------------------------------------------------------------

    def _at(self, place: Spelling) -> list[_Dialog]:
        return [self._dialogs[key] for key in self._shown.get(place, ())]

    def _open(self, lamp: Lamp) -> _Dialog:
        dialog = self._dialogs[lamp.key] = _Dialog(lamp)
        self._shown.setdefault(lamp.place, {})[lamp.key] = None
        self._ended.forget(lamp.key)
        return dialog

    def _close(self, dialog: _Dialog) -> None:
        key, place = dialog.lamp.key, dialog.lamp.place
        del self._dialogs[key]
        del self._shown[place][key]
        if not self._shown[place]:
            del self._shown[place]

    def _take(self, entry: SlotEntry) -> _Dialog:
        """The dialog of ``entry``, lit and ours from now on."""
        lamp, slot = Lamp.of(entry), _slot(entry)
        dialog = self._dialogs.get(lamp.key) or self._open(lamp)
        if dialog.ended_ms is not None:
            self._let_go(dialog)
        dialog.lamp = lamp
        dialog.holders[slot] = entry.session
        dialog.mine = True
        self._slots[slot] = lamp.key
        return dialog

    def _let_go(self, dialog: _Dialog) -> None:
        dialog.mine = False
        dialog.ended_ms = dialog.refresh_ms = None
        dialog.plan = []

    def _release(self, dialog: _Dialog, entry: SlotEntry) -> bool:
        """Take ``entry`` off the dialog; True when nobody holds it any more."""
        slot = _slot(entry)
        if dialog.holders.get(slot, entry.session) != entry.session:
            return False
        dialog.holders.pop(slot, None)
        if self._slots.get(slot) == dialog.lamp.key:
            del self._slots[slot]
        return not dialog.holders

    def _vacate(self, slot: _Slot, key: LampKey | None, now_ms: int) -> list[LampUpdate]:
        """End what the slot shows, unless that is ``key`` or shown by another slot as well."""
        before = self._slots.get(slot)
        dialog = self._dialogs.get(before) if before is not None and before != key else None
        if dialog is None or dialog.ended_ms is not None:
            return []
        del self._slots[slot]
        dialog.holders.pop(slot, None)
        return [] if dialog.holders else self._end(dialog, now_ms)

    def _end(self, dialog: _Dialog, now_ms: int) -> list[LampUpdate]:
        self._start_ending(dialog, now_ms)
        self._schedule(dialog, [(now_ms + ms, Reason.REPEATED) for ms in self._repeats_ms])
        return self._say_ended(dialog, Reason.ENDED, now_ms)

    def _end_again(self, ended: Ended, now_ms: int, reason: Reason) -> None:
        dialog = self._open(ended.lamp)
        dialog.spoken = dict.fromkeys(ended.spoken)
        self._start_ending(dialog, ended.at_ms)
        at_ms = now_ms + self._spread(dialog, reason, max(SPREAD_MS, len(self._ended)))
        again = [(at_ms + ms, Reason.REPEATED) for ms in self._repeats_ms[:1]]
        self._schedule(dialog, [(at_ms, reason), *again])

    def _start_ending(self, dialog: _Dialog, at_ms: int) -> None:
        for slot in dialog.holders:
            if self._slots.get(slot) == dialog.lamp.key:
                del self._slots[slot]
        dialog.holders.clear()
        dialog.mine = True
        dialog.ended_ms = at_ms
        dialog.refresh_ms = None
        self._known.at(dialog.lamp.spelling).dark_ms = at_ms
        self._repeat_others(dialog.lamp, at_ms)

    # ---- the agenda -----------------------------------------------------------------------------

    def _schedule(self, dialog: _Dialog, plan: list[tuple[int, Reason]]) -> None:
        dialog.plan = plan
        self._book(dialog)

    def _book(self, dialog: _Dialog) -> None:
        at_ms = dialog.next_ms
        if at_ms is not None:
            heapq.heappush(self._agenda, (at_ms, next(self._ticket), dialog.lamp.key))
        if len(self._agenda) > 4 * len(self._dialogs) + 1_000:
            booked = {(one.next_ms, key) for key, one in self._dialogs.items()}
            self._agenda = [item for item in self._agenda if (item[0], item[2]) in booked]
            heapq.heapify(self._agenda)

    def _repeat(self, dialog: _Dialog, now_ms: int) -> None:
        times = (now_ms + OVERTAKE_MS + ms for ms in self._repeats_ms)
        self._schedule(dialog, [(at_ms, Reason.REPEATED) for at_ms in times])

    def _repeat_others(self, lamp: Lamp, now_ms: int) -> None:
        """Something ended here: what else is lit here must outlast it."""
        for dialog in self._at(lamp.place):
            if dialog.lit and dialog.lamp.key != lamp.key:
                self._repeat(dialog, now_ms)

    def _say_again(self, dialogs: list[_Dialog], now_ms: int, reason: Reason) -> None:
        for dialog in dialogs:
            at_ms = now_ms + self._spread(dialog, reason, max(SPREAD_MS, len(dialogs)))
            self._schedule(dialog, sorted([*dialog.plan, (at_ms, reason)])[-4:])

    def _spread(self, dialog: _Dialog, reason: Reason, over_ms: int) -> int:
        return int(self._jitter(f"{reason} {dialog.lamp.key}") * over_ms)

    # ---- drift ----------------------------------------------------------------------------------

    def _differences(
        self, wanted: dict[LampKey, SlotEntry], now_ms: int
    ) -> Iterator[tuple[LampKey, DriftKind]]:
        for key, entry in wanted.items():
            dialog = self._dialogs.get(key)
            if dialog is None or not dialog.lit:
                yield key, DriftKind.DARK
            elif dialog.lamp != Lamp.of(entry):
                yield key, DriftKind.DIFFERENT
            elif (dialog.published_ms or 0) + self._expires_s * 1000 < now_ms:
                yield key, DriftKind.OVERDUE
        for key, dialog in self._dialogs.items():
            if dialog.lit and key not in wanted:
                yield key, DriftKind.LIT

    def _repair(self, key: LampKey, entry: SlotEntry | None, now_ms: int) -> Lamp:
        if entry is None:
            dialog = self._dialogs[key]
            self._start_ending(dialog, now_ms)
            times = (now_ms, *(now_ms + ms for ms in self._repeats_ms))
        else:
            dialog = self._take(entry)
            times = (now_ms,)
        self._schedule(dialog, [(at_ms, Reason.REPAIRED) for at_ms in times])
        return dialog.lamp


def _visible(entry: SlotEntry) -> bool:
    """Whether the slot shows on a lamp at all."""
    hidden = entry.reserved or entry.presence_type is PresenceType.TERMINATED
    return not hidden and bool(entry.presence_user)


def _slot(entry: SlotEntry) -> _Slot:
    return entry.account, entry.slot


def _name(lamp: Lamp) -> str:
    return "@".join(lamp.place)
