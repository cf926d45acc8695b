"""An engine's configuration as plain values and back: what a trace must tell to be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import cast

from worker.engine.config import EngineConfig
from worker.errors import UsageError
from worker.parking.model import AccountId, Compat, PresenceType, WorkerId
from worker.parking.node import Defaults
from worker.settings import Settings

Plain = dict[str, object]

_NUMBERS = frozenset(
    {"lamp_expires_s", "reconcile_ms", "patience_ms", "max_message_bytes", "started_at_ms"}
)
_DEFAULTS_NUMBERS = ("ringback_timeout_ms", "callback_timeout_ms", "valet_cleanup_ms")
_OVERRIDABLE = ("compat", "lamp_expires_s", "reconcile_ms", "patience_ms", "max_message_bytes")


def defaults_to_plain(defaults: Defaults) -> Plain:
    """Only what is said."""
    plain: Plain = {item.name: getattr(defaults, item.name) for item in fields(defaults)}
    if defaults.presence_type is not None:
        plain["presence_type"] = defaults.presence_type.value
    return {name: value for name, value in plain.items() if value is not None}


def defaults_from_plain(plain: object) -> Defaults:
    """What is not understood is left open."""
    if not isinstance(plain, Mapping):
        return Defaults()
    kind = plain.get("presence_type")
    numbers = {name: plain.get(name) for name in _DEFAULTS_NUMBERS}
    return Defaults(
        presence_type=PresenceType(str(kind)) if kind in tuple(PresenceType) else None,
        **{n: v for n, v in numbers.items() if isinstance(v, int) and not isinstance(v, bool)},
    )


def config_to_plain(config: EngineConfig) -> Plain:
    """Everything, by the fields' names."""
    plain: Plain = {item.name: getattr(config, item.name) for item in fields(config)}
    plain["compat"] = config.compat.value
    plain["system"] = defaults_to_plain(config.system)
    plain["accounts"] = {
        account: defaults_to_plain(defaults) for account, defaults in config.accounts.items()
    }
    return plain


def config_from_plain(plain: Mapping[str, object], base: EngineConfig) -> EngineConfig:
    """``base`` with what ``plain`` says; unknown names and useless values are skipped."""
    changes: dict[str, object] = {}
    for item in fields(EngineConfig):
        value = plain.get(item.name)
        if value is None:
            continue
        if item.name in _NUMBERS:
            if isinstance(value, int) and not isinstance(value, bool):
                changes[item.name] = value
        elif item.name == "compat":
            if value in tuple(Compat):
                changes["compat"] = Compat(str(value))
        elif item.name == "system":
            changes["system"] = defaults_from_plain(value)
        elif item.name == "accounts":
            if isinstance(value, Mapping):
                changes["accounts"] = {
                    AccountId(str(account)): defaults_from_plain(one)
                    for account, one in value.items()
                }
        elif isinstance(value, str):
            changes[item.name] = WorkerId(value) if item.name == "worker" else value
    return replace(base, **changes)  # type: ignore[arg-type]


def settings_to_plain(settings: Settings) -> Plain:
    """What `record` puts into the head: the settings a worker with this environment would have."""
    return {
        "compat": settings.compat.value,
        "lamp_expires_s": settings.lamp_expires_s,
        "reconcile_ms": settings.reconcile_s * 1000,
        "patience_ms": settings.execute_patience_s * 1000,
        "max_message_bytes": settings.max_message_bytes,
        "system": defaults_to_plain(settings.system),
        "accounts": {
            account: defaults_to_plain(defaults) for account, defaults in settings.accounts.items()
        },
    }


def parse_overrides(pairs: list[str]) -> Plain:
    """``NAME=VALUE`` pairs of the command line. Raises UsageError that names the known ones."""
    plain: Plain = {}
    system: Plain = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set wants NAME=VALUE, not {pair!r}")
        if name in _DEFAULTS_NUMBERS or (name in _NUMBERS and name in _OVERRIDABLE):
            if not (text.isascii() and text.isdigit()):
                raise UsageError(f"--set {name} wants a whole number, not {text!r}")
            (system if name in _DEFAULTS_NUMBERS else plain)[name] = int(text)
        elif name == "compat" and text in {mode.value for mode in Compat}:
            plain[name] = text
        elif name == "presence_type" and text in {kind.value for kind in PresenceType}:
            system[name] = text
        else:
            known = ", ".join((*_OVERRIDABLE, *_DEFAULTS_NUMBERS, "presence_type"))
            raise UsageError(f"--set {pair}: known are {known}")
    if system:
        plain["system"] = system
    return plain


def merged(*parts: Mapping[str, object]) -> Plain:
    """The later part wins; ``system`` is merged value by value."""
    whole: Plain = {}
    for part in parts:
        system = {
            **cast("Plain", whole.get("system") or {}),
            **cast("Plain", part.get("system") or {}),
        }
        whole |= part
        if system:
            whole["system"] = system
    return whole
