"""The commands ``record`` and ``replay``: arguments in, exit codes out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from worker.errors import BrokerError, UsageError
from worker.settings import Settings
from worker.trace.config_plain import merged, parse_overrides, settings_to_plain
from worker.trace.lines import NotATraceError, read_trace
from worker.trace.tap import Filters

if TYPE_CHECKING:
    from worker.trace.callflows import Callflows
    from worker.trace.shadow_report import ShadowReport

EXIT_DIFFERENT = 1
NO_SETTINGS = (
    "no worker told its settings (each does every 5 to 15 s): replay takes this environment's, "
    "or what you give it with --set"
)


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
        try:
            reason, count = asyncio.run(_record(settings, options, out))
        except BrokenPipeError:
            raise
        except OSError as error:
            where = options.out or "stdout"
            raise UsageError(f"{where}: cannot be written: {error.strerror}") from error
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
    recorder = Recorder(
        link,
        recording,
        filters,
        prefix=settings.prefix,
        on_ready=lambda: print("kzpark: recording, until Ctrl-C", file=sys.stderr, flush=True),
    )
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
    if not recorder.heard_settings:
        print(f"kzpark: {NO_SETTINGS}", file=sys.stderr)
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
            if options.update and journal.differences:
                update_journal(path, journal)
            report.journal(path, journal)
            different = different or bool(journal.differences)
        else:
            result = replay(trace, overrides=overrides, tolerance_ms=options.tolerance_ms)
            if options.update:
                update_trace(path, trace, result, overrides)
            report.recording(path, result)
            different = different or bool(result.differences)
    return EXIT_DIFFERENT if different and not options.update else 0


# ---- shadow -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowOptions:
    """What `shadow` was asked for."""

    callflows: tuple[Path, ...] = ()
    recordings: tuple[Path, ...] = ()
    traces: tuple[Path, ...] = ()
    settings: tuple[str, ...] = ()
    seconds: float | None = None
    as_json: bool = False


def run_shadow(read: Callable[[], Settings], options: ShadowOptions) -> int:
    """0 no unexplained disagreement, 1 some. Raises BrokerError (live), UsageError.

    ``read`` reads the settings, which only a live broker needs."""
    from worker.trace.callflows import read_callflows
    from worker.trace.recordings import messages_of, read_recording
    from worker.trace.shadow import Shadow
    from worker.trace.shadow_report import ShadowReport

    callflows = read_callflows(options.callflows)
    overrides = parse_overrides(list(options.settings))
    report = ShadowReport(as_json=options.as_json)
    if not options.recordings and not options.traces:
        return asyncio.run(_shadow(read(), callflows, overrides, report, options.seconds))
    useless: list[NotATraceError] = []
    files = [file for path in options.recordings for file in _files(path)]
    for path in files:
        try:
            recording = read_recording(path)
        except NotATraceError as error:
            useless.append(error)
            continue
        result = Shadow(callflows, overrides).run(recording.messages, recording.outcomes)
        report.whole(str(path), result)
    _complain(useless, of=len(files))
    for path in options.traces:
        trace = read_trace(path)
        messages = list(messages_of(trace))
        settings = merged(trace.head.settings, overrides)
        report.whole(str(path), Shadow(callflows, settings).run(messages))
    return EXIT_DIFFERENT if report.unexplained else 0


def _files(path: Path) -> list[Path]:
    """The file, or the JSON files of a folder."""
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def _complain(useless: list[NotATraceError], *, of: int) -> None:
    """Say which files were left out; when that is all of them, that is an error."""
    if useless and len(useless) == of:
        raise useless[0]
    for error in useless:
        print(f"kzpark: left out: {error}", file=sys.stderr)


async def _shadow(
    settings: Settings,
    callflows: Callflows,
    overrides: dict[str, object],
    report: ShadowReport,
    seconds: float | None,
) -> int:
    from worker.broker.rabbit import open_link
    from worker.trace.shadow_live import watch

    stop = stopped_by_signals()
    link = await open_link(",".join(settings.amqp_urls), name="kzpark shadow")
    known = merged(settings_to_plain(settings), overrides)
    try:
        result = await watch(
            link,
            callflows,
            known,
            prefix=settings.prefix,
            stop=stop,
            seconds=seconds,
            tell=report.one,
            on_ready=lambda: print("kzpark: watching, until Ctrl-C", file=sys.stderr, flush=True),
        )
    finally:
        await link.close()
    report.summary("live", result)
    return EXIT_DIFFERENT if report.unexplained else 0
