"""The worker's log: one line per event on stderr, JSON or text.

``log("ready", queue="kzpark.work")`` writes ``{"event":"ready","at":"…","level":"info",…}``; a
``call_id`` comes first of the fields. Writing never raises and never blocks on anything but the
stream. Whoever called whom is private: the fields in `PRIVATE` are left out unless the level is
``debug``.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TextIO

import orjson

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
MAX_TEXT = 4_000
"""Characters kept of one field: a peer's text must not fill the disk."""
PRIVATE = frozenset(
    {
        "caller_name", "caller_number", "caller_uri", "callee_name", "callee_number",
        "from_uri", "from_user", "to_user", "to_uri", "parked_number", "referred_user",
    }
)  # fmt: skip
"""Fields that name a person or a number."""

MAX_GATHERED = 200
"""Lines that wait for one write, at most."""

Soon = Callable[[Callable[[], None]], object]
"""Calls a function in a moment, in this thread: an event loop's ``call_later`` with its delay."""

Field = object
"""Any value: what JSON has no word for is written as text."""


class Log:
    """Where lines go, from which level on, and in which shape. ``now_s`` is seconds since 1970."""

    def __init__(
        self,
        *,
        level: str = "info",
        shape: str = "json",
        stream: TextIO | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._threshold = LEVELS[level]
        self._text = shape == "text"
        self._stream = stream
        self._now_s = now_s
        self._lock = threading.Lock()
        self._soon: Soon | None = None
        self._thread = 0
        self._gathered: list[str] = []

    def wants(self, level: str) -> bool:
        """Whether an event of this level is written; for fields that are costly to work out."""
        return LEVELS[level] >= self._threshold

    def write(self, event: str, level: str, fields: Mapping[str, Field]) -> None:
        if not self.wants(level):
            return
        line = self._line(event, level, fields) + "\n"
        with self._lock:
            self._gathered.append(line)
            if self._waits(level):
                if len(self._gathered) == 1 and self._soon is not None:
                    self._soon(self.flush)
            else:
                self._write_out()

    def gather(self, soon: Soon | None) -> None:
        """From now on lines below ``warning`` wait for ``soon`` and share a write; each write to a
        pipe wakes its reader, which costs a busy worker a sixth of its time. None: at once again.
        """
        self.flush()
        self._soon, self._thread = soon, threading.get_ident()

    def flush(self) -> None:
        """Write what was gathered."""
        with self._lock:
            self._write_out()

    def _waits(self, level: str) -> bool:
        return (
            self._soon is not None
            and LEVELS[level] < LEVELS["warning"]
            and len(self._gathered) < MAX_GATHERED
            and threading.get_ident() == self._thread
        )

    def _write_out(self) -> None:
        text, self._gathered = "".join(self._gathered), []
        if not text:
            return
        stream = self._stream or sys.stderr
        try:
            stream.write(text)
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads the log any more: parked callers matter more

    def _line(self, event: str, level: str, fields: Mapping[str, Field]) -> str:
        at = datetime.fromtimestamp(self._now_s(), UTC).isoformat(timespec="milliseconds")
        record: dict[str, Field] = {"event": event, "at": at.replace("+00:00", "Z"), "level": level}
        if fields.get("call_id"):
            record["call_id"] = _plain(fields["call_id"])
        shown = self._threshold <= LEVELS["debug"]
        for name, value in fields.items():
            if name not in record and (shown or name not in PRIVATE):
                record[name] = _plain(value)
        return _as_text(record) if self._text else _as_json(record)


def _plain(value: Field) -> Field:
    """A value that JSON can hold, with long text cut."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"[:MAX_TEXT]
    if isinstance(value, bytes | bytearray):
        value = bytes(value[: MAX_TEXT * 4]).decode("utf-8", "replace")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    return value


def _as_json(record: Mapping[str, Field]) -> str:
    try:
        options = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
        return orjson.dumps(record, default=_fallback, option=options).decode()
    except (TypeError, ValueError, RecursionError):  # lone surrogates, huge integers, cycles
        flat = {name: _fallback(value) for name, value in record.items()}
        return json.dumps(flat, separators=(",", ":"))


def _fallback(value: Field) -> str:
    try:
        return str(value)[:MAX_TEXT]
    except Exception:
        return f"<{type(value).__name__}>"


def _as_text(record: Mapping[str, Field]) -> str:
    words = [f"{record['at']} {str(record['level']).upper():7} {record['event']}"]
    for name, value in record.items():
        if name not in {"event", "at", "level"}:
            text = value if isinstance(value, str) else _as_json({"": value})[4:-1]
            bare = text.isprintable() and (" " not in text or not isinstance(value, str))
            shown = name if name.isprintable() else json.dumps(name)
            words.append(f"{shown}={text if bare else json.dumps(text)}")
    return " ".join(words)


QUIET_LIBRARIES = ("aiormq", "aio_pika", "pamqp")
"""They tell each lost connection with tracebacks, and each frame at debug: a link's end is told
once, by us."""

_current = Log()


def configure(*, level: str = "info", shape: str = "json", stream: TextIO | None = None) -> None:
    """Set where `log` writes, and send what libraries log (asyncio, aio-pika, warnings) there too.

    ``stream`` None: whatever ``sys.stderr`` is at the time of writing.
    """
    global _current  # noqa: PLW0603 - one process has one stderr
    _current = Log(level=level, shape=shape, stream=stream)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _FromLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_FromLibraries())
    # A library's "info" (every reconnect attempt of aiormq, …) is our "debug".
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


def log(event: str, *, level: str = "info", **fields: Field) -> None:
    """Write one event. ``event`` is a fixed word or two; everything that varies is a field.

    An exception given as a field is written as ``Type: text``; `stack` gives its traceback.
    """
    _current.write(event, level, fields)


def gather(soon: Soon | None) -> None:
    """See `Log.gather`."""
    _current.gather(soon)


def wants(level: str) -> bool:
    """Whether an event of this level is written at all."""
    return _current.wants(level)


def stack(error: BaseException) -> str:
    """The traceback as one text, its end kept when it is long: for a crash that is survived."""
    return "".join(traceback.format_exception(error))[-MAX_TEXT:]


class _FromLibraries(logging.Handler):
    """Turns a record of the logging module into one of our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next(
            (name for name in ("error", "warning", "info") if record.levelno >= LEVELS[name]),
            "debug",
        )
        fields: dict[str, Field] = {"logger": record.name}
        try:
            fields["message"] = record.getMessage()
        except Exception as error:
            fields["message"] = f"{record.msg} ({error})"
        if record.exc_info and record.exc_info[1]:
            fields["error"] = record.exc_info[1]
            fields["stack"] = stack(record.exc_info[1])
        _current.write("library", level, fields)
