"""One frozen `Settings`, read once: environment ``KZPARK_*`` over the TOML file over the defaults.

`worker.options` holds the table of settings; ``python -m worker.settings`` prints docs/settings.md
from it.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from worker.errors import UsageError
from worker.options import ACCOUNT_OPTIONS, OPTIONS, Address, Option, redact_url
from worker.parking.model import AccountId, Compat, PresenceType
from worker.parking.node import Defaults

PREFIX = "KZPARK_"

_KUBERNETES = re.compile(
    r"KZPARK_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)"
    r"(?:_(?:PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes puts into every pod beside a Service called ``kzpark…``: not settings of ours."""


NOTHING_SAID = Defaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, checked. The fields are described by `OPTIONS` and in docs/settings.md."""

    amqp_urls: tuple[str, ...] = field(repr=False)
    """Tried in this order. They hold passwords: print `printable()`, never these."""
    amqp_given: bool = False
    """Whether the user named a broker; else `amqp_urls` is the default (the demo asks)."""
    http: Address | None
    compat: Compat
    node: str
    zone: str
    log_level: str
    log_format: str
    lamp_expires_s: int
    ringback_timeout_ms: int
    callback_timeout_ms: int
    presence_type: PresenceType
    valet_cleanup_ms: int
    prefetch: int
    max_message_bytes: int
    execute_patience_s: int
    reconcile_s: int
    settle_ms: int
    prefix: str
    trace: Path | None
    config: Path | None
    accounts: Mapping[AccountId, Defaults] = field(default_factory=lambda: MappingProxyType({}))
    """What Kazoo keeps in each account's ``configs_callflow.park`` document."""

    def account(self, account: AccountId) -> Defaults:
        """The account's own values; all None when the file has no table for it."""
        return self.accounts.get(account, NOTHING_SAID)

    @property
    def system(self) -> Defaults:
        """What holds when Kazoo's ``sysconf`` does not answer; nothing in it is None."""
        return Defaults(
            ringback_timeout_ms=self.ringback_timeout_ms,
            callback_timeout_ms=self.callback_timeout_ms,
            presence_type=self.presence_type,
            valet_cleanup_ms=self.valet_cleanup_ms,
        )

    def printable(self) -> dict[str, str]:
        """Setting name → value as text, passwords replaced by ``***``."""
        shown = {option.name: _shown(getattr(self, option.field)) for option in OPTIONS}
        shown["KZPARK_AMQP_URL"] = ",".join(redact_url(url) for url in self.amqp_urls)
        return shown


def _shown(value: object) -> str:
    return "" if value is None else str(value)


