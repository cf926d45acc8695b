"""A spoiled trace is replayed or refused, never a traceback."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.trace.tape import parked_and_retrieved
from worker.trace.callflows import Callflows
from worker.trace.lines import NotATraceError, line_bytes, parse_trace
from worker.trace.recordings import messages_of
from worker.trace.redact import Redactor
from worker.trace.replay import replay
from worker.trace.shadow import Shadow

JUNK: tuple[Any, ...] = (None, True, 0, -1, 2**70, 1.5, "", "x", "\ud800", "*", "pid://")
JUNK += ("a" * 300, [], {}, [1])
ROWS = [json.loads(row) for row in parked_and_retrieved().rows(numbered=True)]


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place inside."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from spots(value[key], (*path, key))


def spoil(rows: list[Any], chance: random.Random) -> None:
    row = chance.choice(rows)
    found = list(spots(row))
    if not found:
        return
    *path, last = chance.choice(found)
    target = row
    for step in path:
        target = target[step]
    if isinstance(target, dict) and chance.random() < 0.2:
        del target[last]
    else:
        target[last] = chance.choice(JUNK)


@pytest.mark.parametrize("seed", range(40))
def test_a_spoiled_trace_is_replayed_or_refused(seed: int) -> None:
    chance = random.Random(seed)
    rows = copy.deepcopy(ROWS)
    for _ in range(chance.choice([1, 3, 10])):
        spoil(rows, chance)
    refusal = ""
    try:
        trace = parse_trace([json.dumps(row).encode() for row in rows])
        assert replay(trace).inputs >= 0
    except NotATraceError as error:
        refusal = str(error)
    if refusal:
        assert "\n" not in refusal
        return
    redactor = Redactor(b"k")
    for line in trace.lines:
        redacted = redactor.line(line)
        assert redacted is None or line_bytes(redacted)
    assert Shadow(Callflows(), trace.head.settings).run(messages_of(trace)).calls >= 0


def test_a_time_that_is_nonsense_is_refused() -> None:
    rows = copy.deepcopy(ROWS)
    rows[-1]["at_ms"] = 2**62
    with pytest.raises(NotATraceError, match="31 days"):
        replay(parse_trace([json.dumps(row).encode() for row in rows]))
