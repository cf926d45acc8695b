"""What the lamp book remembers of lamps that are not lit: bounded, oldest forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.parking.lamp import Lamp, LampKey, Spelling, folded
from worker.parking.model import WorkerId

MAX_SPELLINGS = 4
"""Letter cases remembered per presentity."""


@dataclass(slots=True)
class Place:
    """A presentity, whatever its letter case."""

    own: dict[Spelling, None] = field(default_factory=dict)
    """As slots spell it."""
    learned: dict[Spelling, None] = field(default_factory=dict)
    """As phones subscribed to it, where that is no slot's own spelling."""
    dark_ms: int | None = None
    """When a dialog last ended here."""

    def spellings(self, lamp: Lamp) -> list[Spelling]:
        """How to address ``lamp``: its own spelling first."""
        return [lamp.spelling, *(one for one in self.learned if one not in self.own)]


class KnownPlaces:
    """The presentities that are known to be some slot's."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: OrderedDict[Spelling, Place] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, place: Spelling) -> Place | None:
        return self._places.get(place)

    def at(self, spelling: Spelling) -> Place:
        """The place some slot spells so; known from now on."""
        key = folded(*spelling)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place()
            if len(self._places) > self._limit:
                self._places.popitem(last=False)
        else:
            self._places.move_to_end(key)
        if spelling not in place.own:
            _add(place.own, spelling)
        return place

    def learn(self, spelling: Spelling) -> None:
        """A phone spells a known place so."""
        place = self._places.get(folded(*spelling))
        if place is not None and spelling not in place.own:
            _add(place.learned, spelling)


def _add(spellings: dict[Spelling, None], spelling: Spelling) -> None:
    spellings.pop(spelling, None)
    spellings[spelling] = None
    if len(spellings) > MAX_SPELLINGS:
        del spellings[next(iter(spellings))]


@dataclass(slots=True)
class Ended:
    """A dialog that is over."""

    lamp: Lamp
    spoken: tuple[Spelling, ...]
    """Under which spellings it was lit."""
    at_ms: int
    owner: WorkerId | None = None
    """Whose duty it was to say so; None: nobody else's."""
    said: bool = False
    """We said so."""


class EndedLamps:
    """The dialogs that ended within the last ``keep_ms``."""

    def __init__(self, limit: int, keep_ms: int) -> None:
        self._limit = limit
        self._keep_ms = keep_ms
        self._ended: OrderedDict[LampKey, Ended] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ended)

    def __iter__(self) -> Iterator[Ended]:
        return iter(list(self._ended.values()))

    def find(self, key: LampKey) -> Ended | None:
        return self._ended.get(key)

    def forget(self, key: LampKey) -> None:
        self._ended.pop(key, None)

    def add(self, ended: Ended, now_ms: int) -> None:
        self._ended.pop(ended.lamp.key, None)
        self._ended[ended.lamp.key] = ended
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if len(self._ended) <= self._limit and now_ms - oldest.at_ms <= self._keep_ms:
                return
            self._ended.popitem(last=False)
