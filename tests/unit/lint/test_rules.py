from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.lint import rules_doc
from worker.lint.check import Run
from worker.lint.rule import Finding, Rule
from worker.lint.rules import RULES

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests" / "lint_fixtures"


def findings(document: object) -> list[Finding]:
    text = document if isinstance(document, str) else json.dumps(document)
    return Run().check_bytes("test.json", text.encode())


def broken(document: object) -> list[tuple[str, str]]:
    return [(finding.rule, finding.pointer) for finding in findings(document)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_bad_example_has_exactly_this_finding(rule: Rule) -> None:
    (finding,) = findings(rule.bad)
    assert (finding.rule, finding.severity) == (rule.id, rule.severity)
    assert finding.message
    assert finding.fix


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_good_example_is_clean(rule: Rule) -> None:
    assert findings(rule.good) == []


def test_rule_ids_are_unique() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    "file", sorted(FIXTURES.rglob("*.json")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_fixture_has_the_findings_written_beside_it(file: Path) -> None:
    found = Run().check_bytes(file.name, file.read_bytes())
    lines = [f"{f.line}:{f.column} {f.rule} {f.pointer}" for f in found]
    assert lines == file.with_suffix(".findings").read_text().splitlines()


def test_rules_page_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert page == rules_doc.render(), "run: python -m worker.lint.rules_doc > docs/rules.md"


# ---- timeouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 30, 999, "30", "0", 120.0])
def test_timeouts_under_a_second_are_suspicious(value: object) -> None:
    data = {
        "default_ringback_timeout": value,
        "default_callback_timeout": value,
        "slots": {"101": {"ringback_timeout": value, "callback_timeout": value}},
    }
    assert broken(data) == [
        ("timeout-in-seconds", "/default_ringback_timeout"),
        ("timeout-in-seconds", "/default_callback_timeout"),
        ("timeout-in-seconds", "/slots/101/ringback_timeout"),
        ("timeout-in-seconds", "/slots/101/callback_timeout"),
    ]


@pytest.mark.parametrize("value", [1000, "1000", 2147483647, None])
def test_timeouts_from_a_second_are_not(value: object) -> None:
    assert broken({"default_ringback_timeout": value}) == []


# ---- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "pointer", "nearest"),
    [
        ({"action": "park", "slott": "1"}, "/slott", "slot"),
        ({"ringback_timeout": 30000}, "/ringback_timeout", "default_ringback_timeout"),
        ({"presence_type": "early"}, "/presence_type", "default_presence_type"),
        ({"Max-Slot-Number": 3}, "/Max-Slot-Number", "max_slot_number"),
        ({"max_slots_number": 3}, "/max_slots_number", "max_slot_number"),
    ],
)
def test_unknown_keys_come_with_the_nearest_known_one(
    data: object, pointer: str, nearest: str
) -> None:
    (finding,) = findings(data)
    assert (finding.rule, finding.pointer) == ("unknown-key", pointer)
    assert finding.fix == f'Did you mean "{nearest}"?'


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("default_presence_type", "presence_type"),
        ("default_callback_timeout", "callback_timeout"),
        ("ringback", "ringback_timeout"),
    ],
)
def test_unknown_keys_of_a_slot_come_with_the_nearest_known_one(key: str, nearest: str) -> None:
    (finding,) = findings({"slots": {"1": {key: 25}}})
    assert (finding.rule, finding.pointer) == ("unknown-key", f"/slots/1/{key}")
    assert finding.fix == f'Did you mean "{nearest}"?'


def test_an_unknown_key_may_be_like_nothing() -> None:
    (finding,) = findings({"action": "park", "zzz": 1})
    assert (finding.rule, finding.fix) == ("unknown-key", "Correct the key or remove it.")


def test_notes_of_user_interfaces_beside_the_data_are_left_alone() -> None:
    assert broken({"module": "park", "data": {}, "id": "x", "metadata": {}, "ui": 1}) == []


# ---- slots --------------------------------------------------------------------------------------


def flow(data: object, **document: object) -> dict[str, object]:
    return {**document, "flow": {"module": "park", "data": data}}


