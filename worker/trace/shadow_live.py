"""Shadow mode on a live broker: what was seen is judged a few seconds later, in order.

The delay lets answers of the switch be known before our own question is put, and gives both sides
time to say what they have to say. Nothing is published.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from worker.broker.port import Link
from worker.trace.callflows import Callflows
from worker.trace.lines import Line, Message
from worker.trace.record import Recorder, Recording, now_ms
from worker.trace.shadow import AFTER_MS, Disagreement, Shadow, ShadowResult
from worker.trace.shadow_calls import LOOK_AHEAD_MS
from worker.trace.tap import Filters

DELAY_MS: Final = LOOK_AHEAD_MS + 500
STEP_S: Final = 0.25
KEPT: Final = 10_000
"""Disagreements kept for the summary."""

Tell = Callable[[Disagreement], None]


class _Nowhere:
    """A recording's output that is thrown away."""

    def write(self, data: bytes, /) -> object:
        return len(data)

    def flush(self) -> object:
        return None


async def watch(
    link: Link,
    callflows: Callflows,
    settings: Mapping[str, object],
    *,
    prefix: str,
    stop: asyncio.Event,
    seconds: float | None,
    tell: Tell,
    on_ready: Callable[[], None] = lambda: None,
) -> ShadowResult:
    """Watch until ``stop`` or so many seconds; each disagreement is told once it is certain.

    Raises BrokerError."""
    shadow = Shadow(callflows, settings)
    waiting: deque[Message] = deque()

    def take(line: Line) -> None:
        if isinstance(line, Message):
            shadow.learn(line)
            waiting.append(line)

    recording = Recording(out=_Nowhere(), edit=take)
    filters = Filters(routes=True)
    recorder = Recorder(
        link, recording, filters, prefix=prefix, with_log=False, on_ready=on_ready
    )
    found: deque[Disagreement] = deque(maxlen=KEPT)

    def judge(until_ms: int, silent_since_ms: int | None) -> None:
        while waiting and waiting[0].at_ms <= until_ms:
            shadow.feed(waiting.popleft())
        shadow.pass_time(until_ms)
        for one in shadow.settle(silent_since_ms):
            found.append(one)
            tell(one)

    running = asyncio.ensure_future(recorder.run(stop))
    loop = asyncio.get_running_loop()
    until_s = None if seconds is None else loop.time() + seconds
    try:
        while not running.done() and (until_s is None or loop.time() < until_s):
            await asyncio.wait({running}, timeout=STEP_S)
            at_ms = now_ms() - DELAY_MS
            judge(at_ms, at_ms - AFTER_MS)
        if running.done():
            running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    judge(now_ms(), None)
    return shadow.result(found)
