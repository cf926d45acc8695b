"""Pairs what a trace holds with what replay says, and tells what is left over.

Within a channel an effect pairs with the first free one of the same name on the other side, one
with the same Msg-ID before all others. Pairing happens while replay runs, because ids learned from
a pair are needed to understand the answers that quote them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final

from worker.trace.differences import Difference, FieldChange, Kind, field_changes
from worker.trace.effects import QUESTIONS, Effect, made_up_ids

Plain = Mapping[str, object]

TOLERANCE_MS: Final = 250
"""How much later than its cause an effect may be seen, beyond what is usual in the trace."""
MOST_FIELDS: Final = 8
"""Two effects without a partner that differ in more fields are two differences, not one."""


@dataclass(frozen=True, slots=True)
class Pair:
    recorded: Effect
    replayed: Effect
    changes: tuple[FieldChange, ...] = ()


@dataclass(slots=True)
class _Channel:
    recorded: list[Effect] = field(default_factory=list)
    replayed: list[Effect] = field(default_factory=list)
    free_recorded: list[Effect] = field(default_factory=list)
    free_replayed: list[Effect] = field(default_factory=list)
    pairs: list[tuple[Effect, Effect]] = field(default_factory=list)


@dataclass(slots=True)
class Matcher:
    """Give it both sides as they come. ``ids``: recorded id → the id replay gave it. ``exact``: ids
    that sessions make up must be the same on both sides."""

    exact: bool = False
    ids: dict[str, str] = field(default_factory=dict)
    on_pair: Callable[[Effect, Effect], None] | None = None
    pairs: list[tuple[Effect, Effect]] = field(default_factory=list)
    _channels: dict[str, _Channel] = field(default_factory=lambda: defaultdict(_Channel))

    def recorded(self, effect: Effect) -> bool:
        """Something the trace holds; whether it has its partner already."""
        channel = self._channels[effect.channel]
        channel.recorded.append(effect)
        twin = self._partner(effect, channel.free_replayed)
        if twin is None:
            channel.free_recorded.append(effect)
            return False
        channel.free_replayed.remove(twin)
        self._pair(channel, effect, twin)
        return True

    def replayed(self, effect: Effect) -> bool:
        """Something replay says."""
        channel = self._channels[effect.channel]
        channel.replayed.append(effect)
        twin = self._partner(effect, channel.free_recorded)
        if twin is None:
            channel.free_replayed.append(effect)
            return False
        channel.free_recorded.remove(twin)
        self._pair(channel, twin, effect)
        return True

    def is_free(self, effect: Effect) -> bool:
        """Whether a recorded effect still has no partner."""
        return any(effect is free for free in self._channels[effect.channel].free_recorded)

    def has_free_id(self, identifier: str) -> bool:
        """Whether a recorded effect without a partner made that id up."""
        return any(
            identifier == value
            for channel in self._channels.values()
            for effect in channel.free_recorded
            for _, value in made_up_ids(effect.payload)
        )

    def _pair(self, channel: _Channel, recorded: Effect, replayed: Effect) -> None:
        channel.pairs.append((recorded, replayed))
        self.pairs.append((recorded, replayed))
        theirs = dict(made_up_ids(replayed.payload))
        for pointer, value in made_up_ids(recorded.payload):
            if pointer in theirs:
                self.ids.setdefault(value, theirs[pointer])
        if self.on_pair is not None:
            self.on_pair(recorded, replayed)

    def _partner(self, effect: Effect, free: list[Effect]) -> Effect | None:
        same = [other for other in free if other.name == effect.name]
        msg_id = effect.payload.get("Msg-ID")
        twin = next((other for other in same if other.payload.get("Msg-ID") == msg_id), None)
        if twin is None and same and not (self.exact and not _made_by_worker(effect)):
            twin = same[0]
        return twin

    def finished(self, before_ms: int) -> Matcher:
        """Take the channels out in which nothing was said since ``before_ms``."""
        taken = Matcher(exact=self.exact, ids=self.ids)
        for name, channel in list(self._channels.items()):
            newest = max(e.at_ms for e in (*channel.recorded, *channel.replayed))
            if newest < before_ms:
                taken._channels[name] = self._channels.pop(name)
                taken.pairs += channel.pairs
        gone = {id(recorded) for recorded, _ in taken.pairs}
        self.pairs = [pair for pair in self.pairs if id(pair[0]) not in gone]
        return taken

    # ---- what is left ---------------------------------------------------------------------------

    def free_recorded(self) -> list[Effect]:
        return [e for channel in self._channels.values() for e in channel.free_recorded]

    def free_replayed(self) -> list[Effect]:
        return [e for channel in self._channels.values() for e in channel.free_replayed]

    def compared(self) -> list[Pair]:
        """Every pair with the fields that differ."""
        return [
            Pair(recorded, replayed, tuple(self._changes(recorded, replayed)))
            for recorded, replayed in self.pairs
        ]

    def _changes(self, recorded: Effect, replayed: Effect) -> Iterator[FieldChange]:
        ours, theirs = dict(made_up_ids(recorded.payload)), dict(made_up_ids(replayed.payload))
        exact = self.exact and not _made_by_worker(replayed)
        free = set(recorded.ignored)
        for pointer in ours.keys() & theirs.keys():
            if not exact and self.ids.get(ours[pointer]) == theirs[pointer]:
                free.add(pointer)
        yield from field_changes(recorded.payload, replayed.payload, ignore=frozenset(free))
        yield from field_changes(dict(recorded.headers), dict(replayed.headers), pointer="headers")
        if recorded.key != replayed.key:
            yield FieldChange(
                pointer="routing key", recorded=recorded.key, replayed=replayed.key
            )

    def out_of_order(self) -> Iterator[tuple[Effect, Effect]]:
        """Pairs that stand at another place of their channel."""
        for name, channel in self._channels.items():
            if name.startswith(QUESTIONS):
                continue  # of several sessions: nothing depends on who asks first
            place = {id(effect): number for number, effect in enumerate(channel.recorded)}
            rank = {id(effect): number for number, effect in enumerate(channel.replayed)}
            pairs = sorted(channel.pairs, key=lambda pair: rank[id(pair[1])])
            in_order = _longest_rise([place[id(recorded)] for recorded, _ in pairs])
            yield from (pair for number, pair in enumerate(pairs) if number not in in_order)


def _made_by_worker(effect: Effect) -> bool:
    """Lamps and questions about configuration count over a worker's whole life, which no recording
    from outside has seen from its start."""
    return effect.exchange in {"presence", "sysconf"}


def _longest_rise(numbers: list[int]) -> set[int]:
    """Indices of a longest increasing subsequence."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for index, number in enumerate(numbers):
        at = bisect_left(tails, number)
        before.append(ends[at - 1] if at else -1)
        if at == len(tails):
            tails.append(number)
            ends.append(index)
        else:
            tails[at], ends[at] = number, index
    chosen: set[int] = set()
    index = ends[-1] if ends else -1
    while index >= 0:
        chosen.add(index)
        index = before[index]
    return chosen


