"""The table of settings: name, default, unit, limits and meaning of each, in one place.

`worker.settings` reads values by it and prints docs/settings.md from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from worker.parking.model import Compat, PresenceType

DAY_MS = 86_400_000
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "text")

Parse = Callable[[str], object]
"""Text to value; raises ValueError whose text completes "must be …"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen. An empty host means every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def redact_url(url: str) -> str:
    """The URL with its password, and any query, replaced by ``***``. Never raises."""
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        return "***"
    netloc = parts.netloc
    if has_password:
        user, _, host = netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}:***@{host}"
    return f"{parts.scheme}://{netloc}{parts.path}{'?***' if parts.query else ''}"


# --- one value ------------------------------------------------------------------------------


def _integer(low: int, high: int) -> Parse:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return parse


def _presence_type(text: str) -> PresenceType:
    return PresenceType(_choice(*PresenceType)(text))


def _compat(text: str) -> Compat:
    return Compat(_choice(*Compat)(text))


def _name(pattern: str, wanted: str) -> Parse:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(wanted)
        return text

    return parse


def _amqp_urls(text: str) -> tuple[str, ...]:
    urls = tuple(url.strip() for url in text.split(",") if url.strip())
    wanted = "amqp://user:password@host:port/vhost (or amqps://, or several with commas between)"
    if not urls:
        raise ValueError(wanted)
    for url in urls:
        try:
            parts: SplitResult = urlsplit(url)
            good = parts.scheme in {"amqp", "amqps"} and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"{wanted}, not {redact_url(url)}")
    return urls


def _address(text: str) -> Address | None:
    if not text:
        return None
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]*)):([0-9]{1,5})", text)
    if not match or int(match[3]) > 65535:  # noqa: PLR2004 - the largest port
        raise ValueError("host:port, such as 127.0.0.1:9464, or empty for off")
    return Address(host=match[1] or match[2] or "", port=int(match[3]))


def _path(text: str) -> Path | None:
    return Path(text) if text else None


# --- the table ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row of the table of settings. ``default`` is text, read like a value the user gave."""

    name: str
    field: str
    kind: str
    default: str
    meaning: str
    parse: Parse
    unit: str = ""
    secret: bool = False
    """May be given as ``<name>_FILE`` too, and is never printed."""
    shown_default: str = ""
    """For the table, when the default is worked out."""


def _number(name: str, default: int, unit: str, limits: tuple[int, int], *, meaning: str) -> Option:
    return Option(
        name=name,
        field=name.removeprefix("KZPARK_").lower(),
        kind=f"whole number, {limits[0]} to {limits[1]}",
        default=str(default),
        unit=unit,
        meaning=meaning,
        parse=_integer(*limits),
    )


_NO_SYSCONF = " when Kazoo's `sysconf` does not answer"

