"""When to beat, whom to hold for dead, when to take a snapshot, and whether we may act.

Pure: time comes in as ``now_ms`` (any steady clock that also counts while the process is frozen).

Why a frozen worker cannot act: it may act only within ``lease_ms`` of the moment it *sent* a beat
that it has read back from the log. The others read that beat no earlier than it was sent and bury
it no sooner than ``silent_ms`` after reading it, and a burial that stands after a later beat in the
log is void. ``lease_ms`` being shorter, the lease has always run out before anybody takes over.
(The faster way, a probe of the inbox, needs the inbox to be gone: then the worker's connection is
gone too, and nothing it writes reaches anybody.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.parking.model import WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All in milliseconds."""

    beat_ms: int = 1_000
    lease_ms: int = 2_200
    silent_ms: int = 3_500
    """A worker not heard for so long is dead."""
    suspect_ms: int = 1_300
    """One not heard for so long is probed; it is dead when its inbox is gone."""
    probe_again_ms: int = 500
    grace_ms: int = 3_500
    """After a reconnect nobody is probed for so long: the others reconnect as well."""
    settle_ms: int = 1_000
    deaf_beats: int = 10
    """So many of our own beats not read back: the stream no longer reaches us."""
    opening_ms: int = 5_000
    """Our barriers not taken for so long: only a new connection helps."""
    snapshot_ms: int = 60_000
    snapshot_records: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Ask whether the worker's inbox exists. Answer with `Vitals.probed`."""

    worker: WorkerId
    beat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bury:
    """Append Dead."""

    victim: WorkerId
    beat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Append Settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeSnapshot:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deaf:
    """Give the connection up."""


Action = Beat | Probe | Bury | Settle | TakeSnapshot | Deaf


@dataclass(slots=True)
class _Other:
    """What we noticed of another worker."""

    heard_ms: int
    probed_ms: int | None = None
    suspect: bool = False
    """Probe it at once, whatever was heard."""
    buried_beat: int = -1


