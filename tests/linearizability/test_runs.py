"""Real processes on a real RabbitMQ, with faults; see `run` and `checker`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.linearizability.run import Plan, Run
from tests.rabbit import fresh_vhost, require_rabbitmq_server
from worker.broker.private_node import private_node

pytestmark = pytest.mark.broker
OPERATIONS = int(os.environ.get("LIN_OPERATIONS", "20000"))


def keep(folder: Path) -> str:
    return f"the histories are in {folder}"


@pytest.mark.timeout(120)
def test_three_workers_with_a_kill_and_a_disconnect(amqp_url: str, tmp_path: Path) -> None:
    plan = Plan(operations=3000, faults=("kill", "disconnect"), rate=150, patience_s=90)
    with fresh_vhost(amqp_url) as url:
        report = Run(plan=plan, url=url, folder=tmp_path).go()
    assert report.violations == [], f"{report}\n{keep(tmp_path)}"
    assert report.counts["decided"] > 500
    assert report.counts["compared"] > 1000
    assert report.counts["parks"] > 100


@pytest.mark.timeout(120)
def test_a_table_that_gives_slots_away_twice_is_caught(amqp_url: str, tmp_path: Path) -> None:
    """All replicas are wrong alike, so only the order of the log can tell."""
    plan = Plan(operations=400, slots=10, rate=150, patience_s=60, sabotage=True)
    with fresh_vhost(amqp_url) as url:
        report = Run(plan=plan, url=url, folder=tmp_path).go()
    rules = {violation.rule for violation in report.violations}
    assert {"order", "overlap"} <= rules
    assert "replica" not in rules


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_twenty_thousand_operations_with_every_fault(tmp_path: Path) -> None:
    require_rabbitmq_server()
    faults = ("kill", "disconnect", "stop", "freeze", "broker-kill", "wipe")
    plan = Plan(operations=OPERATIONS, faults=faults * 2, rate=150, patience_s=1500)
    with private_node() as node:
        report = Run(plan=plan, url=node.url, folder=tmp_path, node=node).go()
    print(report)
    assert report.violations == [], f"{report}\n{keep(tmp_path)}"
    assert report.counts["decided"] > OPERATIONS / 4
