from __future__ import annotations

import io
import json
import re
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from worker.lint.report import Format, open_report, printable
from worker.lint.rule import Finding, Severity
from worker.lint.rules import RULES

FINDING = Finding(
    file="flows/a b.json",
    line=3,
    column=7,
    pointer="/flow/data/slot",
    rule="shared-slot",
    severity=Severity.WARNING,
    message="slot 1 is shared",
    fix="Use another",
)
# The parts of SARIF 2.1.0 that a report of ours uses, written down from the standard's text:
# everything we write is listed, nothing else may appear.
_TEXT = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "minLength": 1}, "markdown": {"type": "string"}},
    "additionalProperties": False,
}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_POSITIVE = {"type": "integer", "minimum": 1}


def _closed(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


_RULE = _closed(
    ["id"],
    {
        "id": {"type": "string"},
        "shortDescription": _TEXT,
        "fullDescription": _TEXT,
        "help": _TEXT,
        "defaultConfiguration": _closed([], {"level": _LEVEL}),
    },
)
_PHYSICAL = _closed(
    ["artifactLocation"],
    {
        "artifactLocation": _closed(["uri"], {"uri": {"type": "string"}}),
        "region": _closed(["startLine"], {"startLine": _POSITIVE, "startColumn": _POSITIVE}),
    },
)
_LOGICAL = {"type": "array", "items": _closed([], {"fullyQualifiedName": {"type": "string"}})}
_RESULT = _closed(
    ["message"],
    {
        "ruleId": {"type": "string"},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "level": _LEVEL,
        "message": _TEXT,
        "locations": {
            "type": "array",
            "items": _closed([], {"physicalLocation": _PHYSICAL, "logicalLocations": _LOGICAL}),
        },
    },
)
_DRIVER = _closed(
    ["name"],
    {
        "name": {"type": "string"},
        "semanticVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+"},
        "rules": {"type": "array", "items": _RULE, "uniqueItems": True},
    },
)
_RUN = _closed(
    ["tool", "results"],
    {
        "tool": _closed(["driver"], {"driver": _DRIVER}),
        "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
        "results": {"type": "array", "items": _RESULT},
    },
)
SARIF = _closed(
    ["version", "runs"],
    {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "items": _RUN},
    },
)


def written(form: Format, *findings: Finding) -> str:
    out = io.StringIO()
    report = open_report(form, out)
    report.begin()
    for finding in findings:
        report.add(finding)
    report.end()
    return out.getvalue()


_in_names = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
names = st.text(_in_names, min_size=1, max_size=12)
findings = st.builds(
    Finding,
    file=names,
    line=st.integers(1, 10**6),
    column=st.integers(1, 10**6),
    pointer=st.text(max_size=10),
    rule=st.sampled_from([rule.id for rule in RULES]),
    severity=st.sampled_from(Severity),
    message=st.text(min_size=1, max_size=20),
    fix=st.text(min_size=1, max_size=20),
)


def test_text() -> None:
    assert written(Format.TEXT, FINDING) == (
        "flows/a b.json:3:7: shared-slot slot 1 is shared\n    Use another\n"
    )


def test_github() -> None:
    assert written(Format.GITHUB, FINDING) == (
        "::error file=flows/a b.json,line=3,col=7,title=kzpark shared-slot::"
        "slot 1 is shared. Use another\n"
    )


@pytest.mark.parametrize("form", [Format.TEXT, Format.GITHUB])
def test_nothing_found_writes_nothing(form: Format) -> None:
    assert written(form) == ""


def test_json() -> None:
    assert json.loads(written(Format.JSON)) == []
    assert (
        json.loads(written(Format.JSON, FINDING, FINDING))
        == [
            {
                "file": "flows/a b.json",
                "line": 3,
                "column": 7,
                "pointer": "/flow/data/slot",
                "rule": "shared-slot",
                "severity": "warning",
                "message": "slot 1 is shared",
                "fix": "Use another",
            }
        ]
        * 2
    )


def test_sarif_lists_every_rule_and_places_the_finding() -> None:
    log = json.loads(written(Format.SARIF, FINDING))
    (run,) = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [rule.id for rule in RULES]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == "shared-slot"
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "flows/a%20b.json"},
        "region": {"startLine": 3, "startColumn": 7},
    }
    assert result["level"] == "warning"


@given(st.lists(findings, max_size=3))
def test_sarif_has_the_standard_s_structure(several: list[Finding]) -> None:
    log = json.loads(written(Format.SARIF, *several))
    Draft202012Validator(SARIF).validate(log)
    for result, finding in zip(log["runs"][0]["results"], several, strict=True):
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert re.fullmatch(r"(file://)?[A-Za-z0-9_.~/%-]+", uri)
        assert unquote(uri.removeprefix("file://")) == finding.file


@given(st.lists(findings, max_size=3))
def test_json_keeps_every_character(several: list[Finding]) -> None:
    rows = json.loads(written(Format.JSON, *several))
    assert [(row["file"], row["message"]) for row in rows] == [
        (finding.file, finding.message) for finding in several
    ]


@given(findings)
def test_text_and_github_keep_to_their_lines(finding: Finding) -> None:
    text = written(Format.TEXT, finding)
    assert len(text.splitlines()) == 2
    command = written(Format.GITHUB, finding)
    assert len(command.splitlines()) == 1
    head, _, _ = command.removeprefix("::error ").partition("::")
    keys = [part.partition("=")[0] for part in head.split(",")]
    assert keys == ["file", "line", "col", "title"]


def test_github_escapes_what_its_parser_reads() -> None:
    finding = Finding(
        file="50%,a:b.json",
        line=1,
        column=1,
        pointer="",
        rule="structure",
        severity=Severity.ERROR,
        message="100% wrong\n::error::x",
        fix="Do",
    )
    assert written(Format.GITHUB, finding) == (
        "::error file=50%25%2Ca%3Ab.json,line=1,col=1,title=kzpark structure::"
        "100%25 wrong\\n::error::x. Do\n"
    )


def test_file_names_that_are_no_unicode() -> None:
    finding = Finding(
        file="a\udcff.json",
        line=1,
        column=1,
        pointer="",
        rule="structure",
        severity=Severity.ERROR,
        message="m",
        fix="f",
    )
    assert written(Format.TEXT, finding).startswith("a\\udcff.json:1:1:")
    assert json.loads(written(Format.JSON, finding))[0]["file"] == "a\ufffd.json"
    assert "a%FF.json" in written(Format.SARIF, finding)


def test_an_output_without_unicode_gets_escapes() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    report = open_report(Format.TEXT, out)
    report.add(
        Finding(
            file="é.json",
            line=1,
            column=1,
            pointer="",
            rule="structure",
            severity=Severity.ERROR,
            message="🅿",
            fix="f",
        )
    )
    out.flush()
    assert raw.getvalue() == b"\\xe9.json:1:1: structure \\U0001f17f\n    f\n"


@given(st.text())
def test_printable_text_is_printable(text: str) -> None:
    assert printable(text).isprintable()
