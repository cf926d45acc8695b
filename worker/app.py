"""The composition root: the only place that builds concrete objects."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Awaitable, Callable

import orjson

from worker import __version__
from worker.broker.port import Link
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.ops import logs
from worker.parking.model import WorkerId
from worker.parking.slots import SlotTable
from worker.replica.follower import Replica
from worker.run.clock import Clock
from worker.run.shell import Shell
from worker.run.topology import Queues
from worker.settings import Settings

OpenLink = Callable[[], Awaitable[Link]]
WriteLog = Callable[[str, str, dict[str, object]], None]


def build_shell(settings: Settings, *, open_link: OpenLink, write_log: WriteLog) -> Shell:
    """One worker, not yet running."""
    clock = Clock()
    worker = WorkerId(secrets.token_hex(8))
    queues = Queues.of(settings.prefix, worker)
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
) -> None:
    """Serve until ``stop`` is set. Raises BrokerUnreachableError (once), BrokerTooOldError."""
    write = write_log or _write_log
    write("starting", "info", {"version": __version__, "node": settings.node})
    await build_shell(settings, open_link=open_link, write_log=write).run(stop, once=once)


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
        await run_worker(
            settings,
            open_link=lambda: open_link(",".join(settings.amqp_urls), name=settings.node),
            stop=stop,
            once=once,
        )

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None
