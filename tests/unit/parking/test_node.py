from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from worker.errors import InvalidNodeError
from worker.parking.model import Action, PresenceType, SlotId
from worker.parking.node import (
    Defaults,
    Node,
    Policy,
    SlotOptions,
    over_max,
    parse_node,
    presence_depends_on_slot,
    presence_user,
    presence_user_for,
    requested_slot,
    resolve,
)

SCHEMAS = Path(__file__).resolve().parents[3] / "schemas"


@cache
def schema(name: str) -> Draft202012Validator:
    """The schema as any validator would see it: registered under its file name."""
    resources = {
        path.name: DRAFT202012.create_resource(json.loads(path.read_text()))
        for path in (SCHEMAS / "callflows.park.json", SCHEMAS / "callflow.node.json")
    }
    registry: Registry[Any] = Registry().with_resources(resources.items())
    return Draft202012Validator(resources[name].contents, registry=registry)


def pointers(data: object, name: str = "callflows.park.json") -> list[str]:
    return [
        "".join(f"/{part}" for part in error.absolute_path)
        for error in schema(name).iter_errors(data)
    ]


DOCUMENTED = [
    {},
    {
        "action": "auto",
        "default_ringback_timeout": 120000,
        "default_callback_timeout": 30000,
        "slots": {
            "100": {"ringback_timeout": 10000},
            "101": {"ringback_timeout": 25000, "presence_type": "confirmed"},
        },
    },
    *(
        {
            "action": action,
            "default_ringback_timeout": timeout,
            "default_callback_timeout": timeout,
            "default_presence_type": presence,
            "slots": {
                "100": {
                    "ringback_timeout": timeout,
                    "callback_timeout": timeout,
                    "presence_type": presence,
                }
            },
        }
        for action in ("auto", "park", "retrieve", "direct_park")
        for timeout in (120000, "120000")
        for presence in ("early", "confirmed")
    ),
]


@pytest.mark.parametrize("data", DOCUMENTED)
def test_every_documented_example_is_valid(data: dict[str, Any]) -> None:
    assert pointers(data) == []
    parse_node(data)


@pytest.mark.parametrize(
    "data",
    [
        {"slot": 101},
        {"slot": "vip"},
        {"slot": ""},
        {"slot": "x" * 128},
        {"default_ringback_timeout": 0},
        {"default_ringback_timeout": 2**31 - 1},
        {"max_slot_number": "110"},
        {"custom_presence_id": "true", "presence_id": "lot"},
        {"force_presence_user": "false", "skip_module": True},
        {"hold_media": "local_stream://default"},
        {"default_presence_type": "terminated"},
        {"some_future_key": {"a": [1]}, "slots": {"101": {"future": True}}},
        {"slots": {"101": None}},
        dict.fromkeys(
            [
                "action",
                "slot",
                "default_ringback_timeout",
                "default_callback_timeout",
                "default_presence_type",
                "slots",
                "custom_presence_id",
                "presence_id",
                "max_slot_number",
                "force_presence_user",
                "skip_module",
                "hold_media",
            ]
        ),
    ],
)
def test_what_the_platform_takes_is_valid(data: dict[str, Any]) -> None:
    assert pointers(data) == []
    parse_node(data)


REFUSED = [
    ([], ""),
    ("park", ""),
    (7, ""),
    (None, ""),
    ({"action": "parc"}, "/action"),
    ({"action": ""}, "/action"),
    ({"action": 1}, "/action"),
    ({"slot": ["101"]}, "/slot"),
    ({"slot": True}, "/slot"),
    ({"slot": 1.5}, "/slot"),
    ({"slot": -1}, "/slot"),
    ({"slot": "x" * 129}, "/slot"),
    ({"default_ringback_timeout": "2 minutes"}, "/default_ringback_timeout"),
    ({"default_ringback_timeout": ""}, "/default_ringback_timeout"),
    ({"default_ringback_timeout": -1}, "/default_ringback_timeout"),
    ({"default_ringback_timeout": 2**31}, "/default_ringback_timeout"),
    ({"default_callback_timeout": 1.5}, "/default_callback_timeout"),
    ({"default_callback_timeout": False}, "/default_callback_timeout"),
    ({"default_callback_timeout": {}}, "/default_callback_timeout"),
    ({"default_presence_type": "busy"}, "/default_presence_type"),
    ({"slots": []}, "/slots"),
    ({"slots": {"101": 5}}, "/slots/101"),
    ({"slots": {"101": {"ringback_timeout": "x"}}}, "/slots/101/ringback_timeout"),
    ({"slots": {"101": {"callback_timeout": []}}}, "/slots/101/callback_timeout"),
    ({"slots": {"101": {"presence_type": "busy"}}}, "/slots/101/presence_type"),
    ({"slots": {"101": {"presence_id": 5}}}, "/slots/101/presence_id"),
    ({"slots": {"x" * 129: {}}}, "/slots"),
    ({"custom_presence_id": 1}, "/custom_presence_id"),
    ({"custom_presence_id": "yes"}, "/custom_presence_id"),
    ({"presence_id": 5}, "/presence_id"),
    ({"presence_id": "x" * 256}, "/presence_id"),
    ({"max_slot_number": "many"}, "/max_slot_number"),
    ({"force_presence_user": 0}, "/force_presence_user"),
    ({"skip_module": "no"}, "/skip_module"),
    ({"hold_media": ["a"]}, "/hold_media"),
]


