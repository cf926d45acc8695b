"""Who else is on the bus, from node advertisements (contract §10): ecallmgr nodes, Kamailio."""

from __future__ import annotations

from dataclasses import dataclass

from worker.kapi.nodes import GRACE_FACTOR, NodeNotice

ECALLMGR = "ecallmgr"
KAMAILIO = "kamailio"
MOST_NODES = 1_024
"""More than a zone has; beyond it the node that was silent longest is forgotten."""
LONGEST_MS = 3_600_000
"""However long a node says that its advertisement holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    until_ms: int
    ecallmgr: bool
    kamailio: bool
    startups: tuple[tuple[str, int], ...]
    """Of a Kamailio: another value means a restart."""


class Neighbours:
    """Nodes whose advertisement has not run out."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def heard(self, notice: NodeNotice, now_ms: int) -> bool:
        """Take a notice; True when a Kamailio is back: new, expired before, or started anew."""
        kamailio = notice.app_name == KAMAILIO or KAMAILIO in notice.apps
        seen = _Seen(
            until_ms=now_ms + int(min(notice.expires_ms, LONGEST_MS) * GRACE_FACTOR),
            ecallmgr=ECALLMGR in notice.apps,
            kamailio=kamailio,
            startups=notice.startups if kamailio else (),
        )
        before = self._seen.pop(notice.node, None)
        self._seen[notice.node] = seen
        if len(self._seen) > MOST_NODES:
            del self._seen[next(iter(self._seen))]
        if before is None or before.until_ms < now_ms:
            return kamailio
        return kamailio and before.startups != seen.startups

    def switch_nodes(self, now_ms: int) -> int:
        """How many ecallmgr nodes live; 0 when none was ever heard."""
        for node in [n for n, seen in self._seen.items() if seen.until_ms < now_ms]:
            del self._seen[node]
        return sum(seen.ecallmgr for seen in self._seen.values())
