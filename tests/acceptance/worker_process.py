"""A worker as its users run it: ``python -m worker run`` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0
STOP_S = 12.0


class WorkerProcess:
    """One process; its stderr is read into `lines` while it runs."""

    def __init__(self, url: str, *, prefix: str, settings: Mapping[str, str] | None = None) -> None:
        self.url = url
        self.prefix = prefix
        self.settings = dict(settings or {})
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start it and wait until it says that it consumes."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("KZPARK_")
        }
        environment |= {
            "KZPARK_AMQP_URL": self.url,
            "KZPARK_PREFIX": self.prefix,
            "PYTHONUNBUFFERED": "1",
            **self.settings,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self.wait_event("ready", START_S)

    def _read(self, process: subprocess.Popen[str]) -> None:
        if process.stderr is None:
            return
        with process.stderr as stream:
            for line in stream:
                with self._arrived:
                    self.lines.append(line.rstrip("\n"))
                    self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    def events(self, name: str) -> list[dict[str, object]]:
        """The JSON lines with that ``event``."""
        found = []
        for line in self.lines:
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and document.get("event") == name:
                    found.append(document)
        return found

    def wait_event(self, name: str, timeout_s: float = 5.0) -> dict[str, object]:
        """The first JSON line with that ``event``. Raises AssertionError with its last words."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            while True:
                found = self.events(name)
                if found:
                    return found[0]
                left = deadline - time.monotonic()
                if left <= 0 or not self.running:
                    last = "\n".join(self.lines[-20:])
                    raise AssertionError(f"the worker did not say {name!r}; it said:\n{last}")
                self._arrived.wait(min(left, 0.2))

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise AssertionError("the worker was not started")
        return self._process.pid

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = STOP_S) -> int:
        """Send a signal and wait for the end; the exit code (negative: killed by that signal)."""
        if self._process is None:
            raise AssertionError("the worker was not started")
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the worker did not end within {timeout_s:g} s") from None
        if self._reader is not None:
            self._reader.join(2)
        return code


@contextlib.contextmanager
def running_worker(url: str, **settings: str) -> Iterator[WorkerProcess]:
    """A started worker with a slot table of its own; it must end with 0."""
    worker = WorkerProcess(url, prefix=f"t{secrets.token_hex(4)}", settings=settings)
    try:
        worker.start()
        yield worker
    finally:
        if worker.running:
            code = worker.stop()
            if code:
                last = "\n".join(worker.lines[-20:])
                raise AssertionError(f"the worker ended with {code}; it said:\n{last}")
