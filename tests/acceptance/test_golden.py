"""Each recorded scenario of the reference, played against a worker that knows only AMQP."""

from __future__ import annotations

import pytest

from tests.acceptance.peer import Peer
from tests.acceptance.scenarios import SCENARIOS, Stage


@pytest.mark.parametrize("name", SCENARIOS)
def test_golden_scenario(peer: Peer, name: str) -> None:
    SCENARIOS[name](Stage(peer, name.partition("-")[0]))
