"""What the replica has done, for metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WriteLog = Callable[[str, str, dict[str, object]], None]
"""One line for the operator: event, level, fields."""


@dataclass(slots=True)
class Counters:
    """Totals since the process began."""

    applied: int = 0
    junk: int = 0
    """Records that could not be read and were skipped."""
    appended: int = 0
    returned: int = 0
    """Publishes the broker could not route or refused."""
    epochs: int = 0
    rebuilt: int = 0
    """Times the state was given up and read anew."""
    snapshots: int = 0
