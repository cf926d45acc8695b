"""`kzpark validate PATH…`: files and folders in, a report and an exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from stat import S_ISREG
from typing import BinaryIO, TextIO

from worker.lint.check import MAX_FILE_BYTES, Run
from worker.lint.report import Format, open_report, printable
from worker.lint.rule import Finding

EXIT_CLEAN = 0
EXIT_FINDINGS = 1
EXIT_USAGE = 2

FORMATS: tuple[str, ...] = tuple(Format)
"""What ``--format`` takes."""
STDIN = "-"

_STDIN_NAME = "<stdin>"
_SUFFIX = ".json"


def run_validate(
    paths: Sequence[str],
    format: str = Format.TEXT,
    *,
    stdin: TextIO | BinaryIO | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> int:
    """Check files, folders (all ``*.json`` below them) and ``-`` (standard input).

    The report goes to ``stdout``, a summary line to ``stderr``. Returns the exit code: 0 no
    finding, 1 findings (unreadable JSON is one), 2 wrong usage (a path that does not exist).
    The streams default to those of the process.
    """
    stdin, stdout, stderr = stdin or sys.stdin, stdout or sys.stdout, stderr or sys.stderr
    wrong = _usage(paths, format)
    if wrong:
        stderr.write(f"kzpark validate: {printable(wrong)}\n")
        return EXIT_USAGE
    run = Run()
    report = open_report(Format(format), stdout)
    report.begin()
    for name in _files(paths):
        for finding in _check(run, name, stdin):
            report.add(finding)
    report.end()
    stderr.write(_summary(run))
    return EXIT_FINDINGS if run.findings else EXIT_CLEAN


def _usage(paths: Sequence[str], form: str) -> str:
    if form not in FORMATS:
        return f"unknown format {form}: use one of {', '.join(FORMATS)}"
    if not paths:
        return "name files or folders to check, or - for standard input"
    missing = [path for path in paths if path != STDIN and not _exists(path)]
    return f"no such file or folder: {', '.join(missing)}" if missing else ""


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL in the name
        return False


def _files(paths: Sequence[str]) -> Iterator[str]:
    """Each file once, also when it is named twice."""
    seen: set[str] = set()
    for path in paths:
        for name in _below(path) if path != STDIN and os.path.isdir(path) else (path,):
            if len(paths) > 1:
                real = name if name == STDIN else os.path.realpath(name)
                if real in seen:
                    continue
                seen.add(real)
            yield name


def _below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.normpath(os.path.join(parent, name))
            if name.lower().endswith(_SUFFIX) and _is_regular(path):
                yield path


def _is_regular(path: str) -> bool:
    """False for pipes and devices. What cannot be asked counts as a file: reading it will say."""
    try:
        return S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _check(run: Run, name: str, stdin: TextIO | BinaryIO) -> list[Finding]:
    if name == STDIN:
        return run.check_bytes(_STDIN_NAME, _read_stdin(stdin))
    try:
        with open(name, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return run.unreadable(name, f"the file cannot be read: {error.strerror or error}")
    return run.check_bytes(name, raw)


def _read_stdin(stdin: TextIO | BinaryIO) -> bytes:
    content = getattr(stdin, "buffer", stdin).read(MAX_FILE_BYTES + 1)
    return content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")


def _summary(run: Run) -> str:
    others = f", {_many(run.others, 'file')} without callflows" if run.others else ""
    return (
        f"{_many(run.findings, 'finding')} in {_many(run.files, 'file')}: "
        f"{_many(run.nodes, 'node')}, {_many(run.parks, 'park node')}{others}\n"
    )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
