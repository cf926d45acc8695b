"""Addresses of Kazoo processes: plain queue names and ``pid://<pid>/<queue>`` (contract §1.5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from worker.kapi import keys

DELIVER_TO_PID: Final = "Deliver-To-PID"
"""AMQP header that names the process behind a queue."""

_PID_ADDRESS: Final = re.compile(r"pid://(?P<pid>.*)/(?P<queue>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to publish: ``queue`` is the routing key on ``targeted`` or ``callctl``."""

    queue: str
    pid: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """AMQP headers the receiver needs; without them a ``pid://`` receiver drops the message."""
        return {} if self.pid is None else {DELIVER_TO_PID: self.pid}

    @property
    def reachable(self) -> bool:
        """Whether the broker can be asked to deliver there at all.

        A pid of kilobytes would not fit into a frame, and cost the whole connection.
        """
        return self.queue != "" and keys.fits(self.queue) and keys.fits(self.pid or "")


def parse_address(text: str) -> Address:
    """Split an address at its last slash; whatever is no ``pid://`` address is a queue name."""
    match = _PID_ADDRESS.fullmatch(text)
    if match is None:
        return Address(queue=text)
    return Address(queue=match["queue"], pid=match["pid"])
