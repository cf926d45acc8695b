"""Parking's defaults as Kazoo's system configuration has them (contract §9.1, §9.3).

Asked over AMQP at start, when a change notice comes, and again while nobody answers; the settings
stand in for what is not answered. Pure.
"""

from __future__ import annotations

import re
from dataclasses import replace

from worker.kapi.sysconf import MEDIA_CATEGORY, PARKING_CATEGORY, SysconfAnswer
from worker.parking.model import PresenceType
from worker.parking.node import Defaults

ASK_AGAIN_MS = 60_000
WAIT_MS = 1_000
"""How long a starting worker waits for answers before it serves with its settings."""
_MAX_MS = 2**31 - 1
_DIGITS = re.compile(r"[0-9]{1,10}")

KEYS = (
    (PARKING_CATEGORY, "default_ringback_timeout"),
    (PARKING_CATEGORY, "default_callback_timeout"),
    (PARKING_CATEGORY, "parked_presence_type"),
    (PARKING_CATEGORY, "valet_reservation_cleanup_time_ms"),
    (MEDIA_CATEGORY, "support_account_overrides"),
)


class SystemConfig:
    """The system's defaults now: ``defaults``, ``account_prompts``."""

    def __init__(self, settings: Defaults, started_at_ms: int) -> None:
        self._settings = settings
        self._asked: dict[str, str] = {}
        self._ask_at_ms: int | None = started_at_ms
        self.defaults = settings
        self.account_prompts = True

    @property
    def waiting(self) -> bool:
        """Questions are open."""
        return bool(self._asked)

    def questions(self, now_ms: int) -> list[tuple[str, str]]:
        """(category, key) pairs to ask now; tell `asked` the Msg-ID of each."""
        if self._ask_at_ms is None or now_ms < self._ask_at_ms:
            return []
        self._asked.clear()
        self._ask_at_ms = now_ms + ASK_AGAIN_MS
        return list(KEYS)

    def asked(self, msg_id: str, key: str) -> None:
        self._asked[msg_id] = key

    def changed(self, now_ms: int) -> None:
        """A change notice came: ask again at once."""
        self._ask_at_ms = now_ms

    def unroutable(self) -> None:
        """The sysconf application is not running: the settings stand until it answers."""
        self._asked.clear()

    def next_deadline_ms(self) -> int | None:
        return self._ask_at_ms

    def answered(self, answer: SysconfAnswer) -> str | None:
        """Take one value over. Returns a complaint when the value is of no use."""
        key = self._asked.pop(answer.request, None)
        if key is None:
            return None
        if not self._asked:
            self._ask_at_ms = None
        return self._apply(key, answer.value)

    def _apply(self, key: str, value: object) -> str | None:
        settings = self._settings
        match key:
            case "default_ringback_timeout" if _is_ms(value):
                self.defaults = replace(self.defaults, ringback_timeout_ms=_ms(value))
            case "default_callback_timeout" if _is_ms(value):
                self.defaults = replace(self.defaults, callback_timeout_ms=_ms(value))
            case "valet_reservation_cleanup_time_ms" if _is_ms(value):
                self.defaults = replace(self.defaults, valet_cleanup_ms=_ms(value))
            case "parked_presence_type" if isinstance(value, str) and value in list(PresenceType):
                self.defaults = replace(self.defaults, presence_type=PresenceType(value))
            case "support_account_overrides":
                self.account_prompts = value not in (False, "false")
            case _:
                self.defaults = _without(self.defaults, key, settings)
                return None if value is None else f"{key} is {value!r}"
        return None


def _without(defaults: Defaults, key: str, settings: Defaults) -> Defaults:
    """Back to the settings for one key: Kazoo has no (usable) value."""
    match key:
        case "default_ringback_timeout":
            return replace(defaults, ringback_timeout_ms=settings.ringback_timeout_ms)
        case "default_callback_timeout":
            return replace(defaults, callback_timeout_ms=settings.callback_timeout_ms)
        case "valet_reservation_cleanup_time_ms":
            return replace(defaults, valet_cleanup_ms=settings.valet_cleanup_ms)
        case "parked_presence_type":
            return replace(defaults, presence_type=settings.presence_type)
        case _:
            return defaults


def _is_ms(value: object) -> bool:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_MS


def _ms(value: object) -> int:
    return int(value) if isinstance(value, int | str) else 0
