"""Findings as text, JSON, SARIF 2.1.0 or GitHub workflow commands, written one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, TextIO
from urllib.parse import quote

from worker import __version__
from worker.lint.rule import Finding, Rule
from worker.lint.rules import RULES

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_RULE_INDEX = {rule.id: index for index, rule in enumerate(RULES)}


class Format(StrEnum):
    """What ``--format`` takes."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


class Report(Protocol):
    """Writes a report piece by piece: nothing is kept."""

    def begin(self) -> None: ...
    def add(self, finding: Finding) -> None: ...
    def end(self) -> None: ...


def open_report(form: Format, out: TextIO) -> Report:
    """A report in the wanted format."""
    return _REPORTS[form](_writer(out))


def printable(text: str) -> str:
    """The text on one line, without control characters and unpaired surrogates."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


_Write = Callable[[str], None]


def _writer(out: TextIO) -> _Write:
    encoding = getattr(out, "encoding", None) or "utf-8"

    def write(text: str) -> None:
        out.write(text.encode(encoding, "backslashreplace").decode(encoding))

    return write


class _Lines:
    """One finding after the other, nothing around them."""

    def __init__(self, write: _Write) -> None:
        self.write = write

    def begin(self) -> None:
        """Nothing stands before the first finding."""

    def end(self) -> None:
        """Nothing stands after the last finding."""


class _Text(_Lines):
    def add(self, finding: Finding) -> None:
        place = f"{printable(finding.file)}:{finding.line}:{finding.column}"
        self.write(f"{place}: {finding.rule} {printable(finding.message)}\n")
        self.write(f"    {printable(finding.fix)}\n")


class _GitHub(_Lines):
    """https://docs.github.com/actions: workflow commands."""

    def add(self, finding: Finding) -> None:
        properties = (
            f"file={_property(finding.file)},line={finding.line},col={finding.column},"
            f"title={_property('kzpark ' + finding.rule)}"
        )
        message = _escaped(printable(f"{finding.message}. {finding.fix}"))
        self.write(f"::error {properties}::{message}\n")


class _Json:
    def __init__(self, write: _Write) -> None:
        self.write = write
        self.separator = "\n"

    def begin(self) -> None:
        self.write("[")

    def add(self, finding: Finding) -> None:
        row = {
            "file": _sound(finding.file),
            "line": finding.line,
            "column": finding.column,
            "pointer": finding.pointer,
            "rule": finding.rule,
            "severity": finding.severity,
            "message": finding.message,
            "fix": finding.fix,
        }
        self.write(f"{self.separator}  {json.dumps(row)}")
        self.separator = ",\n"

    def end(self) -> None:
        self.write("]\n" if self.separator == "\n" else "\n]\n")


class _Sarif:
    def __init__(self, write: _Write) -> None:
        self.write = write
        self.separator = "\n"

    def begin(self) -> None:
        driver = {
            "name": "kzpark",
            "semanticVersion": __version__,
            "rules": [_sarif_rule(rule) for rule in RULES],
        }
        self.write(f'{{"$schema": "{_SARIF_SCHEMA}", "version": "2.1.0", "runs": [{{\n')
        self.write(f'"tool": {{"driver": {json.dumps(driver)}}},\n')
        self.write('"columnKind": "unicodeCodePoints",\n"results": [')

    def add(self, finding: Finding) -> None:
        result = {
            "ruleId": finding.rule,
            "ruleIndex": _RULE_INDEX[finding.rule],
            "level": finding.severity,
            "message": {"text": f"{finding.message}. {finding.fix}"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": _uri(finding.file)},
                        "region": {"startLine": finding.line, "startColumn": finding.column},
                    },
                    "logicalLocations": [{"fullyQualifiedName": finding.pointer}],
                }
            ],
        }
        self.write(f"{self.separator}{json.dumps(result)}")
        self.separator = ",\n"

    def end(self) -> None:
        self.write("\n]}]}\n")


def _sarif_rule(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.fix, "markdown": f"{rule.why}\n\n{rule.fix}"},
        "defaultConfiguration": {"level": rule.severity},
    }


def _uri(name: str) -> str:
    path = quote(os.fsencode(name).replace(os.sep.encode(), b"/"))
    return f"file://{path}" if os.path.isabs(name) else path


def _sound(name: str) -> str:
    """A file name as text: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(printable(text)).replace(":", "%3A").replace(",", "%2C")


_REPORTS: dict[Format, Callable[[_Write], Report]] = {
    Format.TEXT: _Text,
    Format.JSON: _Json,
    Format.SARIF: _Sarif,
    Format.GITHUB: _GitHub,
}
