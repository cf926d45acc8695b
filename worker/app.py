"""The composition root: the only place that builds concrete objects."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace

import orjson

from worker import __version__
from worker.broker.port import Link
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.ops import logs
from worker.parking.model import WorkerId
from worker.parking.slots import SlotTable
from worker.replica.follower import Replica
from worker.replica.streams import Names
from worker.run.clock import Clock
from worker.run.shell import Shell
from worker.run.topology import Queues
from worker.settings import Settings
from worker.trace.journal import journaled

GATHER_LOG_S = 0.02
"""How long an info line may wait for others: a killed worker takes so much to its grave."""

OpenLink = Callable[[], Awaitable[Link]]
WriteLog = Callable[[str, str, dict[str, object]], None]


def build_shell(
    settings: Settings, *, open_link: OpenLink, write_log: WriteLog, module: str = "park"
) -> Shell:
    """One worker, not yet running. ``module``: which callflow module's executes it serves."""
    clock = Clock()
    worker = WorkerId(secrets.token_hex(8))
    queues = Queues.of(settings.prefix, worker, module=module)
    table = SlotTable(loads=orjson.loads)
    config = EngineConfig(
        worker=worker,
        node=settings.node,
        inbox=queues.inbox,
        version=__version__,
        zone=settings.zone,
        compat=settings.compat,
        system=settings.system,
        accounts=settings.accounts,
        lamp_expires_s=settings.lamp_expires_s,
        reconcile_ms=settings.reconcile_s * 1000,
        patience_ms=settings.execute_patience_s * 1000,
        max_message_bytes=settings.max_message_bytes,
        started_at_ms=clock.now_ms(),
    )
    engine = Engine(config, table)
    if settings.trace is not None:
        engine, table = journaled(settings.trace, config, write_log=write_log)
    shell: Shell

    replica = Replica(
        table=table,
        worker=worker,
        prefix=settings.prefix,
        name=settings.node,
        settle_ms=settings.settle_ms,
        now_ms=clock.now_ms,
        on_changes=lambda changes: shell.changed(changes),  # noqa: PLW0108 - shell comes later
        write_log=write_log,
    )
    shell = Shell(
        engine=engine,
        replica=replica,
        table=table,
        queues=queues,
        open_link=open_link,
        now_ms=clock.now_ms,
        write_log=write_log,
        prefetch=settings.prefetch,
    )
    return shell


async def run_worker(
    settings: Settings,
    *,
    open_link: OpenLink,
    stop: asyncio.Event,
    once: bool = False,
    write_log: WriteLog | None = None,
    module: str = "park",
) -> None:
    """Serve until ``stop`` is set. Raises BrokerUnreachableError (once), BrokerTooOldError."""
    write = write_log or _write_log
    write("starting", "info", {"version": __version__, "node": settings.node})
    shell = build_shell(settings, open_link=open_link, write_log=write, module=module)
    await shell.run(stop, once=once)


def _write_log(event: str, level: str, fields: dict[str, object]) -> None:
    logs.log(event, level=level, **fields)


def run(settings: Settings, *, once: bool) -> int:
    """``kzpark run``: 0 after SIGTERM or SIGINT."""
    from worker.broker.rabbit import open_link

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        logs.configure(level=settings.log_level, shape=settings.log_format)
        logs.gather(lambda flush: loop.call_later(GATHER_LOG_S, flush))
        try:
            await run_worker(
                settings,
                open_link=lambda: open_link(",".join(settings.amqp_urls), name=settings.node),
                stop=stop,
                once=once,
            )
        finally:
            logs.gather(None)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())
    return 0


def demo(settings: Settings) -> int:
    """``kzpark demo``: 0 when every step happened, else 1."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_demo(settings))


async def _demo(settings: Settings) -> int:
    """Play apart from any real worker on the same broker: own queues, own module name."""
    from worker.broker.choice import chosen_broker
    from worker.demo import in_process, run_demo

    module = f"park_demo_{secrets.token_hex(3)}"
    own = replace(settings, prefix=f"{settings.prefix}.{module}")
    async with chosen_broker(settings.amqp_urls, given=settings.amqp_given) as broker:

        async def serve(stop: asyncio.Event, write_log: WriteLog) -> None:
            await run_worker(
                own,
                open_link=lambda: broker.open_link("kzpark demo worker"),
                stop=stop,
                once=True,
                write_log=write_log,
                module=module,
            )

        try:
            return await run_demo(
                open_link=lambda: broker.open_link("kzpark demo"),
                start_worker=in_process(serve, write_log=_write_log),
                broker=broker.description,
                module=module,
            )
        finally:
            await _remove_queues(await broker.open_link("kzpark demo clean-up"), own.prefix)


async def _remove_queues(link: Link, prefix: str) -> None:
    queues = Queues.of(prefix, WorkerId(""))
    streams = Names.of(prefix)
    for name in (queues.work, queues.dead, streams.log, streams.snapshots):
        await link.delete_queue(name)
    await link.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None
