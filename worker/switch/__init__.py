"""The simulated Kazoo: what a worker talks to in demos, tests and benchmarks (contract §4.12)."""

from __future__ import annotations

from worker.switch.core import SwitchCore
from worker.switch.plan import (
    ACCOUNT,
    BUSY,
    IGNORE,
    REALM,
    CallPlan,
    Device,
    Ring,
    SwitchPlan,
    Timing,
)
from worker.switch.shell import NotSeenError, SimCall, Switch
from worker.switch.wire import FlowResult
from worker.switch.world import Line, Note

__all__ = [
    "ACCOUNT",
    "BUSY",
    "IGNORE",
    "REALM",
    "CallPlan",
    "Device",
    "FlowResult",
    "Line",
    "NotSeenError",
    "Note",
    "Ring",
    "SimCall",
    "Switch",
    "SwitchCore",
    "SwitchPlan",
    "Timing",
]
