"""A phone and its Kamailio for tests that are written in steps: each method blocks.

They live on an event loop in a thread of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from tests.lamps.dialog_info import Notify
from tests.lamps.phone import Phone
from tests.lamps.rig import Kamailio

T = TypeVar("T")
PATIENCE_S = 30


class Desk:
    """Use `at_work`. Presentities are ``user@realm``."""

    def __init__(self, kamailio: Kamailio) -> None:
        self.kamailio = kamailio
        self.phone: Phone
        self._stack = contextlib.AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="desk")

    @classmethod
    @contextlib.contextmanager
    def at_work(cls, amqp_url: str) -> Iterator[Desk]:
        """Kamailio runs and the phone is plugged in. At the end nothing unreadable was shown."""
        desk = cls(Kamailio(amqp_url))
        desk._thread.start()
        try:
            desk._do(desk._plug_in())
            yield desk
            if desk.phone.errors():
                raise AssertionError("\n".join(desk.phone.errors()))
        finally:
            desk._do(desk._stack.aclose())
            desk._loop.call_soon_threadsafe(desk._loop.stop)
            desk._thread.join(PATIENCE_S)
            desk._loop.close()

    async def _plug_in(self) -> None:
        await self._stack.enter_async_context(self.kamailio)
        self.phone = await self._stack.enter_async_context(Phone(self.kamailio.sip_port))

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def subscribe(self, *presentities: str) -> None:
        """Watch them, or refresh what is watched."""
        for presentity in presentities:
            self._do(self.phone.subscribe(presentity))

    def subscribe_anew(self, *presentities: str) -> None:
        """As after a reboot of the phone."""
        for presentity in presentities:
            self._do(self.phone.subscribe_anew(presentity))

    def pick_up(self, presentity: str) -> str:
        """The switch fast pick-up would send the call to, or empty."""
        return self._do(self.phone.pick_up(presentity))

    def wait_lit(self, presentity: str, call_id: str, timeout_s: float = 5) -> Notify:
        """Until the lamp is on for that call. Raises PhoneError."""
        return self._do(self.phone.wait_lit(presentity, call_id, timeout_s))

    def wait_dark(self, presentity: str, timeout_s: float = 5) -> Notify:
        """Until the lamp is off. Raises PhoneError."""
        return self._do(self.phone.wait_dark(presentity, timeout_s))

    def settle(self, quiet_s: float = 1.0) -> None:
        """Until no NOTIFY has come for so long."""
        self._do(self.phone.settle(quiet_s))

    def lamp(self, presentity: str) -> str:
        return self.phone.lamp(presentity)

    def lit(self, presentity: str) -> bool:
        return self.phone.lit(presentity)

    def stays(self, presentity: str, lamp: str, duration_s: float = 0.8) -> None:
        """The lamp shows ``lamp`` all that time, and Kamailio would say the same again."""
        deadline_s = time.monotonic() + duration_s
        while time.monotonic() < deadline_s:
            shown = "on" if self.lit(presentity) else "off"
            if shown != lamp:
                raise AssertionError(f"{presentity} is {self.phone.last(presentity)}, not {lamp}")
            time.sleep(0.02)
        self.subscribe(presentity)
        self._do(self.phone.settle(0.1))
        shown = "on" if self.lit(presentity) else "off"
        if shown != lamp:
            raise AssertionError(f"{presentity} is really {self.phone.last(presentity)}")

    def stop_kamailio(self, *, kill: bool = False) -> None:
        self._do(self.kamailio.stop(kill=kill))

    def start_kamailio(self, *, forget: bool = True) -> None:
        """``forget``: subscriptions and lamps are lost."""
        self._do(self.kamailio.start(forget=forget))
