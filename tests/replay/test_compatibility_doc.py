"""docs/compatibility.md and the fixtures name each other; nothing of the contract is left out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.replay.scenario import FIXTURES, ROOT, files, name_of

DOC = ROOT / "docs" / "compatibility.md"
LINK = re.compile(r"\[([^\]]+)\]\(\.\./fixtures/([^)]+)\.json\)")
KINDS = ("same", "fixed", "newer", "newer, in both modes", "not ours")
RULES_OF = {3: range(1, 5), 4: range(5, 10), 5: range(10, 13), 6: range(13, 15), 7: range(15, 17)}
RULES_OF |= {8: range(17, 22), 9: range(22, 23), 10: range(23, 25)}
END_TO_END = (
    "BlindPark",
    "BlindParkToOccupied",
    "AttendedPark",
    "AttendedParkRingback",
    "AttendedParkIgnoreRingback",
    "AttendedValetRetrieve",
)
WANTED = [
    *(f"§7.{section} r{rule}" for section, rules in RULES_OF.items() for rule in rules),
    *(f"D{number}" for number in range(1, 32)),
    *(f"§14 r{number}" for number in range(1, 11)),
    *(f"design §8 r{number}" for number in range(1, 31)),
    *(f"§11 {name}" for name in END_TO_END),
]
GOLDEN = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table."""

    where: str
    kind: str
    fixtures: tuple[str, ...]


def rows() -> list[Row]:
    found = []
    for line in DOC.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] == "Where" or cells[0].startswith("---"):
            continue
        assert len(cells) == 5, line
        named = tuple(path for _, path in LINK.findall(cells[4]))
        found.append(Row(where=cells[0], kind=cells[3], fixtures=named))
    return found


ROWS = rows()


def refs_of(name: str) -> list[str]:
    refs: list[str] = json.loads((FIXTURES / f"{name}.json").read_text())["contract"]
    return refs


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.where} {row.fixtures[:1]}")
def test_row_names_fixtures_that_say_so(row: Row) -> None:
    assert row.fixtures
    assert row.kind in KINDS
    for name in row.fixtures:
        assert (FIXTURES / f"{name}.json").is_file(), name
        assert row.where in refs_of(name), name


@pytest.mark.parametrize("where", WANTED)
def test_contract_has_a_row(where: str) -> None:
    assert where in {row.where for row in ROWS}


def test_every_fixture_is_in_a_row() -> None:
    named = {name for row in ROWS for name in row.fixtures}
    waiting = {
        name_of(path) for path in files() if json.loads(path.read_text()).get("xfail") is not None
    }
    assert {name_of(path) for path in files()} - named - waiting == set()


def test_every_recording_is_retold() -> None:
    told = {json.loads(path.read_text()).get("golden") for path in files()} - {None}
    assert len(told) == GOLDEN


def test_what_is_not_ours_has_no_steps() -> None:
    for path in files():
        told = json.loads(path.read_text())
        assert ("steps" in told) is (told.get("ours") is None), path


def test_defects_have_one_file_each() -> None:
    numbers = sorted(path.name[:3] for path in Path(FIXTURES / "quirks").glob("*.json"))
    assert numbers == [f"D{number:02}" for number in range(1, 32)]
