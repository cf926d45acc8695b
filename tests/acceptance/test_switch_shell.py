"""The switch's shell on RabbitMQ."""

from __future__ import annotations

import pytest

from tests.unit.switch.shell_cases import CASES
from worker.broker.port import Link
from worker.broker.rabbit import open_link


@pytest.mark.parametrize("name", CASES)
async def test_on_rabbitmq(vhost_url: str, name: str) -> None:
    async def connect() -> Link:
        return await open_link(vhost_url, name=name)

    await CASES[name](connect)
