"""What a recording from outside can show, and so may be held against either side.

Not held against anybody: what was said on a direct exchange before it was tapped, what concerns
calls that were parked before the recording began, lamps said again only to outlast their Expires,
and what a worker that was about to be declared dead did not say any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worker.kapi.exchanges import Exchange
from worker.parking.model import WorkerId
from worker.trace.effects import Effect
from worker.trace.survey import Survey

DEATH_MS: Final = 8_000
"""A worker may have been dead for so long when the log says so."""
SAID_AGAIN_MS: Final = 30_000
"""A lit lamp said again after so long is a refresh."""
UNTIMELY: Final = frozenset({"refreshed", "returned", "adopted", "orphaned", "repaired"})
"""Reasons of lamp updates whose time or number depends on what no recording shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """Asked about effects that only one side has."""

    survey: Survey
    end_ms: int
    """When the recording ended."""
    tolerance_ms: int
    deaths: Mapping[WorkerId, int]
    said: tuple[Effect, ...]
    """Everything replay said."""

    def is_old(self, effect: Effect) -> bool:
        """About a call that was looked after before the recording began."""
        call_id = str(effect.payload.get("Call-ID"))
        session = str(effect.payload.get("Msg-ID"))
        return call_id in self.survey.old_calls or session in self.survey.old_sessions

    def counts_recorded(self, effect: Effect) -> bool:
        """Whether replay must say it, too."""
        if not effect.strict or self.is_old(effect):
            return False
        return effect.exchange != Exchange.PRESENCE or not (
            self._is_refresh(effect) or self._is_of_before(effect)
        )

    def _is_refresh(self, effect: Effect) -> bool:
        """A lit lamp said again, long after it was said."""
        if effect.payload.get("State") == "terminated":
            return False
        first = next(
            (
                other
                for other in self.said
                if other.channel == effect.channel and other.name == effect.name
            ),
            None,
        )
        return first is not None and effect.at_ms - first.at_ms >= SAID_AGAIN_MS

    def _is_of_before(self, effect: Effect) -> bool:
        """Of a lamp nobody lit in this trace: an answer from what a worker remembers."""
        if all(seen.joined for seen in self.survey.workers.values()):
            return False
        if str(effect.payload.get("Call-ID")) in self.survey.calls:
            return False
        channel = effect.channel.lower()
        return not any(other.channel.lower() == channel for other in self.said)

    def counts_replayed(self, effect: Effect) -> bool:
        """Whether the recording must hold it, too."""
        if not effect.strict or self.is_old(effect):
            return False
        if effect.at_ms > self.end_ms - self.tolerance_ms:
            return False
        died_ms = self.deaths.get(WorkerId(effect.worker))
        if died_ms is not None and effect.at_ms >= died_ms - DEATH_MS:
            return False
        if not effect.is_direct or not self.survey.tapped:
            return True
        since_ms = self.survey.tapped.get((effect.exchange, effect.key))
        return since_ms is not None and effect.at_ms >= since_ms