# --- reading --------------------------------------------------------------------------------


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check everything, once. An empty value counts as not given.

    Raises UsageError with one line that names the setting, what it must be and, for a name that is
    not known, the nearest known one. Passwords never appear in it.
    """
    environ = os.environ if environ is None else environ
    _refuse_unknown_names(environ)
    named = environ.get("KZPARK_CONFIG", "").strip()
    config = Path(named) if named else None
    document = {} if config is None else _read_toml(config)
    tables = document.pop("accounts", {})
    given = _from_file(document, config) | _from_environment(environ)
    values: dict[str, Any] = {}
    for option in OPTIONS:
        where, text = given.get(option.field, (option.name, option.default))
        if option.field == "node" and not text:
            text = _default_node()
        values[option.field] = _parsed(option, where, text)
    values["amqp_given"] = "amqp_urls" in given
    values["accounts"] = _accounts(tables, config)
    return Settings(**values)


def _refuse_unknown_names(environ: Mapping[str, str]) -> None:
    known = [option.name for option in OPTIONS]
    known += [f"{option.name}_FILE" for option in OPTIONS if option.secret]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not _KUBERNETES.fullmatch(name):
            raise UsageError(f"{name} is not a setting{_did_you_mean(name, known)}")


def _did_you_mean(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else "; docs/settings.md lists them"


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Field → (name to blame, text) for each setting the environment gives."""
    given: dict[str, tuple[str, str]] = {}
    for option in OPTIONS:
        text = environ.get(option.name, "").strip()
        path = environ.get(f"{option.name}_FILE", "").strip() if option.secret else ""
        if text and path:
            raise UsageError(f"give {option.name} or {option.name}_FILE, not both")
        if path:
            text = _read_secret(f"{option.name}_FILE", path)
        if text:
            given[option.field] = (f"{option.name}_FILE" if path else option.name, text)
    return given


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{name}: cannot read {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"


def _read_toml(path: Path) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"KZPARK_CONFIG: {path} is not TOML: {error}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"KZPARK_CONFIG: cannot read {path}: {_reason(error)}") from error


def _from_file(document: Mapping[str, object], path: Path | None) -> dict[str, tuple[str, str]]:
    """As `_from_environment`, for the file: names in lower case, without the prefix."""
    names = {_file_key(option): option for option in OPTIONS if option.field != "config"}
    given: dict[str, tuple[str, str]] = {}
    for key, value in document.items():
        if key not in names:
            raise UsageError(f"{path}: {key} is not a setting{_did_you_mean(key, list(names))}")
        text = _text(value, f"{path}: {key}")
        if text:
            given[names[key].field] = (f"{path}: {key}", text)
    return given


def _file_key(option: Option) -> str:
    return option.name.removeprefix(PREFIX).lower()


def _text(value: object, where: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UsageError(f"{where} must be a text or a whole number")


def _accounts(tables: object, path: Path | None) -> Mapping[AccountId, Defaults]:
    if not isinstance(tables, dict):
        raise UsageError(f"{path}: accounts must hold tables, such as [accounts.<account id>]")
    return MappingProxyType(
        {
            AccountId(account): _account(table, f"{path}: accounts.{account}", account)
            for account, table in tables.items()
        }
    )


def _account(table: object, where: str, account: str) -> Defaults:
    if not re.fullmatch(r"[0-9a-f]{32}", account):
        raise UsageError(f"{where}: an account id has 32 characters of 0-9 and a-f")
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table")
    names = {option.name: option for option in ACCOUNT_OPTIONS}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            raise UsageError(f"{where}: {key} is not known{_did_you_mean(key, list(names))}")
        option, place = names[key], f"{where}.{key}"
        values[option.field] = _parsed(option, place, _text(value, place))
    return Defaults(**values)


def _parsed(option: Option, where: str, text: str) -> object:
    try:
        return option.parse(text)
    except ValueError as error:
        shown = "" if option.secret else f", not {text[:80]!r}"
        raise UsageError(f"{where} must be {error}{shown}") from None


def _default_node() -> str:
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "localhost"
    return f"kzpark-{uuid.uuid4().hex[:8]}@{host}"


# --- docs/settings.md -----------------------------------------------------------------------


def markdown() -> str:
    """The text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Written by `python -m worker.settings > docs/settings.md`; a test compares. -->",
        "",
        "Read once, at the start: environment variables over the TOML file over the defaults. An",
        "empty value counts as not given. An unknown `KZPARK_*` name is an error. Milliseconds end",
        "in `_MS`, seconds in `_S`.",
        "",
        "| Setting | Value | Unit | Default | Meaning |",
        "|---|---|---|---|---|",
        *(_row(option) for option in OPTIONS),
        "",
        *_SECRETS_AND_FILE,
        "| Key | Value | Unit | Meaning |",
        "|---|---|---|---|",
        *(f"| `{o.name}` | {o.kind} | {o.unit} | {o.meaning} |" for o in ACCOUNT_OPTIONS),
    ]
    return "\n".join(lines) + "\n"


_SECRETS_AND_FILE = (
    "`KZPARK_AMQP_URL_FILE` names a file that holds the URL, for a secret that must not be in the",
    "environment. Passwords are replaced by `***` wherever a setting is printed.",
    "",
    "## The TOML file",
    "",
    "`KZPARK_CONFIG` names it. At the top, any setting in lower case without `KZPARK_`",
    "(`lamp_expires_s = 300`). Below, a table per account with what Kazoo keeps in the account's",
    "`configs_callflow.park` document, which cannot be asked for over AMQP:",
    "",
    "```toml",
    "[accounts.009afc511c97b2ae693c6cc4920988e8]",
    'parked_presence_type = "confirmed"',
    "default_ringback_timeout = 60000",
    "```",
    "",
    "A value is looked up in the slot's entry of the node, then the node's data, then the",
    "account's table, then the system (`sysconf`, else the settings above). Unknown",
    "keys are errors.",
    "",
)


def _row(option: Option) -> str:
    default = option.shown_default or f"`{option.default}`"
    return f"| `{option.name}` | {option.kind} | {option.unit} | {default} | {option.meaning} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
