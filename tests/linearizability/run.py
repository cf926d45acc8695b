"""Runs real processes (`client`) on a real broker, breaks things, and checks what they saw.

``python -m tests.linearizability.run --operations 20000 --faults kill disconnect stop broker-kill``
starts a private RabbitMQ; with ``--url`` a given one is used, which cannot be stopped or killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.linearizability.checker import Report, check
from tests.linearizability.history import read_all
from worker.broker.private_node import PrivateNode, private_node

ROOT = Path(__file__).resolve().parents[2]
FREEZE_S = 6.0
DOWN_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run. Faults happen one after another, evenly spread over the operations.

    ``kill`` a worker with SIGKILL (another takes its place), ``freeze`` one for FREEZE_S,
    ``disconnect`` everybody, ``stop`` and start the broker's application, ``broker-kill``, ``wipe``
    the broker: kill it and start it with nothing.
    """

    workers: int = 3
    operations: int = 3000
    slots: int = 50
    calls: int = 20
    rate: float = 200.0
    """Operations per second and worker, at most."""
    faults: tuple[str, ...] = ()
    patience_s: float = 600.0
    sabotage: bool = False
    """Every process decides wrongly now and then."""


class Process:
    """One client process: its orders and its progress."""

    def __init__(
        self, url: str, plan: Plan, operations: int, history: Path, *, prefix: str
    ) -> None:
        self.begun = 0
        self.done = threading.Event()
        self.finals = 0
        self._errors = history.with_suffix(".stderr").open("wb")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.linearizability.client",
                f"--url={url}",
                f"--prefix={prefix}",
                f"--operations={operations}",
                f"--slots={plan.slots}",
                f"--calls={plan.calls}",
                f"--rate={plan.rate}",
                f"--history={history}",
                *(["--sabotage"] if plan.sabotage else []),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,))
        self._listener.start()

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            match line.split():
                case ["progress", count]:
                    self.begun = int(count)
                case ["done"]:
                    self.done.set()
                case ["final"]:
                    self.finals += 1
                case _:
                    pass

    def order(self, word: str) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{word}\n")
                self._process.stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def end(self) -> None:
        """Stop it, in good order if possible, and wait."""
        self.order("stop")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(10)
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None


@dataclass
class Run:
    """One run in progress. ``disconnect``: how to cut everybody off, None: each cuts itself."""

    plan: Plan
    url: str
    folder: Path
    node: PrivateNode | None = None
    disconnect: Callable[[], None] | None = None
    processes: list[Process] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f"kzlin-{secrets.token_hex(4)}")
    begun_before: int = 0
    """By processes that were killed."""

    def go(self) -> Report:
        """Run it to the end and check it. Raises TimeoutError."""
        share = -(-self.plan.operations // self.plan.workers)
        deadline = time.monotonic() + self.plan.patience_s
        try:
            for _ in range(self.plan.workers):
                self.start(share)
            for number, fault in enumerate(self.plan.faults, 1):
                goal = self.plan.operations * number // (len(self.plan.faults) + 1)
                self.wait(lambda goal=goal: self.begun >= goal, deadline)  # type: ignore[misc]
                print(f"{self.begun} operations: {fault}", flush=True)
                self.break_something(fault)
            self.wait(lambda: all(each.done.is_set() for each in self.processes), deadline)
            self.finish(deadline)
        finally:
            for process in self.processes:
                process.end()
        return check(read_all(self.folder))

    @property
    def begun(self) -> int:
        return self.begun_before + sum(process.begun for process in self.processes)

    def start(self, operations: int) -> None:
        number = len(list(self.folder.glob("*.jsonl")))
        history = self.folder / f"{number:02}.jsonl"
        history.touch()
        self.processes.append(Process(self.url, self.plan, operations, history, prefix=self.prefix))

    def wait(self, true: Callable[[], bool], deadline: float) -> None:
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {self.begun} operations")
            if not all(process.alive for process in self.processes):
                raise RuntimeError("a client ended by itself; see the .stderr files")
            time.sleep(0.05)

    def finish(self, deadline: float) -> None:
        """Wait until nothing more changes, then let everybody tell the final state."""
        time.sleep(2.5)
        for process in self.processes:
            process.order("final")
        self.wait(lambda: all(process.finals for process in self.processes), deadline)

    # ---- faults ---------------------------------------------------------------------------------

    def break_something(self, fault: str) -> None:
        match fault:
            case "kill":
                victim = self.processes.pop(0)
                victim.signal(signal.SIGKILL)
                victim.end()
                self.begun_before += victim.begun
                self.start(max(-(-self.plan.operations // self.plan.workers) - victim.begun, 50))
            case "freeze":
                victim = self.processes[0]
                victim.signal(signal.SIGSTOP)
                time.sleep(FREEZE_S)
                victim.signal(signal.SIGCONT)
            case "disconnect":
                self.cut()
            case "stop" if self.node is not None:
                self.node.ctl("stop_app")
                time.sleep(DOWN_S)
                self.node.ctl("start_app")
            case "broker-kill" if self.node is not None:
                self.node.kill()
                time.sleep(DOWN_S)
                self.node.start()
            case "wipe" if self.node is not None:
                self.node.kill()
                self.node.wipe()
                self.node.start()
            case _:
                raise ValueError(f"cannot {fault}")

    def cut(self) -> None:
        if self.node is not None:
            self.node.ctl("close_all_connections", "a fault")
        elif self.disconnect is not None:
            self.disconnect()
        else:
            for process in self.processes:
                process.order("drop")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when nothing was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--operations", type=int, default=3000)
    parser.add_argument("--slots", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--faults", nargs="*", default=[])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    plan = Plan(
        workers=given.workers,
        operations=given.operations,
        slots=given.slots,
        rate=given.rate,
        faults=tuple(given.faults),
    )
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        node = None if given.url else stack.enter_context(private_node())
        url = node.url if node else given.url
        begun = time.monotonic()
        report = Run(plan=plan, url=url, folder=folder, node=node).go()
        print(f"{time.monotonic() - begun:.1f} s\n{report}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