@pytest.mark.parametrize(("data", "pointer"), REFUSED)
def test_wrong_data_is_refused_where_it_is_wrong(data: object, pointer: str) -> None:
    assert pointers(data) == [pointer]


@pytest.mark.parametrize(("data", "pointer"), [pair for pair in REFUSED if pair[1].count("/")])
def test_node_schema_refuses_park_data_anywhere_in_the_flow(data: object, pointer: str) -> None:
    flow = {"module": "menu", "children": {"1": {"module": "park", "data": data}}}
    assert pointers(flow, "callflow.node.json") == [f"/children/1/data{pointer}"]


@pytest.mark.parametrize(
    ("node", "found"),
    [
        ({"module": "park"}, []),
        ({"module": "park", "remote_execution": True, "data": {}, "children": {}}, []),
        ({"module": "voicemail", "data": {"slot": [], "action": 5}}, []),
        ({"data": {}}, [""]),
        ({"module": ""}, ["/module"]),
        ({"module": "menu", "data": []}, ["/data"]),
        ({"module": "menu", "children": []}, ["/children"]),
        ({"module": "menu", "children": {"_": {"data": {}}}}, ["/children/_"]),
        ({"module": "menu", "remote_execution": 1}, ["/remote_execution"]),
    ],
)
def test_other_modules_are_checked_for_shape_only(node: object, found: list[str]) -> None:
    assert pointers(node, "callflow.node.json") == found


def test_no_data_is_park_with_an_automatic_slot() -> None:
    assert parse_node(None) == parse_node({}) == Node()
    assert Node().action is Action.PARK
    assert requested_slot(Node(), "") is None


def test_values_are_coerced() -> None:
    node = parse_node(
        {
            "action": "direct_park",
            "slot": 101,
            "default_ringback_timeout": "60000",
            "default_callback_timeout": 30000.0,
            "default_presence_type": "confirmed",
            "slots": {"101": {"ringback_timeout": "5000", "presence_id": "lot"}, "102": None},
            "custom_presence_id": "true",
            "presence_id": "all",
            "max_slot_number": "110",
            "force_presence_user": True,
            "skip_module": "false",
            "hold_media": "moh",
        }
    )
    assert node == Node(
        action=Action.DIRECT_PARK,
        slot="101",
        ringback_timeout_ms=60000,
        callback_timeout_ms=30000,
        presence_type=PresenceType.CONFIRMED,
        slots={
            "101": SlotOptions(ringback_timeout_ms=5000, presence_id="lot"),
            "102": SlotOptions(),
        },
        custom_presence_id=True,
        presence_id="all",
        max_slot=110,
        force_presence_user=True,
        hold_media="moh",
    )


@pytest.mark.parametrize("slot", [101, 101.0, "101"])
def test_a_slot_is_text_however_it_is_written(slot: object) -> None:
    assert parse_node({"slot": slot}).slot == "101"


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"action": "parc"}, "/action"),
        ({"slot": ["101"]}, "/slot"),
        ({"slot": True}, "/slot"),
        ({"slot": 1.5}, "/slot"),
        ({"default_ringback_timeout": "soon"}, "/default_ringback_timeout"),
        ({"default_callback_timeout": 1.5}, "/default_callback_timeout"),
        ({"default_callback_timeout": False}, "/default_callback_timeout"),
        ({"default_presence_type": ["early"]}, "/default_presence_type"),
        ({"slots": []}, "/slots"),
        ({"slots": {"a/b~": 5}}, "/slots/a~1b~0"),
        ({"slots": {"101": {"presence_type": "busy"}}}, "/slots/101/presence_type"),
        ({"slots": {"101": {"presence_id": 5}}}, "/slots/101/presence_id"),
        ({"skip_module": "no"}, "/skip_module"),
    ],
)
def test_parsing_unchecked_data_names_the_pointer(data: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidNodeError) as caught:
        parse_node(data)
    assert caught.value.pointer == pointer


