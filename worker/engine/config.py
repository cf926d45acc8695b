"""What the engine has to be told once: a plain, frozen subset of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.parking.model import AccountId, Compat, WorkerId
from worker.parking.node import Defaults

NO_DEFAULTS = Defaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Names, defaults and bounds. Durations as in their names."""

    worker: WorkerId
    node: str
    """``name@host``: the Node field of everything we publish."""
    inbox: str
    """Queue bound to ``targeted`` under its own name: our Server-ID."""
    version: str = "0"
    zone: str = ""
    compat: Compat = Compat.FIXED
    system: Defaults = NO_DEFAULTS
    accounts: Mapping[AccountId, Defaults] = field(default_factory=dict)
    lamp_expires_s: int = 600
    reconcile_ms: int = 45_000
    patience_ms: int = 60_000
    """An execute older than this is acted on only when the switch says its channel lives."""
    max_message_bytes: int = 262_144
    started_at_ms: int = 0
