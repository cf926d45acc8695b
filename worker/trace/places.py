"""Lines that were lost from a trace: their numbers tell."""

from __future__ import annotations

from collections.abc import Iterator

from worker.trace.differences import Difference, Kind
from worker.trace.lines import Trace


def lost_lines(trace: Trace, start_ms: int) -> Iterator[Difference]:
    """Lines that were taken out of the trace, or stand elsewhere: their numbers tell."""
    there = {n for n, _, _ in trace.places}
    highest = 0
    for n, at_ms, number in trace.places:
        if n < highest:
            yield Difference(
                kind=Kind.ORDER,
                subject=f"line n={n} of the trace stands after n={highest}",
                at_ms=at_ms - start_ms,
                line=number,
            )
        for lost in range(highest + 1, n):
            if lost not in there:
                yield Difference(
                    kind=Kind.MISSING,
                    subject=f"line n={lost} is gone from the trace",
                    at_ms=at_ms - start_ms,
                    line=number,
                )
        highest = max(highest, n)
