"""The worker the demo plays with: a coroutine of this process, ready before the first call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from worker.errors import WorkerError

WriteLog = Callable[[str, str, dict[str, object]], None]
Run = Callable[[asyncio.Event, WriteLog], Awaitable[None]]
"""Serves until the event is set, saying ``ready`` to the log once it consumes."""
StartWorker = Callable[[], AbstractAsyncContextManager[object]]
"""Entered: a worker on the same broker serves ``callflow.action.park``. Left: it has stopped."""

READY_S = 15.0


def in_process(run: Run, *, write_log: WriteLog) -> StartWorker:
    """Start ``run`` beside the demo. Warnings and errors of the worker go to ``write_log``."""

    @contextlib.asynccontextmanager
    async def started() -> AsyncIterator[None]:
        stop, ready = asyncio.Event(), asyncio.Event()

        def listen(event: str, level: str, fields: dict[str, object]) -> None:
            if event == "ready":
                ready.set()
            if level in {"warning", "error"}:
                write_log(event, level, fields)

        serving = asyncio.ensure_future(run(stop, listen))
        waiting = asyncio.ensure_future(ready.wait())
        try:
            await asyncio.wait(
                {serving, waiting}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED
            )
            if serving.done():
                serving.result()
            if not ready.is_set():
                raise WorkerError("the worker did not become ready")
            yield
        finally:
            waiting.cancel()
            stop.set()
            await serving

    return started
