"""The demo's stage: phones, calls, and checks that fail the demo with one clear line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from worker.demo.timeline import Timeline
from worker.errors import WorkerError
from worker.switch import REALM, CallPlan, Device, NotSeenError, SimCall, Switch

SLOT = "101"
LAMP = "*3101"
OTHER_LAMP = "*3102"
RINGBACK_MS = 1_200
CALLBACK_MS = 3_000
PATIENCE_S = 4.0
BREATH_S = 0.35
"""Between steps, so that one can read along."""


class StepFailedError(WorkerError):
    """A step of the demo did not happen."""


class Stage:
    """What the scenes use: people, their phones, and `check`."""

    def __init__(self, switch: Switch, timeline: Timeline) -> None:
        self.switch = switch
        self.timeline = timeline
        self.calls: list[SimCall] = []
        self.bob = switch.device("bob-phone", username="bob", name="Bob", number="4002")
        self.carol = switch.device("carol-phone", username="carol", name="Carol", number="4003")
        self.dave = switch.device("dave-phone", username="dave", name="Dave", number="4004")

    async def breathe(self, duration_s: float = BREATH_S) -> None:
        """A pause for the reader."""
        await asyncio.sleep(duration_s)

    async def call(self, who: str, plan: CallPlan) -> SimCall:
        """``who``'s call reaches the park node."""
        if plan.caller is None:
            number = str(4101 + len(self.calls))
            plan = replace(plan, caller_name=who, caller_number=number)
        # The name must be known before the first line is printed.
        call_id = plan.call_id or self.switch.core.world.new_id(who.lower().replace(" ", "-"))
        self.timeline.people[call_id] = who
        call = await self.switch.place_call(replace(plan, call_id=call_id))
        self.calls.append(call)
        return call

    async def transfer_in(
        self, who: str, by: Device, *, slot: str = SLOT, replaces: str = ""
    ) -> SimCall:
        """``by`` transfers ``who`` into a slot; with ``replaces`` after hearing its number."""
        return await self.call(
            who,
            CallPlan(
                number=f"*3{slot}",
                capture_group=slot,
                data=AUTO,
                transferred_by=by,
                replaces=replaces,
            ),
        )

    async def dial(self, device: Device, who: str, *, slot: str = SLOT) -> SimCall:
        """A phone dials a slot's number."""
        return await self.call(
            who,
            CallPlan(
                number=f"*3{slot}",
                capture_group=slot,
                data=AUTO,
                caller=device,
                caller_name=device.name,
                caller_number=device.number,
            ),
        )

    # ---- checks

    def check(self, fact: bool, text: str) -> None:
        """It must be so now. Raises StepFailedError."""
        if not fact:
            raise StepFailedError(text)
        self.timeline.check(text)

    async def see(self, call: SimCall, name: str, text: str, *, times: int = 1) -> None:
        """It must happen to that call soon. Raises StepFailedError."""
        try:
            await call.wait_for(name, PATIENCE_S, times=times)
        except NotSeenError as error:
            raise StepFailedError(f"{text} ({error})") from None
        self.timeline.check(text)

    async def see_result(self, call: SimCall, wanted: str, text: str) -> None:
        try:
            result = await call.wait_result(PATIENCE_S)
        except NotSeenError as error:
            raise StepFailedError(f"{text} ({error})") from None
        self.check(str(result) == wanted, text if str(result) == wanted else f"{text}: {result}")

    async def see_lamp(self, lamp: str, shown: str) -> None:
        words = {"off": "goes out", "early": "blinks", "confirmed": "is lit"}[shown]
        text = f"lamp {lamp} {words} on every phone"
        try:
            await self.switch.wait_lamp(f"{lamp}@{REALM}", shown, PATIENCE_S)
        except NotSeenError:
            raise StepFailedError(text) from None
        self.timeline.check(text)


AUTO: Mapping[str, object] = {
    "action": "auto",
    "default_ringback_timeout": RINGBACK_MS,
    "default_callback_timeout": CALLBACK_MS,
}
"""The node's data in every scene."""
