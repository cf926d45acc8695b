"""The commands ``record`` and ``replay``: arguments in, exit codes out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from worker.errors import BrokerError, UsageError
from worker.settings import Settings
from worker.trace.config_plain import parse_overrides, settings_to_plain
from worker.trace.lines import read_trace
from worker.trace.tap import Filters

EXIT_DIFFERENT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """What `record` was asked for."""

    out: Path | None = None
    accounts: tuple[str, ...] = ()
    call_ids: tuple[str, ...] = ()
    routes: bool = False
    redact: bool = False
    seconds: float | None = None
    most: int | None = None


def run_record(settings: Settings, options: RecordOptions) -> int:
    """Record until SIGINT or SIGTERM (0), or until a limit (0). Raises BrokerError, UsageError."""
    with _output(options.out) as out:
        reason, count = asyncio.run(_record(settings, options, out))
    print(f"kzpark: {count} lines recorded ({reason})", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[IO[bytes]]:
    """The file, readable by its owner only, or stdout."""
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        yield file


async def _record(settings: Settings, options: RecordOptions, out: IO[bytes]) -> tuple[str, int]:
    from worker.broker.rabbit import open_link
    from worker.trace.record import Recorder, Recording, head_of
    from worker.trace.redact import Redactor

    stop = stopped_by_signals()
    link = await open_link(",".join(settings.amqp_urls), name="kzpark record")
    filters = Filters(
        accounts=frozenset(options.accounts),
        call_ids=frozenset(options.call_ids),
        routes=options.routes,
    )
    redactor = Redactor() if options.redact else None
    recording = Recording(
        out=out, edit=None if redactor is None else redactor.line, most=options.most
    )
    recording.head(head_of(filters, settings_to_plain(settings), redacted=options.redact))
    recorder = Recorder(link, recording, filters, prefix=settings.prefix)
    reason = "connection lost"
    try:
        async with asyncio.timeout(options.seconds):
            reason = await recorder.run(stop)
    except TimeoutError:
        reason = "time is up"
    except BrokerError as error:
        recording.end(str(error))
        raise
    finally:
        await link.close()
    recording.end(reason)
    return reason, recording.written


def stopped_by_signals() -> asyncio.Event:
    """Set by SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


# ---- replay -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What `replay` was asked for."""

    paths: tuple[Path, ...]
    settings: tuple[str, ...] = ()
    """``NAME=VALUE`` pairs that win over what the trace says."""
    tolerance_ms: int = 250
    update: bool = False


def run_replay(options: ReplayOptions) -> int:
    """0 all equal, 1 something differs. Raises UsageError (not a trace)."""
    from worker.trace.journal_replay import replay_journal
    from worker.trace.replay import replay
    from worker.trace.report import Report
    from worker.trace.update import update_journal, update_trace

    overrides = parse_overrides(list(options.settings))
    report = Report()
    different = False
    for path in options.paths:
        trace = read_trace(path)
        if trace.is_journal:
            journal = replay_journal(trace)
            report.journal(path, journal)
            if options.update and journal.differences:
                update_journal(path, journal)
            different = different or bool(journal.differences)
        else:
            result = replay(trace, overrides=overrides, tolerance_ms=options.tolerance_ms)
            report.recording(path, result)
            if options.update:
                update_trace(path, trace, result, overrides)
            different = different or bool(result.differences)
    return EXIT_DIFFERENT if different and not options.update else 0
