"""Virtual time: one agenda for the whole zone, and pipes that delay messages without reordering.

Everything that happens in a simulated zone is an entry here. Entries of the same millisecond run in
random (but, by seed, repeatable) order.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

START_MS = 1_800_000_000_000

Item = TypeVar("Item")


class Agenda:
    """What happens when. ``random`` is the run's only source of chance."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_ms = START_MS
        self.steps = 0
        self.after_step: Callable[[], object] = lambda: None
        self._count = itertools.count()
        self._heap: list[tuple[int, float, int, Callable[[], object]]] = []

    @property
    def elapsed_ms(self) -> int:
        return self.now_ms - START_MS

    def at(self, at_ms: int, action: Callable[[], object]) -> None:
        when = max(at_ms, self.now_ms)
        heapq.heappush(self._heap, (when, self.random.random(), next(self._count), action))

    def after(self, delay_ms: int, action: Callable[[], object]) -> None:
        self.at(self.now_ms + delay_ms, action)

    def run_until(self, until_ms: int) -> None:
        while self._heap and self._heap[0][0] <= until_ms:
            at_ms, _, _, action = heapq.heappop(self._heap)
            self.now_ms = max(self.now_ms, at_ms)
            self.steps += 1
            action()
            self.after_step()
        self.now_ms = max(self.now_ms, until_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Climate:
    """How slow the network is: mostly ``usual_ms``, now and then up to ``worst_ms``."""

    usual_ms: int
    worst_ms: int
    slow: float
    """Share of slow messages."""

    def delay_ms(self, random: Random) -> int:
        if random.random() < self.slow:
            return random.randint(self.usual_ms, self.worst_ms)
        return random.randint(0, self.usual_ms)


class Pipe(Generic[Item]):
    """First in, first out, each item after a random delay."""

    def __init__(self, agenda: Agenda, climate: Climate, deliver: Callable[[Item], None]) -> None:
        self._agenda = agenda
        self._climate = climate
        self._deliver = deliver
        self._items: deque[tuple[int, Item]] = deque()
        self._last_ms = 0
        self._not_before_ms = 0

    def put(self, item: Item) -> None:
        agenda = self._agenda
        at_ms = agenda.now_ms + self._climate.delay_ms(agenda.random)
        self._last_ms = max(self._last_ms, at_ms, self._not_before_ms)
        self._items.append((self._last_ms, item))
        agenda.at(self._last_ms, self._fire)

    def stall(self, until_ms: int) -> None:
        """Nothing comes out before then."""
        self._not_before_ms = max(self._not_before_ms, until_ms)
        self._agenda.at(until_ms, self._flush)

    def cut(self) -> None:
        """The connection breaks: of what is under way, the first few may still arrive."""
        for _ in range(self._agenda.random.randint(0, len(self._items))):
            self._items.pop()

    def _fire(self) -> None:
        if self._items and self._agenda.now_ms >= max(self._items[0][0], self._not_before_ms):
            self._deliver(self._items.popleft()[1])

    def _flush(self) -> None:
        for _ in range(len(self._items)):
            self._fire()