@pytest.mark.parametrize("numbers", [["*4"], ["no_match"]])
def test_a_plain_number_leads_to_automatic_slots(numbers: list[str]) -> None:
    data: dict[str, object] = {"slots": {"100": {}, "101": {}}}
    assert broken(flow(data, numbers=numbers)) == [("unreachable-slot", "/flow/data/slots/100")]


def test_a_flow_without_numbers_is_reached_from_elsewhere() -> None:
    assert broken(flow({"slots": {"vip": {}}}, numbers=[], patterns=[])) == []


def test_a_pattern_too_clever_to_read_reaches_everything() -> None:
    data: dict[str, object] = {"slots": {"vip": {}, "1": {}}}
    assert broken(flow(data, patterns=[r"^\*3(?=x)(.*)$"])) == []


@pytest.mark.parametrize(
    ("key", "data", "patterns", "is_slot"),
    [
        ("_", {}, [], True),
        ("MAX_SLOT_EXCEEDED", {}, [], True),
        ("REMOTE_UNAVAILABLE", {}, [], True),
        ("100", {}, [], True),
        ("vip", {"slots": {"vip": {}}}, [], True),
        ("vip", {"slot": "vip"}, [], True),
        ("vip", {}, ["^(vip|lot)$"], True),
        ("vip", {}, ["^([0-9]+)$"], False),
        ("vip", {}, [], False),
        ("101", {"slot": "102"}, [], False),
        ("timeout", {"slot": ""}, [], False),
    ],
)
def test_child_keys(key: str, data: object, patterns: list[str], is_slot: bool) -> None:
    node = {"module": "park", "data": data, "children": {key: {"module": "hangup"}}}
    expected = [] if is_slot else [("child-is-no-slot", f"/flow/children/{key}")]
    assert broken({"patterns": patterns, "flow": node}) == expected


@pytest.mark.parametrize(
    ("action", "expected"),
    [("auto", 1), ("park", 1), ("direct_park", 1), (None, 1), ("retrieve", 0)],
)
def test_a_limit_wants_a_child_unless_nothing_is_parked(action: object, expected: int) -> None:
    node = {"module": "park", "data": {"action": action, "max_slot_number": 5}}
    assert broken(node) == [("no-max-slot-child", "/data/max_slot_number")] * expected


def test_bare_data_says_nothing_about_children() -> None:
    assert broken({"max_slot_number": 5}) == []


# ---- across files -------------------------------------------------------------------------------


def test_two_files_share_a_slot() -> None:
    run = Run()
    first = json.dumps(flow({"action": "auto", "slot": "101"}, numbers=["1"])).encode()
    second = json.dumps(flow({"slot": 101}, numbers=["2"]), indent=1).encode()
    assert run.check_bytes("first.json", first) == []
    (finding,) = run.check_bytes("second.json", second)
    assert (finding.rule, finding.pointer) == ("shared-slot", "/flow/data/slot")
    assert "first.json:1:" in finding.message


def test_one_flow_may_use_its_slot_twice() -> None:
    park = {"module": "park", "data": {"slot": "101"}}
    menu = {"module": "menu", "data": {}, "children": {"1": park, "2": park}}
    assert broken({"numbers": ["1"], "flow": menu}) == []


def test_memory_of_a_run_does_not_grow_with_clean_files() -> None:
    run = Run()
    for number in range(50):
        run.check_bytes(f"{number}.json", b'{"flow": {"module": "park"}, "numbers": ["1"]}')
    assert (run.files, run.nodes, run.parks, len(run._slot_users)) == (50, 50, 50, 0)


# ---- places -------------------------------------------------------------------------------------


def test_every_park_node_of_a_deep_flow_is_seen() -> None:
    depth = 200
    text = '{"module":"menu","children":{"1":' * depth + '{"module":"park","data":{"slot":[]}}'
    (finding,) = findings(text + "}}" * depth)
    assert finding.pointer == "/children/1" * depth + "/data/slot"


def test_columns_count_characters_not_bytes() -> None:
    (finding,) = findings('{"presence_id": "Réception 🅿",\n "é": 1}')
    assert (finding.line, finding.column) == (2, 2)