# ---- the documented order -----------------------------------------------------------------------

LEVELS = ("slot", "node", "account", "system")
BUILT_IN = Policy(
    ringback_timeout_ms=120_000,
    callback_timeout_ms=30_000,
    presence_type=PresenceType.EARLY,
    valet_cleanup_ms=3_000,
)


def test_built_in_defaults() -> None:
    assert resolve(Node(), SlotId("101"), Defaults(), Defaults()) == BUILT_IN
    assert resolve(Node(), None) == BUILT_IN


options = st.fixed_dictionaries(
    {},
    optional={
        "ringback_timeout_ms": st.integers(0, 10**6),
        "callback_timeout_ms": st.integers(0, 10**6),
        "presence_type": st.sampled_from(PresenceType),
    },
)


@given(slot=options, node=options, account=options, system=options, listed=st.booleans())
def test_the_first_level_that_says_something_wins(
    slot: dict[str, Any],
    node: dict[str, Any],
    account: dict[str, Any],
    system: dict[str, Any],
    listed: bool,
) -> None:
    name = "101" if listed else "102"
    policy = resolve(
        Node(slots={name: SlotOptions(**slot)}, **node),
        SlotId("101"),
        Defaults(**account),
        Defaults(**system),
    )
    levels = [*([slot] if listed else []), node, account, system]
    for key in ("ringback_timeout_ms", "callback_timeout_ms", "presence_type"):
        said = [level[key] for level in levels if key in level]
        assert getattr(policy, key) == [*said, getattr(BUILT_IN, key)][0]


def test_zero_is_a_value_and_not_a_gap() -> None:
    node = parse_node({"default_ringback_timeout": 9, "slots": {"1": {"ringback_timeout": 0}}})
    assert resolve(node, SlotId("1")).ringback_timeout_ms == 0


def test_valet_cleanup_comes_from_account_then_system() -> None:
    account, system = Defaults(valet_cleanup_ms=1), Defaults(valet_cleanup_ms=2)
    assert resolve(Node(), None, account, system).valet_cleanup_ms == 1
    assert resolve(Node(), None, Defaults(), system).valet_cleanup_ms == 2


# ---- slots --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "captured", "slot"),
    [
        ({"slot": "7"}, "101", "7"),
        ({"slot": 7}, "", "7"),
        ({"slot": 0}, "101", "0"),
        ({"slot": ""}, "101", "101"),
        ({}, "101", "101"),
        ({}, "", None),
    ],
)
def test_requested_slot(data: dict[str, Any], captured: str, slot: str | None) -> None:
    assert requested_slot(parse_node(data), captured) == slot


@given(st.integers(0, 10**12), st.one_of(st.none(), st.integers(0, 10**12)), st.integers(0, 3))
def test_over_max_compares_numbers(number: int, limit: int | None, zeros: int) -> None:
    assert over_max("0" * zeros + str(number), limit) is (limit is not None and number > limit)


@pytest.mark.parametrize(
    "slot", ["vip", "", "10a", "-5", "+500", "\u0665\u0660\u0660", "5.0", " 500"]
)
def test_text_is_never_over_max(slot: str) -> None:
    assert not over_max(slot, 0)


def test_any_length_of_digits_is_compared() -> None:
    assert over_max("9" * 5000, 110)
    assert not over_max("0" * 5000 + "110", 110)


# ---- the lamp's user ----------------------------------------------------------------------------

CUSTOM = {"custom_presence_id": "true", "presence_id": "lot"}


@pytest.mark.parametrize(
    ("data", "slot", "request_user", "captured", "user"),
    [
        ({}, "101", "*3101", True, "*3101"),
        ({}, "101", "*4", False, "*4101"),
        ({}, None, "*4", False, "*4{slot}"),
        ({"slot": "921"}, "921", "4101", False, "4101921"),
        ({"custom_presence_id": True}, "101", "*3101", True, "*3101"),
        ({"custom_presence_id": True}, "101", "*4", False, "*4"),
        ({"custom_presence_id": True, "presence_id": "lot"}, "101", "*3101", True, "lot"),
        ({"presence_id": "lot"}, "101", "*3101", True, "*3101"),
        (
            {**CUSTOM, "slots": {"101": {"presence_id": "one"}}},
            "101",
            "*3101",
            True,
            "one",
        ),
        (
            {**CUSTOM, "slots": {"102": {"presence_id": "two"}}},
            "101",
            "*3101",
            True,
            "lot",
        ),
        ({"slots": {"101": {"presence_id": "one"}}}, "101", "*3101", True, "*3101"),
    ],
)
def test_presence_user(
    data: dict[str, Any], slot: str | None, request_user: str, captured: bool, user: str
) -> None:
    asked = SlotId(slot) if slot is not None else None
    assert (
        presence_user(parse_node(data), asked, request_user=request_user, captured=captured) == user
    )


