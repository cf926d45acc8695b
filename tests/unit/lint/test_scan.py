from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.lint.scan import MAX_DEPTH, BrokenJsonError, line_and_column, pointer, scan

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values, st.sampled_from([None, 0, 2]), st.booleans())
def test_values_are_what_any_json_reader_sees(
    value: object, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert scan(text).value == value


@given(values, st.sampled_from([None, 2]))
def test_every_place_is_where_its_value_begins(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    document = scan(text)
    decoder = json.JSONDecoder()
    waiting: list[tuple[tuple[str | int, ...], object]] = [((), value)]
    while waiting:
        path, expected = waiting.pop()
        at = document.offset(path)
        assert decoder.raw_decode(text, at)[0] == expected
        if isinstance(expected, dict):
            for key, member in expected.items():
                key_at = document.offset((*path, key), key=True)
                assert decoder.raw_decode(text, key_at)[0] == key
                waiting.append(((*path, key), member))
        elif isinstance(expected, list):
            waiting.extend(((*path, index), member) for index, member in enumerate(expected))


def _integer(digits: str) -> int | float:
    """Long integers are read as floats: no reader down the line keeps all their digits."""
    return int(digits) if len(digits) <= 18 else float(digits)


@given(st.text() | st.text('{}[]",:0123456789.eE+-\\u truefalsn \n\t'))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = scan(text)
    except BrokenJsonError as error:
        assert 0 <= error.offset <= len(text)  # noqa: PT017 - both ends are right
    else:
        read = json.loads(text, parse_int=_integer)
        assert json.dumps(document.value) == json.dumps(read)


@pytest.mark.parametrize(
    ("text", "offset", "reason"),
    [
        ("", 0, "the document ends where a value is expected"),
        ("  ", 2, "the document ends where a value is expected"),
        ('{"a": 1,}', 7, "a comma before '}'"),
        ("[1,]", 2, "a comma before ']'"),
        ("[1 2]", 3, "expected ',' or ']', found '2'"),
        ("{'a': 1}", 1, 'expected a key in double quotes, found "\'"'),
        ('{"a" 1}', 5, "expected ':' after the key, found '1'"),
        ('{"a": }', 6, "expected a value, found '}'"),
        ("// no\n{}", 0, "expected a value, found '/'"),
        ('{"a": 01}', 7, "expected ',' or '}', found '1'"),
        ('{"a": NaN}', 6, "expected a value, found 'N'"),
        ('{"a": 1} x', 9, "something follows the end of the document"),
        ('["a\nb"]', 3, "a control character or line break inside a text"),
        ('["abc', 1, "the text is not closed"),
        ('["abc\\', 1, "the text is not closed"),
        (r'["a\x"]', 3, "a wrong escape in the text"),
        (r'["\ud800"]', 1, "half of a surrogate pair in the text"),
        ('{"a": [', 7, "the document ends where a value is expected"),
        ('{"a"', 4, "the document ends where ':' after the key is expected"),
    ],
)
def test_broken_json_is_named_where_it_breaks(text: str, offset: int, reason: str) -> None:
    with pytest.raises(BrokenJsonError) as caught:
        scan(text)
    assert (caught.value.offset, caught.value.reason) == (offset, reason)


def test_nesting_has_a_limit() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert scan(deepest).value == json.loads(deepest)
    with pytest.raises(BrokenJsonError) as caught:
        scan("[" * 100_000)
    assert caught.value.offset == MAX_DEPTH


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9" * 18, 10**18 - 1),
        ("9" * 5000, math.inf),
        ("-" + "9" * 5000, -math.inf),
        ("1e400", math.inf),
        ("1.0", 1.0),
    ],
)
def test_numbers_of_any_length(text: str, number: float) -> None:
    assert scan(text).value == number


def test_a_key_that_stands_twice_is_kept_in_mind() -> None:
    document = scan('{"a": {"x": 1}, "b": {"y": 2, "y": 3}, "a": {"z": 4}}')
    assert document.value == {"a": {"z": 4}, "b": {"y": 3}}
    assert isinstance(document.value, dict)
    assert document.duplicates == {
        id(document.value): [("a", 39)],
        id(document.value["b"]): [("y", 30)],
    }


@given(st.text(st.sampled_from("ab\n\réÿ𝄞"), max_size=40), st.data())
def test_lines_and_columns_count_characters(text: str, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(text)))
    before = text[:offset]
    expected = before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1
    assert line_and_column(text, offset) == expected


def test_what_is_missing_is_placed_at_what_should_hold_it() -> None:
    document = scan('{"a": {"b": 1}}')
    assert document.offset(("a", "missing")) == 6
    assert document.offset(("a", "b", "deeper")) == 12
    assert document.offset(("missing", "x"), key=True) == 0


def test_pointers_are_escaped() -> None:
    assert pointer(()) == ""
    assert pointer(("slots", "a/b~c", 0)) == "/slots/a~1b~0c/0"
