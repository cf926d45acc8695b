"""Kazoo's exchanges the worker uses (contract §1.1).

All are declared durable=false, auto_delete=false, internal=false, without arguments; other flags
close the channel with PRECONDITION_FAILED. They vanish with the broker: declare them after every
connect.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Exchange(StrEnum):
    """Exchange names."""

    KAPPS = "kapps"
    """Executes come in."""
    TARGETED = "targeted"
    """Replies in both directions; the key is the queue name."""
    CALLCTL = "callctl"
    """Channel commands; the key is the control queue's name."""
    CALLEVT = "callevt"
    """Call events, park events, channel status queries."""
    PRESENCE = "presence"
    """Lamp updates, probes, resets."""
    SYSCONF = "sysconf"
    CONFIGURATION = "configuration"
    REGISTRAR = "registrar"
    NODES = "nodes"


EXCHANGE_TYPES: Final[Mapping[Exchange, str]] = MappingProxyType(
    {
        Exchange.KAPPS: "topic",
        Exchange.TARGETED: "direct",
        Exchange.CALLCTL: "direct",
        Exchange.CALLEVT: "topic",
        Exchange.PRESENCE: "topic",
        Exchange.SYSCONF: "topic",
        Exchange.CONFIGURATION: "topic",
        Exchange.REGISTRAR: "topic",
        Exchange.NODES: "fanout",
    }
)
"""Exchange to AMQP type; every one is declared non-durable and not auto-delete."""
