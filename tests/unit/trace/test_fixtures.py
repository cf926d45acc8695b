"""The traces in fixtures/traces replay: what the worker does has not changed unnoticed.

When it changed on purpose: ``kzpark replay --update fixtures/traces/*.jsonl``, and look at the
difference before it is committed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.unit.trace.platform_module import FOLDER
from worker.kapi import schema
from worker.trace.lines import read_trace
from worker.trace.replay import replay

TRACES = sorted(FOLDER.glob("*.jsonl"))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_a_trace_replays(path: Path) -> None:
    started_s = time.process_time()
    result = replay(read_trace(path))
    assert [str(one) for one in result.differences] == []
    assert result.effects > 10
    assert time.process_time() - started_s < 2


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_a_trace_obeys_the_schema(path: Path) -> None:
    validator = Draft202012Validator(schema.load_schema("trace"))
    for row in path.read_bytes().splitlines():
        assert list(validator.iter_errors(json.loads(row))) == []


def test_the_recorded_ones_are_redacted_or_played() -> None:
    heads = {path.stem: read_trace(path).head for path in TRACES}
    assert heads.keys() == {"demo", "killed-worker", "ten-minutes"}
    assert heads["demo"].redacted
