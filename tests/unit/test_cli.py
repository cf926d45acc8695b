"""worker.cli: commands, exit codes, and no traceback for a user's mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from worker import __version__
from worker.cli import main
from worker.errors import (
    BrokerConflictError,
    BrokerTooOldError,
    BrokerUnreachableError,
    UsageError,
    WorkerError,
)

ROOT = Path(__file__).parents[2]


def with_module(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    module = ModuleType(name)
    for function, value in functions.items():
        setattr(module, function, value)
    monkeypatch.setitem(sys.modules, name, module)


def raising(error: BaseException) -> Callable[..., int]:
    def command(*_words: object, **_named: object) -> int:
        raise error

    return command


def command_line(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_version_prints_name_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kzpark {__version__}\n" * 2


@pytest.mark.parametrize("words", [[], ["bogus"], ["run", "--bogus"], ["validate"]])
def test_a_wrong_command_line_exits_2_with_a_word_on_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "usage: kzpark" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "demo", "validate", "version"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: kzpark {command}" in capsys.readouterr().out


def test_run_gets_the_settings_and_its_code_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[object, bool]] = []

    def run(settings: object, *, once: bool) -> int:
        calls.append((getattr(settings, "zone", None), once))
        return 7

    with_module(monkeypatch, "worker.app", run=run)
    monkeypatch.setattr("worker.ops.logs.configure", lambda **_: None)
    monkeypatch.setenv("KZPARK_ZONE", "east")
    assert main(["run", "--once"]) == 7
    assert main(["run"]) == 7
    assert calls == [("east", True), ("east", False)]


def test_validate_hands_on_paths_and_format(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def run_validate(paths: list[str], output_format: str) -> int:
        seen.extend([*paths, output_format])
        return 1

    with_module(monkeypatch, "worker.lint.cli", run_validate=run_validate)
    assert main(["validate", "a.json", "-", "--format", "sarif"]) == 1
    assert seen == ["a.json", "-", "sarif"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("wrong"), 2),
        (BrokerUnreachableError("gone"), 3),
        (BrokerConflictError("other arguments"), 3),
        (BrokerTooOldError("3.8"), 4),
        (WorkerError("else"), 1),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    error: WorkerError,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_module(monkeypatch, "worker.app", demo=raising(error))
    assert main(["demo"]) == code
    assert capsys.readouterr().err == f"kzpark: {error}\n"


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    with_module(monkeypatch, "worker.app", demo=raising(KeyboardInterrupt()))
    assert main(["demo"]) == 130


def test_a_wrong_setting_exits_2_without_a_traceback() -> None:
    done = command_line("run", KZPARK_PREFETCH="many")
    assert done.returncode == 2
    assert done.stderr == (
        "kzpark: KZPARK_PREFETCH must be a whole number from 1 to 65535, not 'many'\n"
    )
    assert done.stdout == ""


def test_output_that_nobody_reads_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "worker", "version"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.returncode == 141
    assert done.stderr == b""


def test_help_and_validate_do_not_load_the_amqp_client() -> None:
    code = (
        "import sys; from worker.cli import main; main(['version']); "
        "sys.exit(any(m in sys.modules for m in ('aio_pika', 'asyncio', 'rich', 'jsonschema')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == 0
