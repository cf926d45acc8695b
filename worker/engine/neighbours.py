"""Who else is on the bus, from node advertisements (contract §10): ecallmgr nodes, Kamailio."""

from __future__ import annotations

from dataclasses import dataclass

from worker.kapi.nodes import GRACE_FACTOR, NodeNotice

ECALLMGR = "ecallmgr"
KAMAILIO = "kamailio"


@dataclass(slots=True)
class _Seen:
    until_ms: int
    notice: NodeNotice


class Neighbours:
    """Nodes whose advertisement has not run out."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def heard(self, notice: NodeNotice, now_ms: int) -> bool:
        """Take a notice; True when a Kamailio is back: new, expired before, or started anew."""
        before = self._seen.get(notice.node)
        gone = before is None or before.until_ms < now_ms
        restarted = before is not None and before.notice.startups != notice.startups
        until_ms = now_ms + int(notice.expires_ms * GRACE_FACTOR)
        self._seen[notice.node] = _Seen(until_ms, notice)
        return _is_kamailio(notice) and (gone or restarted)

    def switch_nodes(self, now_ms: int) -> int:
        """How many ecallmgr nodes live; 0 when none was ever heard."""
        for node in [n for n, seen in self._seen.items() if seen.until_ms < now_ms]:
            if not _is_kamailio(self._seen[node].notice):
                del self._seen[node]
        return sum(ECALLMGR in seen.notice.apps for seen in self._seen.values())


def _is_kamailio(notice: NodeNotice) -> bool:
    return notice.app_name == KAMAILIO or KAMAILIO in notice.apps