OPTIONS: tuple[Option, ...] = (
    Option(
        name="KZPARK_AMQP_URL",
        field="amqp_urls",
        kind="AMQP URL, or several with commas between",
        default="amqp://guest:guest@127.0.0.1:5672/%2F",
        meaning="The RabbitMQ of the zone. Of several, the first that can be reached is used.",
        parse=_amqp_urls,
        secret=True,
    ),
    Option(
        name="KZPARK_HTTP",
        field="http",
        kind="host:port",
        default="",
        shown_default="empty: off",
        meaning="Listen address for HTTP. Known, but nothing is served yet.",
        parse=_address,
    ),
    Option(
        name="KZPARK_COMPAT",
        field="compat",
        kind="`fixed` or `strict`",
        default="fixed",
        meaning="`fixed` repairs the defects of Kazoo's own module; `strict` keeps what callers "
        "could hear of them.",
        parse=_compat,
    ),
    Option(
        name="KZPARK_NODE",
        field="node",
        kind="name@host",
        default="",
        shown_default="`kzpark-<8 hex>@<hostname>`, new in every process",
        meaning="Name of this worker in messages, queues and the log. Two workers must never "
        "share one.",
        parse=_name(r"[A-Za-z0-9_.-]{1,64}@[A-Za-z0-9_.-]{1,64}", "name@host"),
    ),
    Option(
        name="KZPARK_ZONE",
        field="zone",
        kind="name",
        default="local",
        meaning="The Kazoo zone this worker serves.",
        parse=_name(r"[A-Za-z0-9_.-]{1,64}", "a name of letters, digits and _ . -"),
    ),
    Option(
        name="KZPARK_LOG_LEVEL",
        field="log_level",
        kind="`debug`, `info`, `warning` or `error`",
        default="info",
        meaning="The least important event that is written. Callers' names and numbers are "
        "written at `debug` only.",
        parse=_choice(*LOG_LEVELS),
    ),
    Option(
        name="KZPARK_LOG_FORMAT",
        field="log_format",
        kind="`json` or `text`",
        default="json",
        meaning="One JSON object per line, or a line for people.",
        parse=_choice(*LOG_FORMATS),
    ),
    _number(
        "KZPARK_LAMP_EXPIRES_S",
        600,
        "s",
        (1, 86_400),
        meaning="How long a lamp stays lit if nothing more is heard of it. It is refreshed "
        "before that.",
    ),
    _number(
        "KZPARK_RINGBACK_TIMEOUT_MS",
        120_000,
        "ms",
        (1, DAY_MS),
        meaning="How long a call is parked before its parker is rung," + _NO_SYSCONF + ".",
    ),
    _number(
        "KZPARK_CALLBACK_TIMEOUT_MS",
        30_000,
        "ms",
        (1, DAY_MS),
        meaning="How long the parker is rung," + _NO_SYSCONF + ".",
    ),
    Option(
        name="KZPARK_PRESENCE_TYPE",
        field="presence_type",
        kind="`early`, `confirmed` or `terminated`",
        default="early",
        meaning="Dialog state of an occupied slot's lamp," + _NO_SYSCONF + ".",
        parse=_presence_type,
    ),
    _number(
        "KZPARK_VALET_CLEANUP_MS",
        3_000,
        "ms",
        (0, DAY_MS),
        meaning="How long a slot stays reserved after the parker of an attended transfer has gone "
        "without completing it," + _NO_SYSCONF + ".",
    ),
    _number(
        "KZPARK_PREFETCH",
        100,
        "messages",
        (1, 65_535),
        meaning="How many messages of the work queue may be in hand at once.",
    ),
    _number(
        "KZPARK_MAX_MESSAGE_BYTES",
        262_144,
        "bytes",
        (1_024, 16_777_216),
        meaning="A longer message goes to the dead letters unread.",
    ),
    _number(
        "KZPARK_EXECUTE_PATIENCE_S",
        60,
        "s",
        (1, 3_600),
        meaning="An execute that is older is answered *continue* and nothing is held.",
    ),
    _number(
        "KZPARK_RECONCILE_S",
        45,
        "s",
        (1, 600),
        meaning="How often each parked channel is checked with the switch; 30 to 60 "
        "outside of tests.",
    ),
    _number(
        "KZPARK_SETTLE_MS",
        1_000,
        "ms",
        (0, 60_000),
        meaning="How long a worker that has just read the log waits before it takes over "
        "calls that seem to have no owner.",
    ),
    Option(
        name="KZPARK_PREFIX",
        field="prefix",
        kind="name",
        default="kzpark",
        meaning="First part of the names of our queues, streams and exchanges. Workers with the "
        "same prefix and broker share one slot table.",
        parse=_name(r"[A-Za-z0-9_.-]{1,64}", "a name of letters, digits and _ . -"),
    ),
    Option(
        name="KZPARK_TRACE",
        field="trace",
        kind="path",
        default="",
        shown_default="empty: off",
        meaning="Keep an exact journal for `kzpark replay` in this file and up to three older "
        "pieces beside it (.1 to .3) of 64 MiB each. It holds callers' names and numbers. One "
        "file per worker.",
        parse=_path,
    ),
    Option(
        name="KZPARK_CONFIG",
        field="config",
        kind="path",
        default="",
        shown_default="empty: none",
        meaning="A TOML file, see below.",
        parse=_path,
    ),
)

ACCOUNT_OPTIONS: tuple[Option, ...] = (
    Option(
        name="parked_presence_type",
        field="presence_type",
        kind="`early`, `confirmed` or `terminated`",
        default="",
        meaning="Dialog state of an occupied slot's lamp.",
        parse=_presence_type,
    ),
    Option(
        name="default_ringback_timeout",
        field="ringback_timeout_ms",
        kind=f"whole number, 1 to {DAY_MS}",
        default="",
        unit="ms",
        meaning="How long a call is parked before its parker is rung.",
        parse=_integer(1, DAY_MS),
    ),
    Option(
        name="default_callback_timeout",
        field="callback_timeout_ms",
        kind=f"whole number, 1 to {DAY_MS}",
        default="",
        unit="ms",
        meaning="How long the parker is rung.",
        parse=_integer(1, DAY_MS),
    ),
    Option(
        name="valet_reservation_cleanup_time_ms",
        field="valet_cleanup_ms",
        kind=f"whole number, 0 to {DAY_MS}",
        default="",
        unit="ms",
        meaning="How long a slot stays reserved for an attended transfer.",
        parse=_integer(0, DAY_MS),
    ),
)
