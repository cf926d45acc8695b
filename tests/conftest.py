"""What every test gets: a clean environment, markers by folder, and the broker's URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from worker.broker.private_node import answers, private_node, server_script

pytest_plugins = ("tests.rabbit",)

TESTS = Path(__file__).parent
# Elsewhere every run tries new examples; CI tries the same ones for the same code, so that what it
# says of a commit does not depend on luck. No deadline: the first example may load the schemas.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")
DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
AMQP_URL = os.environ.get("KZPARK_AMQP_URL", "")
"""Read before `no_settings` hides it."""
MARKERS_OF_FOLDER = {
    "integration": ("broker",),
    "acceptance": ("broker",),
    "process": ("broker",),
    "lamps": ("broker", "lamps"),
    "chaos": ("broker", "chaos"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder says what it needs; a marker in the file may say more."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        for marker in MARKERS_OF_FOLDER.get(folder, ()):
            item.add_marker(marker)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``KZPARK_*`` of the developer's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith("KZPARK_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def amqp_url() -> Iterator[str]:
    """URL of a real RabbitMQ, a private one if need be. Without one skipped, but in CI failed."""
    if AMQP_URL:
        yield AMQP_URL
    elif answers(5672):
        yield DEFAULT_URL
    elif server_script() is not None:
        with private_node() as node:
            yield node.url
    else:
        reason = "no RabbitMQ: set KZPARK_AMQP_URL or use ./test, which gets one"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