# ---- differences --------------------------------------------------------------------------------


def usual_delay_ms(pairs: list[Pair]) -> int:
    """How much later than replay says a trace usually has an effect."""
    delays = [pair.recorded.at_ms - pair.replayed.at_ms for pair in pairs]
    return max(0, int(median(delays))) if delays else 0


def pair_differences(
    pairs: list[Pair], *, tolerance_ms: int, start_ms: int
) -> Iterator[Difference]:
    """Changed fields and times that are off."""
    late_ms = tolerance_ms + usual_delay_ms(pairs)
    for pair in pairs:
        recorded, replayed = pair.recorded, pair.replayed
        delay_ms = recorded.at_ms - replayed.at_ms
        kinds = [Kind.CHANGED] if pair.changes else []
        if replayed.strict and recorded.strict:
            kinds += [Kind.LATE] if delay_ms > late_ms else []
            kinds += [Kind.EARLY] if delay_ms < -tolerance_ms else []
        for kind in kinds:
            yield difference(
                kind,
                start_ms=start_ms,
                recorded=recorded,
                replayed=replayed,
                fields=pair.changes if kind is Kind.CHANGED else (),
            )


def left_over(
    recorded: list[Effect], replayed: list[Effect], *, tolerance_ms: int, start_ms: int
) -> Iterator[Difference]:
    """Differences for effects without a partner; two that are nearly the same make one."""
    rest = list(replayed)
    for effect in recorded:
        twin, changes = _nearest(effect, rest, tolerance_ms)
        if twin is None:
            yield difference(Kind.MISSING, start_ms=start_ms, recorded=effect)
        else:
            rest.remove(twin)
            yield difference(
                Kind.CHANGED, start_ms=start_ms, recorded=effect, replayed=twin, fields=changes
            )
    for effect in rest:
        yield difference(Kind.UNEXPECTED, start_ms=start_ms, replayed=effect)


def _nearest(
    effect: Effect, others: list[Effect], tolerance_ms: int
) -> tuple[Effect | None, tuple[FieldChange, ...]]:
    best: Effect | None = None
    least: tuple[FieldChange, ...] = ()
    for other in others:
        if other.exchange != effect.exchange or abs(other.at_ms - effect.at_ms) > tolerance_ms:
            continue
        changes = tuple(
            change
            for change in field_changes(effect.payload, other.payload)
            if change.pointer not in effect.ignored
        )
        if len(changes) <= MOST_FIELDS and (best is None or len(changes) < len(least)):
            best, least = other, changes
    return best, least


def difference(
    kind: Kind,
    *,
    start_ms: int,
    recorded: Effect | None = None,
    replayed: Effect | None = None,
    fields: tuple[FieldChange, ...] = (),
) -> Difference:
    """One difference between (or at) two effects."""
    known = recorded or replayed
    if known is None:
        raise ValueError("a difference has at least one side")
    return Difference(
        kind=kind,
        subject=known.subject,
        at_ms=known.at_ms - start_ms,
        channel=known.channel,
        line=recorded.line if recorded is not None else 0,
        recorded=None if recorded is None else recorded.payload,
        replayed=None if replayed is None else replayed.payload,
        recorded_at_ms=None if recorded is None else recorded.at_ms - start_ms,
        replayed_at_ms=None if replayed is None else replayed.at_ms - start_ms,
        fields=fields,
        reason="" if replayed is None else replayed.reason,
    )


def is_repeat(effect: Effect, before: Effect) -> bool:
    """Whether it says the same again."""
    ignore = frozenset({"/Msg-ID"})
    return not any(field_changes(before.payload, effect.payload, ignore=ignore))


def repeats(effects: list[Effect]) -> Iterator[tuple[Effect, Effect]]:
    """(earlier, later) neighbours of one channel that say the same."""
    for before, after in pairwise(effects):
        if is_repeat(after, before):
            yield before, after
