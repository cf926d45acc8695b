"""One event loop per simulated worker process, on the zone's virtual clock.

A process that is stopped (SIGSTOP) is simply not stepped: its timers and its mail wait. A process
that is killed is never stepped again.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import base_events, events
from collections.abc import Callable
from typing import Any

from tests.simulation.agenda import Agenda

RESOLUTION_S = 0.0004
MOST_TURNS = 100_000


class _NothingToSelect:
    def select(self, _timeout: float | None) -> tuple[()]:
        return ()


class VirtualLoop(base_events.BaseEventLoop):
    """Never waits: `run_ready` runs what is due at the agenda's time."""

    def __init__(self, agenda: Agenda, on_error: Callable[[str], None]) -> None:
        super().__init__()
        self._agenda = agenda
        self._selector = _NothingToSelect()
        self._clock_resolution = RESOLUTION_S
        self.set_exception_handler(lambda _loop, context: on_error(_told(context)))

    def time(self) -> float:
        return self._agenda.elapsed_ms / 1000

    def _process_events(self, _events: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_ready(self) -> int | None:
        """Run until nothing is due; returns the agenda's time of the next timer."""
        events._set_running_loop(self)
        try:
            turns = 0
            while True:
                self._run_once()  # type: ignore[attr-defined]
                turns += 1
                if turns > MOST_TURNS:
                    raise AssertionError("a worker spins without time passing")
                at_s = self._next_s()
                ready = self._ready  # type: ignore[attr-defined]
                if not ready and (at_s is None or at_s >= self.time() + RESOLUTION_S):
                    break
        finally:
            events._set_running_loop(None)
        if at_s is None:
            return None
        return self._agenda.now_ms + max(math.ceil((at_s - self.time() - RESOLUTION_S) * 1000), 0)

    def _next_s(self) -> float | None:
        scheduled: list[asyncio.TimerHandle]
        scheduled = self._scheduled  # type: ignore[attr-defined]
        alive = (handle.when() for handle in scheduled[:1] if not handle.cancelled())
        first = next(alive, None)
        if first is None and scheduled:
            first = min((h.when() for h in scheduled if not h.cancelled()), default=None)
        return first

    def abandon(self) -> None:
        """Let every task end without a word, for a process that is no more."""
        for _ in range(20):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                break
            for task in sorted(tasks, key=lambda each: each.get_name()):
                task.cancel()
            self.run_ready()
        self.close()


def _told(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
