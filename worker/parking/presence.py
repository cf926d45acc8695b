"""The one ordered writer of the lamps this worker owns (contract §5, design §6).

Pure. Time comes in as ``now_ms``; what is to be published comes out, in order. Kamailio remembers
nothing for us: updates are lost while it is away, overtake each other inside it and vanish when
Expires runs out, so everything is said again at the right moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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
from worker.parking.lamp_dialogs import Dialog, Dialogs, SlotKey, slot_of
from worker.parking.lamp_memory import MAX_SPELLINGS, Ended, EndedLamps, KnownPlaces
from worker.parking.model import PresenceType, SlotEntry, WorkerId

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
REFRESH_AT_MOST_MS = 540_000
"""However long Expires is: Kazoo's pick-up table forgets a parked call after 600 s."""
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

Mine = Callable[[str], bool]
"""True in exactly one live worker for each ``user@realm`` (lower case)."""


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
        self._dialogs = Dialogs()
        self._known = KnownPlaces(known_limit)
        self._ended = EndedLamps(ended_limit, max(ORPHAN_MS, expires_s * 1000))
        self._suspects: dict[tuple[LampKey, DriftKind], int] = {}
        self._published = 0
        self._drift = 0

    # ---- lamps of our own -----------------------------------------------------------------------

    def light(self, entry: SlotEntry, now_ms: int) -> list[LampUpdate]:
        """The slot holds a call of ours. What the slot showed before is ended, if different."""
        self.know(entry.presence_user, entry.presence_realm)
        if not _visible(entry):
            return self._vacate(slot_of(entry), None, now_ms)
        said = self._vacate(slot_of(entry), Lamp.of(entry).key, now_ms)
        dialog = self._take(entry)
        dark_ms = self._known.at(dialog.lamp.spelling).dark_ms
        if dark_ms is not None and now_ms - dark_ms < UNSETTLED_MS:
            self._repeat(dialog, max(now_ms, dark_ms))
        return said + self._say_lit(dialog, Reason.LIT, now_ms)

    def darken(self, entry: SlotEntry, now_ms: int) -> list[LampUpdate]:
        """The call of ``entry`` is not in its slot any more. It is said again by itself later."""
        if not _visible(entry):
            return []
        lamp = Lamp.of(entry)
        dialog = self._dialogs.find(lamp.key)
        if dialog is None:
            ended = self._ended.find(lamp.key)
            if ended is not None and ended.said:
                return []
            return self._end(self._open(lamp), now_ms)
        if dialog.ended_ms is not None:
            unsaid = any(reason is Reason.ORPHANED for _, reason in dialog.plan)
            return self._end(dialog, now_ms) if unsaid else []
        return self._end(dialog, now_ms) if self._dialogs.release(dialog, entry) else []

    def forget(self, entry: SlotEntry) -> None:
        """The session of ``entry`` moved to another worker: its lamp is not ours any more."""
        dialog = self._dialogs.find(Lamp.of(entry).key)
        if dialog is None or not dialog.lit:
            return
        if dialog.holders.get(slot_of(entry), entry.session) == entry.session:
            dialog.let_go()

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
        lamp, slot = Lamp.of(entry), slot_of(entry)
        dialog = self._dialogs.find(lamp.key) or self._open(lamp)
        if dialog.ended_ms is not None or dialog.holders.get(slot, "") not in ("", entry.session):
            # Somebody lights it again, perhaps another worker: no late ``terminated`` from here.
            dialog.let_go()
        before = self._dialogs.of_slot(slot)
        if before is not None and before is not dialog:
            if before.lit:  # Its session is about to say that it is over.
                dialog.holders[slot] = entry.session
                return
            if self._dialogs.drop_holder(before, slot):
                self._dialogs.close(before)
        self._dialogs.hold(dialog, entry)

    def saw_table(self, entries: Iterable[SlotEntry]) -> None:
        """The whole slot table, after a time in which changes may have been missed: what others
        are not said to show any more is forgotten. Publishes nothing."""
        for dialog in list(self._dialogs):
            if not dialog.mine:
                self._dialogs.close(dialog)
        for entry in entries:
            self.saw_occupied(entry)

    def saw_free(self, entry: SlotEntry, owner: WorkerId | None, now_ms: int) -> None:
        """A slot was freed. ``owner``: the worker whose duty it is to darken the lamp."""
        if not _visible(entry):
            return
        lamp = Lamp.of(entry)
        dialog = self._dialogs.find(lamp.key)
        if dialog is not None:
            if dialog.mine or not self._dialogs.release(dialog, entry):
                return
            self._dialogs.close(dialog)
        self._ended.add(Ended(lamp, (lamp.spelling,), now_ms, owner), now_ms)
        self._went_dark(lamp, now_ms)

    def owner_gone(self, worker: WorkerId, now_ms: int, mine: Mine) -> None:
        """A worker died or left: what it may have failed to darken is darkened by one of us."""
        for ended in self._ended:
            if ended.owner != worker:
                continue
            ended.owner = None
            recent = now_ms - ended.at_ms <= ORPHAN_MS
            if recent and not ended.said and mine("@".join(ended.lamp.place)):
                self._end_again(ended, now_ms, Reason.ORPHANED)

    # ---- what others ask for --------------------------------------------------------------------

    def probe(self, realm: str, user: str, mine: Mine | None = None) -> list[LampUpdate]:
        """Somebody subscribed to ``user@realm``, in this letter case. Unknown: nothing to say.

        With ``mine`` every worker hears the probe: a lit lamp is answered for by its owner, a free
        one where ``mine`` is true. Without it we are the only one who hears, and answer for all.
        """
        spelling, place = (user, realm), folded(user, realm)
        dialogs = self._dialogs.at(place)
        known = self._known.find(place)
        if known is not None and spelling in known.own:
            dialogs = [dialog for dialog in dialogs if dialog.lamp.spelling == spelling]
        elif not dialogs and known is None:
            return []
        self._known.learn(spelling)
        shown = [dialog for dialog in dialogs if dialog.ended_ms is None]
        if shown:
            answering = [dialog for dialog in shown if mine is None or dialog.mine]
            return [self._update(dialog, spelling, Reason.PROBED) for dialog in answering]
        if mine is not None and not mine("@".join(place)):
            return []
        lamp = dialogs[-1].lamp.spelled(spelling) if dialogs else Lamp.of_free(user, realm)
        return [self._terminated(lamp, Reason.PROBED)]

    def reset(self, realm: str, user: str, now_ms: int) -> None:
        """Kamailio was told to forget ``user`` (``*``: everybody) of ``realm`` (§5.6)."""
        everybody = user in ("", "*")
        place = folded(user, realm)
        again = [
            dialog
            for dialog in self._dialogs
            if dialog.lit
            and dialog.lamp.place[1] == place[1]
            and (everybody or dialog.lamp.place[0] == place[0])
        ]
        self._say_again(again, now_ms + RESET_DELAY_MS, Reason.RESET)

    def kamailio_back(self, now_ms: int) -> None:
        """Kamailio, or the way to it, was away: its rows and what was said since may be lost."""
        current = [dialog for dialog in self._dialogs if dialog.mine]
        self._say_again(current, now_ms + RETURN_DELAY_MS, Reason.RETURNED)
        for ended in self._ended:
            if ended.said and now_ms - ended.at_ms <= self._expires_s * 1000:
                self._end_again(ended, now_ms + RETURN_DELAY_MS, Reason.RETURNED)

    # ---- time -----------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When `due` has something to say next."""
        return self._dialogs.next_deadline_ms()

    def due(self, now_ms: int) -> list[LampUpdate]:
        """What is to be published now, in order."""
        said: list[LampUpdate] = []
        while (dialog := self._dialogs.pop_due(now_ms)) is not None:
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
        for dialog_key, kind in list(self._differences(entries, now_ms)):
            key = dialog_key, kind
            since_ms = self._suspects.get(key, now_ms)
            if now_ms - since_ms < DRIFT_GRACE_MS:
                suspects[key] = since_ms
                continue
            lamp = self._repair(dialog_key, entries.get(dialog_key), now_ms)
            drifts.append(Drift(lamp=lamp, kind=kind))
        self._suspects = suspects
        self._drift += len(drifts)
        return drifts

    def stats(self) -> LampStats:
        """Numbers for metrics."""
        lit = sum(dialog.lit for dialog in self._dialogs)
        ending = sum(dialog.ended_ms is not None for dialog in self._dialogs)
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

    def _say_lit(self, dialog: Dialog, reason: Reason, now_ms: int) -> list[LampUpdate]:
        expires_ms = self._expires_s * 1000
        early = self._jitter(f"refresh {dialog.lamp.key} {now_ms}")
        dialog.published_ms = now_ms
        refresh_ms = min(expires_ms * 2 // 3, REFRESH_AT_MOST_MS)
        dialog.refresh_ms = now_ms + refresh_ms - int(refresh_ms * early / 7)
        self._dialogs.book(dialog)
        spellings = self._known.at(dialog.lamp.spelling).spellings(dialog.lamp)
        return [self._update(dialog, spelling, reason) for spelling in spellings]

    def _say_ended(self, dialog: Dialog, reason: Reason, now_ms: int) -> list[LampUpdate]:
        spoken = tuple(dialog.spoken)
        if dialog.plan:
            self._dialogs.book(dialog)
        else:
            at_ms = now_ms if dialog.ended_ms is None else dialog.ended_ms
            self._dialogs.close(dialog)
            self._ended.add(Ended(dialog.lamp, spoken, at_ms, said=True), now_ms)
        return [self._terminated(dialog.lamp.spelled(spelling), reason) for spelling in spoken]

    def _update(self, dialog: Dialog, spelling: Spelling, reason: Reason) -> LampUpdate:
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

    # ---- lighting and ending --------------------------------------------------------------------

    def _open(self, lamp: Lamp) -> Dialog:
        self._ended.forget(lamp.key)
        return self._dialogs.open(lamp)

    def _take(self, entry: SlotEntry) -> Dialog:
        """The dialog of ``entry``, lit and ours from now on."""
        lamp = Lamp.of(entry)
        dialog = self._dialogs.find(lamp.key) or self._open(lamp)
        if dialog.ended_ms is not None:
            dialog.let_go()
        dialog.lamp = lamp
        dialog.mine = True
        self._dialogs.hold(dialog, entry)
        return dialog

    def _vacate(self, slot: SlotKey, key: LampKey | None, now_ms: int) -> list[LampUpdate]:
        """End what the slot shows, unless that is ``key`` or shown by another slot as well."""
        dialog = self._dialogs.of_slot(slot)
        if dialog is None or dialog.lamp.key == key or not self._dialogs.drop_holder(dialog, slot):
            return []
        return self._end(dialog, now_ms)

    def _end(self, dialog: Dialog, now_ms: int) -> list[LampUpdate]:
        self._start_ending(dialog, now_ms, now_ms)
        dialog.plan = [(now_ms + ms, Reason.REPEATED) for ms in self._repeats_ms]
        return self._say_ended(dialog, Reason.ENDED, now_ms)

    def _end_again(self, ended: Ended, now_ms: int, reason: Reason) -> None:
        dialog = self._open(ended.lamp)
        dialog.spoken = dict.fromkeys(ended.spoken)
        at_ms = now_ms + self._spread(dialog, reason, max(SPREAD_MS, len(self._ended)))
        self._start_ending(dialog, ended.at_ms, at_ms)
        again = [(at_ms + ms, Reason.REPEATED) for ms in self._repeats_ms[:1]]
        self._dialogs.schedule(dialog, [(at_ms, reason), *again])

    def _start_ending(self, dialog: Dialog, ended_ms: int, said_ms: int) -> None:
        for slot in list(dialog.holders):
            self._dialogs.drop_holder(dialog, slot)
        dialog.mine = True
        dialog.ended_ms = ended_ms
        dialog.refresh_ms = None
        for spelling in self._known.at(dialog.lamp.spelling).spellings(dialog.lamp):
            dialog.spoken.setdefault(spelling)
        self._went_dark(dialog.lamp, said_ms)

    def _went_dark(self, lamp: Lamp, said_ms: int) -> None:
        """A ``terminated`` is said here: what else is lit on the presentity must outlast it."""
        self._known.at(lamp.spelling).dark_ms = said_ms
        for dialog in self._dialogs.at(lamp.place):
            if dialog.lit and dialog.lamp.key != lamp.key:
                self._repeat(dialog, said_ms)

    def _repeat(self, dialog: Dialog, said_ms: int) -> None:
        times = (said_ms + OVERTAKE_MS + ms for ms in self._repeats_ms)
        self._dialogs.schedule(dialog, [(at_ms, Reason.REPEATED) for at_ms in times])

    def _say_again(self, dialogs: list[Dialog], now_ms: int, reason: Reason) -> None:
        for dialog in dialogs:
            at_ms = now_ms + self._spread(dialog, reason, max(SPREAD_MS, len(dialogs)))
            others = [step for step in dialog.plan if step[1] is not reason]
            self._dialogs.schedule(dialog, sorted([*others, (at_ms, reason)]))

    def _spread(self, dialog: Dialog, reason: Reason, over_ms: int) -> int:
        return int(self._jitter(f"{reason} {dialog.lamp.key}") * over_ms)

    # ---- drift ----------------------------------------------------------------------------------

    def _differences(
        self, wanted: dict[LampKey, SlotEntry], now_ms: int
    ) -> Iterator[tuple[LampKey, DriftKind]]:
        expires_ms = self._expires_s * 1000
        for key, entry in wanted.items():
            dialog = self._dialogs.find(key)
            if dialog is None or not dialog.lit:
                yield key, DriftKind.DARK
            elif dialog.lamp != Lamp.of(entry):
                yield key, DriftKind.DIFFERENT
            elif dialog.published_ms is None or dialog.published_ms + expires_ms < now_ms:
                yield key, DriftKind.OVERDUE
        for dialog in self._dialogs:
            if dialog.lit and dialog.lamp.key not in wanted:
                yield dialog.lamp.key, DriftKind.LIT

    def _repair(self, key: LampKey, entry: SlotEntry | None, now_ms: int) -> Lamp:
        if entry is not None:
            dialog = self._take(entry)
            times: tuple[int, ...] = (now_ms,)
        else:
            dialog = self._dialogs.at_key(key)
            self._start_ending(dialog, now_ms, now_ms)
            times = (now_ms, *(now_ms + ms for ms in self._repeats_ms))
        self._dialogs.schedule(dialog, [(at_ms, Reason.REPAIRED) for at_ms in times])
        return dialog.lamp


def _visible(entry: SlotEntry) -> bool:
    """Whether the slot shows on a lamp at all."""
    hidden = entry.reserved or entry.presence_type is PresenceType.TERMINATED
    return not hidden and bool(entry.presence_user)