@pytest.mark.parametrize(
    ("request_user", "captured", "slot", "user"),
    [
        ("*3101", True, "101", "*3101"),
        ("*3", False, "101", "*3101"),
        ("*4101", True, "101", "*3101"),
        ("*5101", True, "101", "*3101"),
        ("*4", False, "101", "*3101"),
        ("*97101", True, "101", "*3101"),
        ("101", True, "101", "*3101"),
        ("*4101", True, "921", "*3101"),
        ("4101", True, "101", "4101"),
        ("lot", True, "101", "lot"),
        ("*4", False, None, "*3{slot}"),
        ("*3", False, None, "*3{slot}"),
        ("4000", False, None, "4000{slot}"),
        ("", False, None, "*3{slot}"),
        ("", False, "101", "*3101"),
        ("*4", True, "101", "*4"),
    ],
)
def test_forced_presence_user(
    request_user: str, captured: bool, slot: str | None, user: str
) -> None:
    node = parse_node({"force_presence_user": True})
    asked = SlotId(slot) if slot is not None else None
    assert presence_user(node, asked, request_user=request_user, captured=captured) == user


def test_presence_user_is_left_alone_unless_the_node_forces_it() -> None:
    node = parse_node({})
    slot = SlotId("101")
    assert presence_user_for(node, slot, request_user="*5101", captured=True) == "*5101"


digits = st.text("0123456789", min_size=3, max_size=4)


@given(
    code=st.sampled_from(["*3", "*4", "*5", "*97", "4", "park-", ""]),
    slot=digits,
    force=st.booleans(),
    custom=st.booleans(),
)
def test_a_template_becomes_what_the_decided_slot_gives(
    code: str, slot: str, force: bool, custom: bool
) -> None:
    node = Node(force_presence_user=force, custom_presence_id=custom)
    template = presence_user(node, None, request_user=code, captured=False)
    decided = presence_user_for(node, SlotId(slot), request_user=code, captured=False)
    assert template.replace("{slot}", slot) == decided


@pytest.mark.parametrize(
    ("data", "depends"),
    [
        ({}, False),
        ({"slots": {"101": {"ringback_timeout": 5000}}}, False),
        ({"slots": {"101": {"presence_id": "one"}}}, False),
        ({"custom_presence_id": True, "slots": {"101": {"presence_id": "one"}}}, True),
        ({"slots": {"101": {"presence_type": "confirmed"}}}, True),
    ],
)
def test_whether_a_lamp_depends_on_the_slot(data: dict[str, Any], depends: bool) -> None:
    assert presence_depends_on_slot(parse_node(data)) is depends


# ---- schema and parser agree --------------------------------------------------------------------

KEYS = [*json.loads((SCHEMAS / "callflows.park.json").read_text())["properties"], "unknown"]
SLOT_KEYS = ["ringback_timeout", "callback_timeout", "presence_type", "presence_id"]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**33),
    st.floats(allow_nan=False, width=32),
    st.sampled_from(["park", "auto", "early", "confirmed", "true", "false", "", "120", "1e3"]),
    st.text(max_size=6),
)
anything = st.one_of(scalars, st.lists(scalars, max_size=2))
slot_options = st.dictionaries(st.sampled_from(SLOT_KEYS), scalars, max_size=4)
park_data = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(anything, st.dictionaries(digits, slot_options, max_size=2)),
    max_size=4,
)


@given(park_data)
def test_whatever_the_schema_accepts_can_be_typed(data: dict[str, Any]) -> None:
    if not pointers(data):
        node = parse_node(data)
        assert all(value >= 0 for value in (node.ringback_timeout_ms or 0, node.max_slot or 0))
        resolve(node, SlotId("101"))


@given(park_data)
def test_whatever_cannot_be_typed_is_refused_by_the_schema(data: dict[str, Any]) -> None:
    refused_at = None
    try:
        parse_node(data)
    except InvalidNodeError as error:
        refused_at = error.pointer
    assert refused_at is None or refused_at in pointers(data)
