from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.lint.patterns import Flow, Group, is_automatic, read_groups


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"^\*4$", ()),
        (r"^\*3([0-9]*)$", (Group("[0-9]*", False),)),
        (r"^\*3(\d{3})?$", (Group(r"\d{3}", True),)),
        (r"^\*3(?:x(\d+))?$", (Group(r"\d+", True),)),
        (r"^\*3(1)$|^\*4$", (Group("1", True),)),
        (r"^\*3(10[1-9]|110)$", (Group("10[1-9]|110", False),)),
        (r"^(?P<a>\d)(?<b>\d)$", (Group(r"\d", False), Group(r"\d", False))),
        (r"^[()]([)(])$", (Group("[)(]", False),)),
        (r"^\(([0-9])\)$", (Group("[0-9]", False),)),
        (r"^((a)|b)$", (Group("a", True), Group("(a)|b", False))),
    ],
)
def test_groups_are_read(pattern: str, groups: tuple[Group, ...]) -> None:
    assert read_groups(pattern) == groups


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "(?=1)(1)",
        r"(1)\1",
        "(?i)(a)",
        "(*UTF8)(a)",
        "([[:digit:]]+",
        "[[:digit:]]",
        r"\Q(\E",
        "\\",
        "(" * 600,
    ],
)
def test_clever_patterns_are_left_alone(pattern: str) -> None:
    assert read_groups(pattern) is None
    assert Flow((), (pattern,)).can_reach("anything")


@pytest.mark.parametrize(
    ("numbers", "patterns", "slot", "reached"),
    [
        ((), (), "vip", True),
        ((), (r"^\*3([0-9]*)$",), "101", True),
        ((), (r"^\*3([0-9]*)$",), "7", True),
        ((), (r"^\*3([0-9]*)$",), "vip", False),
        ((), (r"^\*3(10[1-9])$",), "201", False),
        ((), (r"^\*3(10[1-9])$",), "109", True),
        ((), (r"^\*3(10[1-9])$", r"^\*4$"), "201", True),
        ((), (r"^\*3(10[1-9])$", r"^\*4$"), "99", False),
        ((), (r"^\*3(10[1-9])?$",), "201", True),
        ((), (r"^\*3(1\d{0,2})$",), "201", False),
        ((), (r"^\*3((1)0(1))$",), "201", True),
        (("*4",), (), "101", True),
        (("*4",), (), "100", False),
        (("*4",), (), "0101", False),
        (("*4",), (), "vip", False),
        (("*4",), (r"^\*3(vip|[0-9]+)$",), "vip", True),
    ],
)
def test_only_certain_things_are_said(
    numbers: tuple[str, ...], patterns: tuple[str, ...], slot: str, reached: bool
) -> None:
    assert Flow(numbers, patterns).can_reach(slot) is reached


@pytest.mark.parametrize(
    ("slot", "automatic"),
    [("101", True), ("99999", True), ("100", False), ("99", False), ("0101", False), ("", False),
     ("vip", False), ("\u0661\u0660\u0661", False), ("9" * 9000, True)],
)  # fmt: skip
def test_automatic_slots(slot: str, automatic: bool) -> None:
    assert is_automatic(slot) is automatic


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            ["^", "$", "\\*", "3", "4", "(", ")", "(?:", "[0-9]", "\\d", "1", "0", "|", "?", "*",
             "+", "{1,2}", "vip"]
        ),
        max_size=9,
    ),
    st.text("*34019vip", max_size=6),
)  # fmt: skip
def test_what_a_pattern_really_captures_is_never_called_unreachable(
    parts: list[str], dialled: str
) -> None:
    pattern = "".join(parts)
    try:
        match = re.search(pattern, dialled, re.ASCII)
    except re.error:
        return
    for captured in match.groups() if match is not None else ():
        if captured:
            assert Flow((), (pattern,)).can_reach(captured)
    if match is not None and not any(match.groups()):
        assert Flow((), (pattern,)).can_reach("101")


@pytest.mark.parametrize("source", ["(a+)+", "a*a*a*a*a*b", "(a|a)*", ".*.*.*.*.*.*x"])
def test_hostile_patterns_cost_nothing(source: str) -> None:
    assert Flow((), (f"^({source})$",)).can_reach("a" * 60)


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_pattern_gets_an_answer(pattern: str, slot: str) -> None:
    assert Flow((), (pattern,)).can_reach(slot) in (True, False)
