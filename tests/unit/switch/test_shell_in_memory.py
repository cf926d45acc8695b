"""The switch's shell on the in-memory broker."""

from __future__ import annotations

import pytest

from tests.unit.switch.shell_cases import CASES
from worker.broker.memory import MemoryBroker


@pytest.mark.parametrize("name", CASES)
async def test_on_the_in_memory_broker(name: str) -> None:
    await CASES[name](MemoryBroker().open_link)
