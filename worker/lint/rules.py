"""The table of rules. docs/rules.md is made from it; every example is a test."""

from __future__ import annotations

from worker.lint import checks
from worker.lint.rule import Rule, Severity

INVALID_JSON = Rule(
    id="invalid-json",
    severity=Severity.ERROR,
    title="The file is no readable JSON",
    why=(
        "Neither the platform nor this check can use the file: it is not UTF-8, not JSON "
        "(RFC 8259: no comments, no trailing commas), nested deeper than 512 levels, larger "
        "than 32 MiB, or cannot be opened."
    ),
    fix="Correct the text at this place.",
    bad='{"module": "park", "data": {"action": "auto",}}',
    good='{"module": "park", "data": {"action": "auto"}}',
)

STRUCTURE = Rule(
    id="structure",
    severity=Severity.ERROR,
    title="The node breaks its schema",
    why=(
        "A worker refuses a park node whose data breaks `schemas/callflows.park.json`: the call "
        "goes on to the wildcard child and is not parked. Of other modules only the shape of the "
        "node is checked (`schemas/callflow.node.json`)."
    ),
    fix="Write what the schema asks for.",
    bad='{"module": "park", "data": {"action": "valet", "default_presence_type": "early"}}',
    good='{"module": "park", "data": {"action": "auto", "default_presence_type": "early"}}',
)

DUPLICATE_KEY = Rule(
    id="duplicate-key",
    severity=Severity.WARNING,
    title="A key stands twice in one object",
    why="Only one of the two counts, and which one depends on the reader.",
    fix="Keep one of them.",
    bad='{"module": "park", "data": {"slots": {"101": {}, "102": {}, "101": {}}}}',
    good='{"module": "park", "data": {"slots": {"101": {}, "102": {}, "103": {}}}}',
)

SHARED_SLOT = Rule(
    id="shared-slot",
    severity=Severity.WARNING,
    title="Two flows park into the same fixed slot",
    why=(
        "A slot holds one call of an account, whichever flow it came through: the second flow "
        "finds the slot taken. Flows that only retrieve may share a slot; flows of different "
        "accounts (`pvt_account_id`) and the same flow exported twice (same `id`) are not "
        "compared."
    ),
    fix="Give each flow a slot of its own, or let a pattern capture the slot.",
    bad="""[
  {"numbers": ["700"], "flow": {"module": "park", "data": {"slot": "101"}}},
  {"numbers": ["701"], "flow": {"module": "park", "data": {"slot": 101}}}
]""",
    good="""[
  {"numbers": ["700"], "flow": {"module": "park", "data": {"slot": "101"}}},
  {"numbers": ["701"], "flow": {"module": "park", "data": {"slot": "102"}}},
  {"numbers": ["801"], "flow": {"module": "park", "data": {"action": "retrieve", "slot": "101"}}}
]""",
)

_TIMEOUT_IN_SECONDS = Rule(
    id="timeout-in-seconds",
    severity=Severity.WARNING,
    title="A timeout under 1000 milliseconds",
    why=(
        "All timeouts of the park node are milliseconds; the platform's own documentation says "
        "seconds for one of them. 30 rings the parker 30 milliseconds after the call was parked."
    ),
    fix="Write milliseconds: multiply by 1000.",
    bad='{"module": "park", "data": {"default_callback_timeout": 30}}',
    good='{"module": "park", "data": {"default_callback_timeout": 30000}}',
    check=checks.timeout_in_seconds,
)

_UNKNOWN_KEY = Rule(
    id="unknown-key",
    severity=Severity.WARNING,
    title="A key the park node does not know",
    why=(
        "Unknown keys are accepted and do nothing. Options of the node begin with `default_`, "
        "those of one slot do not. Of the node itself only near misses and misplaced options are "
        "reported, because user interfaces keep notes of their own there."
    ),
    fix="Correct the key or remove it.",
    bad="""{"module": "park", "data": {
  "slots": {"101": {"default_ringback_timeout": 25000}}
}}""",
    good="""{"module": "park", "data": {
  "slots": {"101": {"ringback_timeout": 25000}}
}}""",
    check=checks.unknown_key,
)

_UNREACHABLE_SLOT = Rule(
    id="unreachable-slot",
    severity=Severity.WARNING,
    title="Options for a slot the flow never uses",
    why=(
        "The slot is the node's `slot`, else what a pattern of the flow captures, else the lowest "
        "free number from 101. No number or pattern of this flow leads to the slot. Reported only "
        "when certain: a pattern too clever to be read is taken to capture anything."
    ),
    fix="Correct the slot or the flow's patterns, or remove the entry.",
    bad=r"""{"patterns": ["^\\*3(10[1-9])$"], "flow": {"module": "park", "data": {
  "slots": {"201": {"ringback_timeout": 25000}}
}}}""",
    good=r"""{"patterns": ["^\\*3(10[1-9])$"], "flow": {"module": "park", "data": {
  "slots": {"101": {"ringback_timeout": 25000}}
}}}""",
    check=checks.unreachable_slot,
)

_SLOT_ABOVE_MAX = Rule(
    id="slot-above-max",
    severity=Severity.WARNING,
    title="A slot above max_slot_number",
    why="Nobody can be parked in a slot above the node's own limit.",
    fix="Raise max_slot_number or correct the slot.",
    bad="""{"module": "park",
 "data": {"max_slot_number": 110, "slots": {"111": {"presence_type": "confirmed"}}},
 "children": {"MAX_SLOT_EXCEEDED": {"module": "voicemail", "data": {}, "children": {}}}}""",
    good="""{"module": "park",
 "data": {"max_slot_number": 110, "slots": {"110": {"presence_type": "confirmed"}}},
 "children": {"MAX_SLOT_EXCEEDED": {"module": "voicemail", "data": {}, "children": {}}}}""",
    check=checks.slot_above_max,
)

