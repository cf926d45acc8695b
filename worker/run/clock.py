"""The worker's clock: wall time that never jumps.

Deadlines are wall clock, so that a successor on another machine understands them; but a step of
the system clock must not fire or starve timers, so it is read once and then advanced by a clock
that also counts while the machine sleeps.
"""

from __future__ import annotations

import time

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """Milliseconds since 1970, monotonic."""

    def __init__(self) -> None:
        self._offset_ms = int(time.time() * 1000) - self._steady_ms()

    @staticmethod
    def _steady_ms() -> int:
        return time.clock_gettime_ns(_STEADY) // 1_000_000

    def now_ms(self) -> int:
        return self._offset_ms + self._steady_ms()
