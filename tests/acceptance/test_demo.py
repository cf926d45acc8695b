"""The demo on both brokers: it ends with 0, in time, and with 1 when a step does not happen."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from rich.console import Console

from worker.app import run_worker
from worker.broker.memory import MemoryBroker
from worker.broker.port import Link
from worker.broker.rabbit import open_link
from worker.demo import in_process, run_demo, stage
from worker.settings import Settings, read_settings

OpenLink = Callable[[], Awaitable[Link]]
SECONDS_MAX = 20.0


async def play(settings: Settings, connect: OpenLink) -> tuple[int, str]:
    """Exit code and what was printed."""
    troubles: list[tuple[str, dict[str, object]]] = []

    async def serve(stop: asyncio.Event, write_log: Callable[..., None]) -> None:
        await run_worker(settings, open_link=connect, stop=stop, once=True, write_log=write_log)

    start = in_process(
        serve, write_log=lambda event, _level, fields: troubles.append((event, fields))
    )
    screen = io.StringIO()
    code = await run_demo(
        open_link=connect, start_worker=start, broker="a test's", console=Console(file=screen)
    )
    assert troubles == []
    return code, screen.getvalue()


def assert_complete(code: int, printed: str, started_s: float) -> None:
    assert code == 0, printed
    assert "All steps happened" in printed
    assert "✗" not in printed
    assert "dropped" not in printed
    assert time.monotonic() - started_s < SECONDS_MAX


async def test_the_demo_plays_on_the_in_memory_broker() -> None:
    started_s = time.monotonic()
    code, printed = await play(read_settings(), MemoryBroker().open_link)
    assert_complete(code, printed, started_s)


async def test_the_demo_plays_on_rabbitmq(vhost_url: str) -> None:
    async def connect() -> Link:
        return await open_link(vhost_url, name="demo")

    started_s = time.monotonic()
    code, printed = await play(read_settings(), connect)
    assert_complete(code, printed, started_s)


async def test_a_step_that_does_not_happen_ends_it_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PATIENCE_S", 0.1)

    @contextlib.asynccontextmanager
    async def no_worker() -> AsyncIterator[None]:
        yield

    screen = io.StringIO()
    code = await run_demo(
        open_link=MemoryBroker().open_link,
        start_worker=no_worker,
        broker="nobody's",
        console=Console(file=screen, width=200),
    )
    assert code == 1
    last = screen.getvalue().strip().splitlines()[-1]
    assert last.startswith("demo failed: Blind park, and the ringback is answered: Alice is parked")
