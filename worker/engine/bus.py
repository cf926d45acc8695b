"""The worker among its neighbours: Kazoo's configuration, and advertisements both ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from worker.engine.config import EngineConfig
from worker.engine.neighbours import Neighbours
from worker.engine.ops import Log, Op, Publish
from worker.engine.sysconf import SystemConfig
from worker.kapi import keys, nodes, sysconf
from worker.kapi.exchanges import Exchange
from worker.kapi.fields import Payload

ADVERTISE_MS = 5_000
ADVERTISE_SPREAD_MS = 10_000


class Bus:
    """System configuration (contract §9.1) and node advertisements (contract §10)."""

    def __init__(
        self, config: EngineConfig, emit: Callable[[Op], None], new_id: Callable[[], str]
    ) -> None:
        self._config = config
        self._emit = emit
        self._new_id = new_id
        self.system = SystemConfig(config.system, config.started_at_ms)
        self._neighbours = Neighbours()
        self._advertise_at_ms = config.started_at_ms

    def next_deadline_ms(self) -> int:
        at_ms = self.system.next_deadline_ms()
        return self._advertise_at_ms if at_ms is None else min(at_ms, self._advertise_at_ms)

    def due(self, now_ms: int) -> None:
        self._ask_configuration(now_ms)
        if self._advertise_at_ms <= now_ms:
            self._advertise(now_ms)

    def say_all_again(self, now_ms: int) -> None:
        """After a reconnect: advertise and ask at once."""
        self._advertise_at_ms = now_ms
        self.system.changed(now_ms)

    def switch_nodes(self, now_ms: int) -> int:
        """How many ecallmgr nodes are known to live; 0: none was heard."""
        return self._neighbours.switch_nodes(now_ms)

    def heard(self, payload: Payload, now_ms: int) -> bool:
        """An advertisement; True when a Kamailio is back. Raises MalformedMessageError."""
        notice = nodes.parse_advertisement(payload)
        return notice is not None and self._neighbours.heard(notice, now_ms)

    def configuration_answered(self, payload: Payload) -> None:
        """One value of Kazoo's configuration. Raises MalformedMessageError."""
        answer = sysconf.parse_sysconf_answer(payload)
        complaint = None if answer is None else self.system.answered(answer)
        if complaint is not None:
            fields = {"reason": complaint}
            self._emit(
                Log(event="system configuration ignored", level="warning", fields=fields)
            )

    def _ask_configuration(self, now_ms: int) -> None:
        for category, key in self.system.questions(now_ms):
            msg_id = self._new_id()
            self.system.asked(msg_id, key)
            config = self._config
            payload = sysconf.sysconf_request(
                category, key, node=config.node, msg_id=msg_id, server_id=config.inbox
            )
            self._emit(
                Publish(
                    exchange=Exchange.SYSCONF,
                    routing_key=keys.SYSCONF_GET,
                    payload=payload,
                    mandatory=True,
                )
            )

    def _advertise(self, now_ms: int) -> None:
        msg_id = self._new_id()
        interval_ms = ADVERTISE_MS + int(msg_id[:8], 16) % ADVERTISE_SPREAD_MS
        self._advertise_at_ms = now_ms + interval_ms
        payload = nodes.advertisement(
            node=self._config.node,
            msg_id=msg_id,
            version=self._config.version,
            expires_ms=interval_ms,
            started_at_ms=self._config.started_at_ms,
            zone=self._config.zone,
            settings=self._settings(),
        )
        self._emit(Publish(exchange=Exchange.NODES, routing_key=keys.NODES, payload=payload))

    def _settings(self) -> dict[str, object]:
        """What a replay of our decisions has to know and cannot see: docs/trace.md."""
        config, system = self._config, self.system.defaults
        said: dict[str, object] = {item.name: getattr(system, item.name) for item in fields(system)}
        if system.presence_type is not None:
            said["presence_type"] = system.presence_type.value
        return {
            "compat": config.compat.value,
            "lamp_expires_s": config.lamp_expires_s,
            "reconcile_ms": config.reconcile_ms,
            "patience_ms": config.patience_ms,
            "max_message_bytes": config.max_message_bytes,
            "account_prompts": self.system.account_prompts,
            "system": {name: value for name, value in said.items() if value is not None},
        }