class Vitals:
    """One worker's view of time. The table decides who is a member; this decides what to append."""

    def __init__(self, worker: WorkerId, timing: Timing) -> None:
        self._worker = worker
        self._timing = timing
        self._others: dict[WorkerId, _Other] = {}
        self._sent: dict[int, int] = {}
        """Beats under way: number → when sent."""
        self._last_beat = 0
        self._last_beat_ms: int | None = None
        self._confirmed_ms: int | None = None
        """When the newest beat that we have read back was sent."""
        self._attached_ms: int | None = None
        self._first = True
        self._grace_ms = 0
        self._stalled = False
        self._settle_at_ms = 0
        self._snapshot_ms = 0
        self._records = 0
        self._changed = False

    # ---- what happens ---------------------------------------------------------------------------

    def attached(self, now_ms: int, members: Mapping[WorkerId, int]) -> None:
        """Caught up with the log. ``members``: live workers and their beats."""
        known = self._others
        self._others = {
            worker: _Other(
                heard_ms=now_ms,
                suspect=self._first,
                buried_beat=known[worker].buried_beat if worker in known else -1,
            )
            for worker in members
            if worker != self._worker
        }
        self._grace_ms = 0 if self._first else self._timing.grace_ms
        self._first = False
        self._attached_ms = now_ms
        self._settle_at_ms = now_ms + self._timing.settle_ms
        self._snapshot_ms = now_ms
        self._last_beat_ms = None
        self._confirmed_ms = None
        self._sent.clear()

    def detached(self) -> None:
        self._attached_ms = None
        self._confirmed_ms = None
        self._sent.clear()

    def heard(self, author: WorkerId, now_ms: int, *, matters: bool) -> None:
        """A record was read. ``matters``: it is more than a sign of life."""
        self._records += 1
        self._changed = self._changed or matters
        other = self._others.get(author)
        if other is not None:
            other.heard_ms = now_ms
            other.suspect = False
        elif author != self._worker and self._attached_ms is not None:
            self._others[author] = _Other(heard_ms=now_ms)

    def beat_sent(self, number: int, now_ms: int) -> None:
        self._last_beat, self._last_beat_ms = number, now_ms
        self._sent[number] = now_ms

    def beat_read(self, number: int) -> None:
        """Our own beat was read back and taken."""
        sent_ms = self._sent.pop(number, None)
        if sent_ms is not None:
            self._confirmed_ms = max(sent_ms, self._confirmed_ms or sent_ms)
            self._sent = {beat: at for beat, at in self._sent.items() if beat > number}

    def replaced(self) -> None:
        """We were declared dead: no lease until a beat of the next life is read back."""
        self._confirmed_ms = None
        self._sent.clear()

    def probed(self, worker: WorkerId, beat: int, *, there: bool) -> list[Action]:
        """The answer to a probe that was sent at this beat of the worker."""
        other = self._others.get(worker)
        if other is None:
            return []
        other.suspect = False
        if there or other.buried_beat >= beat:
            return []
        other.buried_beat = beat
        return [Bury(victim=worker, beat=beat)]

    def snapshot_taken(self, now_ms: int) -> None:
        self._snapshot_ms, self._records, self._changed = now_ms, 0, False

    # ---- what follows ---------------------------------------------------------------------------

    def lease_ok(self, now_ms: int) -> bool:
        """Whether we may still act for our sessions."""
        return (
            self._confirmed_ms is not None and now_ms - self._confirmed_ms <= self._timing.lease_ms
        )

    def due(self, now_ms: int, members: Mapping[WorkerId, int], *, settled: bool) -> list[Action]:
        """What is to be done now. ``members``: live workers and their beats, by the table."""
        if self._attached_ms is None:
            return []
        actions: list[Action] = []
        for worker in self._others.keys() - members.keys():
            del self._others[worker]
        if len(self._sent) >= self._timing.deaf_beats:
            return [Deaf()]
        if self._worker in members and self._beat_is_due(now_ms):
            number = max(self._last_beat, members[self._worker]) + 1
            actions.append(Beat(number=number))
        if not settled and now_ms >= self._settle_at_ms:
            self._settle_at_ms = now_ms + self._timing.settle_ms
            actions.append(Settle())
        if self._hears_itself(now_ms):
            for worker, beat in members.items():
                if worker != self._worker:
                    actions += self._watch(worker, beat, now_ms)
        if self._worker == min(members, default=None) and self._snapshot_is_due(now_ms):
            actions.append(TakeSnapshot())
        return actions

    def _hears_itself(self, now_ms: int) -> bool:
        """While our own beats do not come back either, the log stands still (or we did): nobody's
        silence means anything, and afterwards everybody gets his time anew."""
        if not self.lease_ok(now_ms):
            self._stalled = True
            return False
        if self._stalled:
            self._stalled = False
            for other in self._others.values():
                other.heard_ms = now_ms
        return True

    def _beat_is_due(self, now_ms: int) -> bool:
        last_ms = self._last_beat_ms
        return last_ms is None or now_ms - last_ms >= self._timing.beat_ms

    def _snapshot_is_due(self, now_ms: int) -> bool:
        aged = self._changed and now_ms - self._snapshot_ms >= self._timing.snapshot_ms
        return aged or self._records >= self._timing.snapshot_records

    def _watch(self, worker: WorkerId, beat: int, now_ms: int) -> list[Action]:
        timing = self._timing
        other = self._others.setdefault(worker, _Other(heard_ms=now_ms))
        if other.buried_beat >= beat:
            return []
        silent_ms = now_ms - other.heard_ms
        if silent_ms > timing.silent_ms:
            other.buried_beat = beat
            return [Bury(victim=worker, beat=beat)]
        graced = now_ms - (self._attached_ms or 0) < self._grace_ms
        suspect = other.suspect or (silent_ms > timing.suspect_ms and not graced)
        last_ms = other.probed_ms
        if suspect and (last_ms is None or now_ms - last_ms >= timing.probe_again_ms):
            other.probed_ms = now_ms
            return [Probe(worker=worker, beat=beat)]
        return []
