"""worker.broker.choice: the demo says which broker it plays on, and takes the nearest."""

from __future__ import annotations

import pytest

from worker.broker import choice
from worker.broker.choice import chosen_broker
from worker.broker.private_node import answers, free_port
from worker.errors import BrokerUnreachableError

LOCAL = ("amqp://guest:guest@127.0.0.1:5672/%2F",)


async def test_a_named_broker_is_used_and_its_password_is_not_shown(amqp_url: str) -> None:
    async with chosen_broker([amqp_url], given=True) as broker:
        link = await broker.open_link("a test")
        assert link.server_version >= (3, 9)
        await link.close()
    assert "KZPARK_AMQP_URL" in broker.description
    assert "guest:guest" not in broker.description


async def test_a_named_broker_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(BrokerUnreachableError):
        async with chosen_broker([f"amqp://127.0.0.1:{free_port()}/"], given=True):
            pass


async def test_the_local_broker_is_found(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "answers", lambda _port: True)
    async with chosen_broker([amqp_url], given=False) as broker:
        await (await broker.open_link("a test")).close()
    assert "localhost:5672" in broker.description


async def test_without_a_local_broker_a_private_one_is_started_and_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "answers", lambda _port: False)
    async with choice._private() as node:
        assert answers(node.port)
        await (await choice._rabbit(node.url, "").open_link("a test")).close()
    assert not answers(node.port)
    assert not node.folder.exists()


async def test_without_rabbitmq_it_is_in_memory_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "answers", lambda _port: False)
    monkeypatch.setattr(choice, "server_script", lambda: None)
    async with chosen_broker(LOCAL, given=False) as broker:
        await (await broker.open_link("a test")).close()
    assert broker.description.startswith("in memory (nothing answers on localhost:5672")


async def test_a_local_broker_that_refuses_us_is_no_use(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "answers", lambda _port: True)
    monkeypatch.setattr(choice, "server_script", lambda: None)
    wrong = amqp_url.replace("guest:guest@", "guest:wrong@")
    async with chosen_broker([wrong], given=False) as broker:
        assert broker.description.startswith("in memory (")
        assert "wrong" not in broker.description