_STATIC_SLOT_DIRECT_PARK = Rule(
    id="static-slot-direct-park",
    severity=Severity.WARNING,
    title="direct_park into a fixed slot",
    why=(
        "direct_park parks whoever gets here at once. With a fixed slot the second caller finds "
        "it taken; the platform's own module even overwrites it and loses the first caller."
    ),
    fix="Remove `slot` (automatic slots), or use the action auto or park.",
    bad='{"module": "park", "data": {"action": "direct_park", "slot": "101"}}',
    good='{"module": "park", "data": {"action": "direct_park"}}',
    check=checks.static_slot_direct_park,
)

_NO_MAX_SLOT_CHILD = Rule(
    id="no-max-slot-child",
    severity=Severity.WARNING,
    title="max_slot_number without a child MAX_SLOT_EXCEEDED",
    why=(
        "A call that finds all slots up to the limit taken, or asks for a higher one, takes the "
        "child MAX_SLOT_EXCEEDED, else the wildcard child; without both it is hung up."
    ),
    fix="Add a child MAX_SLOT_EXCEEDED.",
    bad='{"module": "park", "data": {"max_slot_number": 110}, "children": {}}',
    good="""{"module": "park", "data": {"max_slot_number": 110}, "children": {
  "MAX_SLOT_EXCEEDED": {"module": "voicemail", "data": {}, "children": {}}
}}""",
    check=checks.no_max_slot_child,
)

_CHILD_IS_NO_SLOT = Rule(
    id="child-is-no-slot",
    severity=Severity.WARNING,
    title="A child key that is no slot",
    why=(
        "A park node goes on to the child named like the slot when its ringback is not answered, "
        "to MAX_SLOT_EXCEEDED, REMOTE_UNAVAILABLE, or to the wildcard `_`. Nobody gets to this "
        "child."
    ),
    fix='Use a slot as the key, or "_" for everything else.',
    bad="""{"module": "park", "data": {}, "children": {
  "timeout": {"module": "voicemail", "data": {}, "children": {}}
}}""",
    good="""{"module": "park", "data": {}, "children": {
  "101": {"module": "voicemail", "data": {}, "children": {}}
}}""",
    check=checks.child_is_no_slot,
)

_REMOTE_NOT_ROOT = Rule(
    id="remote-not-root",
    severity=Severity.ERROR,
    title="remote_execution on a node that is not the first of its flow",
    why=(
        "The platform tells the worker the child keys of the flow's first node only. Deeper in "
        "the flow the worker cannot know which slots have a child, and unanswered calls take the "
        "wrong one."
    ),
    fix="Make the park node the first node of a flow of its own, and branch to that flow.",
    bad="""{"numbers": ["700"], "flow": {"module": "menu", "data": {}, "children": {
  "1": {"module": "park", "remote_execution": true, "data": {}, "children": {
    "_": {"module": "voicemail", "data": {}, "children": {}}
  }}
}}}""",
    good="""{"numbers": ["700"], "flow":
  {"module": "park", "remote_execution": true, "data": {}, "children": {
    "_": {"module": "voicemail", "data": {}, "children": {}}
  }}
}""",
    check=checks.remote_not_root,
)

_REMOTE_NO_WILDCARD = Rule(
    id="remote-no-wildcard",
    severity=Severity.WARNING,
    title="remote_execution without a wildcard child",
    why=(
        "Whatever a worker cannot do ends with *continue*: no worker answered, the node was "
        "refused, the parker hung up after a ringback. Without a child `_` the call is hung up "
        "then."
    ),
    fix='Add a child "_".',
    bad='{"module": "park", "remote_execution": true, "data": {}, "children": {}}',
    good="""{"module": "park", "remote_execution": true, "data": {}, "children": {
  "_": {"module": "voicemail", "data": {}, "children": {}}
}}""",
    check=checks.remote_no_wildcard,
)

_PRESENCE_TERMINATED = Rule(
    id="presence-terminated",
    severity=Severity.WARNING,
    title='Presence type "terminated"',
    why="The schema allows it, but it makes parking invisible: the lamp of a taken slot is dark.",
    fix="Use early (blinks, can be picked up) or confirmed (in use).",
    bad='{"module": "park", "data": {"slots": {"101": {"presence_type": "terminated"}}}}',
    good='{"module": "park", "data": {"slots": {"101": {"presence_type": "confirmed"}}}}',
    check=checks.presence_terminated,
)

RULES: tuple[Rule, ...] = (
    INVALID_JSON,
    STRUCTURE,
    DUPLICATE_KEY,
    _TIMEOUT_IN_SECONDS,
    _UNKNOWN_KEY,
    _UNREACHABLE_SLOT,
    SHARED_SLOT,
    _SLOT_ABOVE_MAX,
    _STATIC_SLOT_DIRECT_PARK,
    _NO_MAX_SLOT_CHILD,
    _CHILD_IS_NO_SLOT,
    _REMOTE_NOT_ROOT,
    _REMOTE_NO_WILDCARD,
    _PRESENCE_TERMINATED,
)
"""In the order of docs/rules.md."""
