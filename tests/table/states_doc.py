"""Prints docs/states.md from the table the code runs on: ``python -m tests.table.states_doc``."""

from __future__ import annotations

import inspect
import re

from worker.parking import session
from worker.parking.machine import TRANSITIONS
from worker.parking.session import State, Timer

HEAD = """# The states of a session

Generated from `worker/parking/machine.py` by `python -m tests.table.states_doc > docs/states.md`; a
test fails when it is stale. A pair that is not listed is refused: nothing changes. Upper-case names
are the session's timers.
"""


def waits_for() -> dict[str, str]:
    """The comment behind each state in the source."""
    source = inspect.getsource(session.State)
    return dict(re.findall(r"^\s+(\w+) = \"\w+\"  # (.+)$", source, re.MULTILINE))


def name_of(trigger: object) -> str:
    return trigger.name if isinstance(trigger, Timer) else getattr(trigger, "__name__", "?")


def page() -> str:
    comments = waits_for()
    lines = [HEAD]
    for state in State:
        here = [(trigger, step) for (at, trigger), step in TRANSITIONS.items() if at is state]
        rows = [(name_of(trigger), step) for trigger, step in here]
        if not rows:
            continue
        lines.append(f"## {state.name}\n")
        if state.name in comments:
            lines.append(f"Waits for {comments[state.name]}.\n")
        lines += ["| on | does |", "|---|---|"]
        for name, step in sorted(rows, key=lambda row: row[0]):
            lines.append(f"| {name} | `{step.__module__.rsplit('.', 1)[1]}.{step.__name__}` |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
