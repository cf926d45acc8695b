"""Runs the demo: a simulated Kazoo, one worker, the scenes, and a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from rich.console import Console
from rich.markup import escape

from worker.broker.port import Link
from worker.demo.hosting import StartWorker
from worker.demo.scenes import SCENES
from worker.demo.stage import LAMP, OTHER_LAMP, Stage, StepFailedError
from worker.demo.timeline import Timeline
from worker.errors import WorkerError
from worker.switch import REALM, Switch, SwitchPlan
from worker.switch.callflow import LATE_RESULT

OpenLink = Callable[[], Awaitable[Link]]

SECONDS_MAX = 40.0
"""Longer than any run takes; a demo must not hang."""
LATE_S = 0.4
"""After the last scene: time for a message that should not come."""


async def run_demo(
    *,
    open_link: OpenLink,
    start_worker: StartWorker,
    broker: str,
    module: str = "park",
    console: Console | None = None,
) -> int:
    """Play all scenes and return the exit code: 0, or 1 when a step did not happen.

    ``broker`` says in words which broker is used; ``module`` is what the worker listens for: not
    ``park`` where real calls may be about. Raises BrokerError when it cannot be reached."""
    console = console or Console(highlight=False)
    started_s = time.monotonic()
    plan = SwitchPlan(watch_all_lamps=False, module=module, alone=False)
    link = await open_link()
    try:
        async with asyncio.timeout(SECONDS_MAX):
            async with Switch(link, plan=plan) as switch:
                console.print(f"broker: [bold]{escape(broker)}[/]")
                await _play(switch, start_worker, console)
    except StepFailedError as error:
        console.print(f"[bold red]demo failed:[/] {escape(str(error))}")
        return 1
    except TimeoutError:
        console.print(f"[bold red]demo failed:[/] it did not end within {SECONDS_MAX:g} s")
        return 1
    finally:
        await link.close()
    console.print(f"\n[bold green]All steps happened[/] in {time.monotonic() - started_s:.1f} s.")
    return 0


async def _play(switch: Switch, start_worker: StartWorker, console: Console) -> None:
    timeline = Timeline(console=console, switch=switch, slots=(LAMP, OTHER_LAMP))
    async with start_worker():
        stage = Stage(switch, timeline)
        for lamp in (LAMP, OTHER_LAMP):
            switch.watch(f"{lamp}@{REALM}")
        switch.on_line(timeline.line)
        for number, (title, scene) in enumerate(SCENES, 1):
            timeline.scene(number, title)
            try:
                await scene(stage)
            except WorkerError as error:
                timeline.failed(str(error))
                raise StepFailedError(f"{title}: {error}") from None
            await stage.breathe()
        await asyncio.sleep(LATE_S)
        _verdict(stage)


def _verdict(stage: Stage) -> None:
    """What must hold over all scenes. Raises StepFailedError."""
    stage.timeline.scene(len(SCENES) + 1, "Afterwards")
    vain = [
        line.dropped for line in stage.switch.dropped if not line.dropped.startswith(LATE_RESULT)
    ]
    stage.check(not vain, "no message was sent in vain" if not vain else f"sent in vain: {vain}")
    faults = stage.switch.core.kamailio.faults
    stage.check(not faults, "no lamp update was refused" if not faults else str(faults))
    doubled = [call.call_id for call in stage.calls if len(call.flow.results) > 1]
    stage.check(not doubled, "no call got two results")
    lamps = set(stage.switch.lamps.values())
    stage.check(lamps == {"off"}, "every lamp is out")
