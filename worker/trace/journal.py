"""The exact journal of one worker: every input of its engine with its time, every operation.

``KZPARK_TRACE=FILE``. `kzpark replay FILE` must reproduce all operations to the byte. The file is
written by a thread of its own through a bounded queue: a slow or full disk costs lines, never a
call. When FILE is full it becomes FILE.1 and so on; each piece begins with the state of table and
engine and can be replayed without the others.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Final

import orjson

from worker import __version__
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.ops import Op, Publish
from worker.parking.changes import Change
from worker.parking.model import CallId
from worker.parking.records import Record
from worker.parking.slot_wire import record_to_plain
from worker.parking.slots import SlotTable
from worker.trace.checkpoint import CheckpointError, save_engine
from worker.trace.config_plain import config_to_plain
from worker.trace.lines import Head, JournalLine, head_bytes, line_bytes
from worker.trace.plain_ops import Plain, change_to_plain, op_to_plain

PIECE_BYTES: Final = 64 * 2**20
PIECES: Final = 4
"""FILE, FILE.1, FILE.2, FILE.3: never more than this many pieces on the disk."""
QUEUED_MAX: Final = 20_000
TRY_AGAIN_S: Final = 30.0
CLOSE_S: Final = 2.0

WriteLog = Callable[[str, str, dict[str, object]], None]


class Journal:
    """Where the lines go. Every method returns at once and never raises."""

    def __init__(
        self,
        path: Path,
        config: EngineConfig,
        *,
        write_log: WriteLog,
        piece_bytes: int = PIECE_BYTES,
        pieces: int = PIECES,
    ) -> None:
        self._path = path
        self._config = config
        self._write_log = write_log
        self._piece_bytes = piece_bytes
        self._pieces = pieces
        self._written = 0
        self._limit = piece_bytes
        self._broken = True
        self._retry_at_s = 0.0
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUED_MAX)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._failed = threading.Event()
        self._thread.start()
        atexit.register(self.close)

    @property
    def wants_state(self) -> bool:
        """A new piece is due: the next line must be `begin`."""
        if self._failed.is_set() and not self._broken:
            self._broken = True
            self._retry_at_s = time.monotonic() + TRY_AGAIN_S
        if self._broken:
            return time.monotonic() >= self._retry_at_s
        return self._written >= self._limit

    def begin(self, engine: Engine, table: SlotTable, now_ms: int) -> None:
        """Start a piece with everything that is so."""
        self._broken = False
        self._written = 0
        self._failed.clear()
        settings = config_to_plain(self._config)
        head = Head(
            started_at_ms=now_ms, source="journal", kzpark=__version__, settings=settings
        )
        self._put(b"\n" + head_bytes(head))
        self._put(line_bytes(JournalLine(kind="state", fields=_state(engine, table))))
        # A large state must not be written again and again.
        self._limit = max(self._piece_bytes, self._written)
        self._written = 0

    def line(self, kind: str, **fields: object) -> None:
        """One line of the present piece, if there is one."""
        if not self._broken:
            self._put(line_bytes(JournalLine(kind=kind, fields=fields)))

    def _put(self, data: bytes) -> None:
        self._written += len(data)
        try:
            self._queue.put_nowait(data)
        except queue.Full:
            self._lose("the disk is too slow")

    def _lose(self, reason: str) -> None:
        """What follows would have a hole: stop until a new piece can begin."""
        if not self._broken:
            self._write_log("journal interrupted", "warning", {"reason": reason})
        self._broken = True
        self._retry_at_s = time.monotonic() + TRY_AGAIN_S

    def close(self) -> None:
        """Write what is queued, if the disk lets us, and stop."""
        atexit.unregister(self.close)
        self._broken, self._retry_at_s = True, float("inf")
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)

    # ---- the thread -----------------------------------------------------------------------------

    def _write(self) -> None:
        file = None
        while (data := self._queue.get()) is not None:
            try:
                if data.startswith(b"\n"):
                    if file is not None:
                        file.close()
                    file = self._new_piece()
                    data = data[1:]
                if file is not None:
                    file.write(data)
                    if self._queue.empty():
                        file.flush()
            except OSError as error:
                with contextlib.suppress(OSError):
                    if file is not None:
                        file.close()
                file = None
                self._failed.set()
                self._write_log("journal failed", "warning", {"reason": str(error)})
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _new_piece(self) -> IO[bytes]:
        """Shift the old pieces and open the new one, readable by its owner only."""
        for number in range(self._pieces - 1, 0, -1):
            older = self._piece(number - 1)
            if older.exists():
                older.replace(self._piece(number))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        return os.fdopen(descriptor, "wb")

    def _piece(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_name(f"{self._path.name}.{number}")


def _state(engine: Engine, table: SlotTable) -> Plain:
    try:
        state = base64.b64encode(save_engine(engine)).decode("ascii")
    except CheckpointError as error:
        return {"table": table.snapshot(), "error": str(error)}
    return {"table": table.snapshot(), "engine_base64": state}


class JournaledTable(SlotTable):
    """A slot table whose changes are written down."""

    journal: Journal | None = None

    def apply(self, offset: int, record: Record) -> list[Change]:
        if self.journal is not None:
            self.journal.line("apply", offset=offset, record=record_to_plain(record))
        return super().apply(offset, record)

    def restore(self, plain: object) -> None:
        if self.journal is not None:
            self.journal.line("apply", restore=plain)
        super().restore(plain)

    def reset(self) -> None:
        if self.journal is not None:
            self.journal.line("apply", reset=True)
        super().reset()


class JournaledEngine(Engine):
    """An engine whose inputs and operations are written down."""

    def __init__(self, config: EngineConfig, table: SlotTable, journal: Journal) -> None:
        super().__init__(config, table)
        self.journal = journal
        self.journal_depth = 0
        """Inputs may call each other: only the outermost is one."""

    def _input(self, call: str, now_ms: int, fields: Plain, run: Callable[[], None]) -> None:
        if self.journal_depth == 0:
            if self.journal.wants_state and not self._ops:
                self.journal.begin(self, self._table, now_ms)
            self.journal.line("in", at_ms=now_ms, call=call, **fields)
        self.journal_depth += 1
        try:
            run()
        finally:
            self.journal_depth -= 1

    def take_ops(self) -> list[Op]:
        ops = super().take_ops()
        for op in ops:
            self.journal.line("op", **op_to_plain(op))
        return ops

    def tick(self, now_ms: int) -> None:
        self._input("tick", now_ms, {}, lambda: super(JournaledEngine, self).tick(now_ms))

    def execute(
        self,
        body: bytes,
        *,
        tag: int,
        sent_at_ms: int | None,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        now_ms: int,
    ) -> None:
        fields: Plain = {
            **_body(body),
            "tag": tag,
            "sent_at_ms": sent_at_ms,
            "redelivered": redelivered,
            "exchange": exchange,
            "key": routing_key,
        }
        run = super().execute
        self._input(
            "execute",
            now_ms,
            fields,
            lambda: run(
                body,
                tag=tag,
                sent_at_ms=sent_at_ms,
                redelivered=redelivered,
                exchange=exchange,
                routing_key=routing_key,
                now_ms=now_ms,
            ),
        )

    def message(self, body: bytes, *, exchange: str, routing_key: str, now_ms: int) -> None:
        fields: Plain = {**_body(body), "exchange": exchange, "key": routing_key}
        run = super().message
        self._input(
            "message",
            now_ms,
            fields,
            lambda: run(body, exchange=exchange, routing_key=routing_key, now_ms=now_ms),
        )

    def bound(self, call_id: CallId, now_ms: int) -> None:
        run = super().bound
        self._input("bound", now_ms, {"call_id": call_id}, lambda: run(call_id, now_ms))

    def returned(self, op: Publish, now_ms: int) -> None:
        run = super().returned
        self._input("returned", now_ms, {"op": op_to_plain(op)}, lambda: run(op, now_ms))

    def applied(self, changes: Iterable[Change], now_ms: int) -> None:
        listed = list(changes)
        run = super().applied
        fields: Plain = {"changes": [change_to_plain(change) for change in listed]}
        self._input("applied", now_ms, fields, lambda: run(listed, now_ms))

    def let_go_of_others(self) -> None:
        run = super().let_go_of_others
        self._input("let_go_of_others", 0, {}, run)

    def links_lost(self) -> None:
        run = super().links_lost
        self._input("links_lost", 0, {}, run)

    def resume(self, now_ms: int) -> None:
        run = super().resume
        self._input("resume", now_ms, {}, lambda: run(now_ms))


def _body(body: bytes) -> Plain:
    """Text where it is text: a journal is read by people as well."""
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode("ascii")}


def journaled(
    path: Path, config: EngineConfig, *, write_log: WriteLog
) -> tuple[JournaledEngine, JournaledTable]:
    """An engine and its table, with a journal in ``path``."""
    table = JournaledTable(loads=orjson.loads)
    journal = Journal(path, config, write_log=write_log)
    engine = JournaledEngine(config, table, journal)
    table.journal = journal
    return engine, table
