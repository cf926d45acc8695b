"""What holds in every scenario holds in random ones: nothing left over, nothing said wrongly."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.test_session_sequences import CALLS, play, steps
from tests.replay.scenario import EPILOGUE_MS, invariants
from tests.replay.stage import Stage
from tests.solo import make_config
from worker.parking.model import Compat

EXAMPLES = int(os.environ.get("KZTEST_EXAMPLES", "2000" if os.environ.get("CI") else "200"))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=steps, compat=st.sampled_from(Compat))
def test_any_sequence_keeps_the_rules_of_the_wire(
    script: list[tuple[str, Any]], compat: Compat
) -> None:
    stage = Stage(make_config(compat=compat))
    for kind, what in script:
        if kind == "execute":
            call_id, how, *_ = what
            stage.executes.setdefault(how["msg_id"], call_id)
        play(stage, kind, what)
    for call_id in CALLS:
        stage.destroy(call_id)
    stage.wait(EPILOGUE_MS)
    assert invariants(stage) == []
