"""Histories: what each process of a run saw, one JSON object a line.

Every line has ``e`` (what), and ``t``, nanoseconds of CLOCK_MONOTONIC, which all processes of one
machine share.

- ``start``: worker
- ``invoke``: op, kind (``claim``, ``retrieve``, ``release``, ``close``), session, and for claims
  attempt and slot ("" = automatic); for releases holder and slot
- ``ok``: op, outcome, slot, offset. Written before the process believes it itself.
- ``apply``: one log record as a replica applied it: log (names the log), o (offset), c (changes as
  lists, see `change_rows`), d (digest of the table)
- ``final``: log, o, d, held (slot to session): the table when all is quiet
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from worker.parking.changes import (
    Change,
    ClaimDecided,
    Released,
    RetrieveDecided,
    RetrieveEnded,
)

Line = dict[str, Any]


def change_rows(changes: Iterable[Change]) -> list[list[str | int]]:
    """The changes that matter for slots: who got what, who freed it.

    ``["claim", session, attempt, outcome, slot]`` and ``["retrieve", …]`` alike,
    ``["retrieve_end", session, slot]``, ``["free", session, slot, reason]``."""
    rows: list[list[str | int]] = []
    for change in changes:
        match change:
            case ClaimDecided():
                entry = change.entry or change.previous
                slot = entry.slot if entry else ""
                rows.append(["claim", change.session, change.attempt, change.outcome.value, slot])
            case RetrieveDecided():
                slot = change.entry.slot if change.entry else ""
                rows.append(
                    ["retrieve", change.session, change.attempt, change.outcome.value, slot]
                )
            case RetrieveEnded():
                rows.append(["retrieve_end", change.session, change.entry.slot])
            case Released():
                entry = change.entry
                rows.append(["free", entry.session, entry.slot, change.reason.value])
            case _:
                pass
    return rows


class Recorder:
    """Writes one process's history; a line is with the kernel when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, event: str, **fields: object) -> None:
        line = orjson.dumps({"e": event, "t": time.monotonic_ns(), **fields})
        os.write(self._file, line + b"\n")


def read(path: Path) -> Iterator[Line]:
    """The lines of one file; a last one cut off by a kill is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def read_all(folder: Path) -> list[Sequence[Line]]:
    """The histories of a run, one for each process."""
    return [list(read(path)) for path in sorted(folder.glob("*.jsonl"))]
