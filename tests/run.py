"""What ``./test`` runs once its environment is made: ruff, mypy and all tests, with a broker.

The broker: ``KZPARK_AMQP_URL`` if set, else a RabbitMQ on localhost:5672, else a private node, for
which Debian's rabbitmq-server is installed when it may be (root, or a sudo that asks nothing).
With arguments it gets a broker and gives them to pytest, nothing else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pika
import pika.exceptions

from worker.broker.private_node import answers, private_node, server_script
from worker.errors import WorkerError

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / ".test-output"
DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
OLDEST_BROKER = (3, 9)
LAMP_PACKAGES = ROOT / "tests" / "lamps" / "packages.sh"
NO_TESTS_COLLECTED = 5
PYTEST = (sys.executable, "-m", "pytest", "--color=no", "-q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the run. Steps of one phase run side by side."""

    name: str
    command: tuple[str, ...]
    is_pytest: bool = False


FIRST_PHASE = (
    Step(name="lint", command=(sys.executable, "-m", "ruff", "check", ".")),
    Step(name="types", command=(sys.executable, "-m", "mypy")),
    Step(
        name="pure tests",
        command=(*PYTEST, "-m", "not broker and not lamps and not chaos"),
        is_pytest=True,
    ),
)
SECOND_PHASE = (
    Step(
        name="broker tests",
        command=(*PYTEST, "-m", "broker and not lamps and not chaos"),
        is_pytest=True,
    ),
)
LAMP_PHASE = (
    Step(name="lamp tests", command=(*PYTEST, "-m", "lamps and not chaos"), is_pytest=True),
)


def main(arguments: Sequence[str]) -> int:
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _broker() as (url, origin):
            print(f"broker: {origin}", flush=True)
            os.environ["KZPARK_AMQP_URL"] = url
            if arguments:
                return subprocess.run([*PYTEST[:3], *arguments], check=False).returncode
            return _run_all()
    except WorkerError as error:
        print(f"kzpark: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130


def _run_all() -> int:
    started = time.monotonic()
    phases = [FIRST_PHASE, SECOND_PHASE]
    if _have_lamp_packages():
        phases.append(LAMP_PHASE)
    results = [(step, code) for phase in phases for step, code in _run_phase(phase)]
    passed, failed, skipped = (
        sum(column) for column in zip(*(_counts(step) for step, _ in results), strict=True)
    )
    print(f"\n{time.monotonic() - started:.0f} s")
    for step, code in results:
        print(f"{'ok    ' if code == 0 else 'FAILED'} {step.name}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if passed and not any(code for _, code in results) else 1


def _counts(step: Step) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a step, by its own report."""
    report = _report(step)
    if not step.is_pytest or not report.exists():
        return 0, 0, 0
    suites = ET.parse(report).getroot().iter("testsuite")
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def _report(step: Step) -> Path:
    return OUTPUT / f"{step.name.replace(' ', '-')}.xml"


def _run_phase(steps: Sequence[Step]) -> Iterator[tuple[Step, int]]:
    """Start all, then print each one's output whole, in order."""
    OUTPUT.mkdir(exist_ok=True)
    running: list[tuple[Step, Path, subprocess.Popen[bytes]]] = []
    try:
        for step in steps:
            path = OUTPUT / f"{step.name.replace(' ', '-')}.log"
            # A step that runs alone is shown as it goes.
            output = None if len(steps) == 1 else path.open("wb")
            if output is None:
                print(f"\n== {step.name}", flush=True)
            with output or contextlib.nullcontext():
                command = step.command
                if step.is_pytest:
                    _report(step).unlink(missing_ok=True)
                    command = (*command, f"--junit-xml={_report(step)}")
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            running.append((step, path, process))
        for step, path, process in running:
            code = process.wait()
            if len(steps) > 1:
                print(f"\n== {step.name}\n{path.read_text('utf-8', 'replace')}", end="", flush=True)
            yield step, 0 if step.is_pytest and code == NO_TESTS_COLLECTED else code
    finally:
        for _, _, process in running:
            if process.poll() is None:
                process.terminate()
                process.wait()


# --- the broker -----------------------------------------------------------------------------


@contextlib.contextmanager
def _broker() -> Iterator[tuple[str, str]]:
    """A broker's URL and where it came from. Raises WorkerError when there is none to be had."""
    given = os.environ.get("KZPARK_AMQP_URL", "")
    if given:
        yield given, "KZPARK_AMQP_URL"
        return
    reason = _why_not(DEFAULT_URL) if answers(5672) else "nothing answers there"
    if not reason:
        with _own_vhost(DEFAULT_URL) as url:
            yield url, f"localhost:5672, vhost {url.rpartition('/')[2]}"
        return
    if server_script() is None:
        print("rabbitmq-server is not installed: installing Debian's", flush=True)
        if not _install("rabbitmq-server"):
            raise WorkerError(
                "the tests need RabbitMQ 3.9 or newer: set KZPARK_AMQP_URL, start one on "
                "localhost:5672, or run: sudo apt install rabbitmq-server"
            )
    with private_node() as node:
        yield node.url, f"a private node (localhost:5672 was no use: {reason})"


def _why_not(url: str) -> str:
    """Why that broker cannot be used, "" when it can."""
    try:
        connection = pika.BlockingConnection(pika.URLParameters(url))
    except (pika.exceptions.AMQPError, OSError) as error:
        return str(error) or type(error).__name__
    try:
        version = connection._impl.server_properties.get("version", "0")
    finally:
        connection.close()
    text = version.decode() if isinstance(version, bytes) else str(version)
    found = tuple(int(part) for part in text.split("-")[0].split(".")[:2] if part.isdigit())
    return "" if found >= OLDEST_BROKER else f"RabbitMQ {text} has no streams"


@contextlib.contextmanager
def _own_vhost(url: str) -> Iterator[str]:
    """A virtual host for this run only, where ``rabbitmqctl`` lets us; else the URL as it is."""
    vhost = f"kzpark-test-{secrets.token_hex(4)}"
    own = url.removesuffix("%2F") + vhost
    ready = (
        _ctl("add_vhost", vhost)
        and _ctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
        and not _why_not(own)
    )
    try:
        yield own if ready else url
    finally:
        if ready:
            _ctl("delete_vhost", vhost)


def _ctl(*words: str) -> bool:
    program = shutil.which("rabbitmqctl", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, "-q", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


# --- packages -------------------------------------------------------------------------------


def _install(*packages: str) -> bool:
    """Install Debian packages when that needs no question asked. Whether it worked."""
    script = '. tools/venv.sh; as_root_apt "$@" >&2'
    return subprocess.run(["bash", "-c", script, "bash", *packages], check=False).returncode == 0


def _have_lamp_packages() -> bool:
    """Whether there are lamp tests and Kamailio for them; installs it when it may.

    In CI a missing Kamailio does not hide the tests: they run and fail.
    """
    if not LAMP_PACKAGES.exists():
        return False
    done = subprocess.run(["bash", str(LAMP_PACKAGES)], stdin=subprocess.DEVNULL, check=False)
    if done.returncode and not os.environ.get("CI"):
        print("lamp tests are left out: Kamailio is not installed and may not be", flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
