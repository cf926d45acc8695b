"""worker.settings: what is read from where, what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import UsageError
from worker.options import OPTIONS, Address, redact_url
from worker.parking.model import AccountId, Compat, PresenceType
from worker.parking.node import Defaults
from worker.settings import markdown, read_settings

ACCOUNT = AccountId("009afc511c97b2ae693c6cc4920988e8")


def write_config(folder: Path, text: str) -> dict[str, str]:
    path = folder / "kzpark.toml"
    path.write_text(text, encoding="utf-8")
    return {"KZPARK_CONFIG": str(path)}


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(UsageError) as refused:
        read_settings(environ)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = read_settings({})
    assert settings.amqp_urls == ("amqp://guest:guest@127.0.0.1:5672/%2F",)
    assert not settings.amqp_given
    assert settings.http is None
    assert settings.compat is Compat.FIXED
    assert settings.zone == "local"
    assert settings.lamp_expires_s == 600
    assert settings.reconcile_s == 45
    assert settings.accounts == {}
    assert settings.system == Defaults(
        ringback_timeout_ms=120_000,
        callback_timeout_ms=30_000,
        presence_type=PresenceType.EARLY,
        valet_cleanup_ms=3_000,
    )


def test_every_setting_can_be_given_and_lands_in_its_field(tmp_path: Path) -> None:
    given_text = {
        "KZPARK_AMQP_URL": "amqps://u:p@rabbit:5671/a, amqp://[::1]/b",
        "KZPARK_HTTP": "[::1]:9464",
        "KZPARK_COMPAT": "strict",
        "KZPARK_NODE": "kzpark-1@w1.example.com",
        "KZPARK_ZONE": "east",
        "KZPARK_LOG_LEVEL": "debug",
        "KZPARK_LOG_FORMAT": "text",
        "KZPARK_LAMP_EXPIRES_S": "61",
        "KZPARK_RINGBACK_TIMEOUT_MS": "62",
        "KZPARK_CALLBACK_TIMEOUT_MS": "63",
        "KZPARK_PRESENCE_TYPE": "confirmed",
        "KZPARK_VALET_CLEANUP_MS": "64",
        "KZPARK_PREFETCH": "65",
        "KZPARK_MAX_MESSAGE_BYTES": "6600",
        "KZPARK_EXECUTE_PATIENCE_S": "67",
        "KZPARK_RECONCILE_S": "30",
        "KZPARK_SETTLE_MS": "68",
        "KZPARK_PREFIX": "test-1",
        "KZPARK_TRACE": "/var/log/kzpark/journal.jsonl",
        **write_config(tmp_path, ""),
    }
    assert given_text.keys() == {option.name for option in OPTIONS}
    settings = read_settings(given_text)
    assert settings.amqp_urls == ("amqps://u:p@rabbit:5671/a", "amqp://[::1]/b")
    assert settings.amqp_given
    assert settings.http == Address(host="::1", port=9464)
    shown = settings.printable()
    for name in given_text.keys() - {"KZPARK_AMQP_URL"}:
        assert shown[name] == given_text[name]


def test_an_empty_value_counts_as_not_given() -> None:
    assert read_settings({"KZPARK_ZONE": "", "KZPARK_PREFETCH": " "}).zone == "local"


def test_two_processes_get_different_node_names_with_an_at_sign() -> None:
    first, second = read_settings({}).node, read_settings({}).node
    assert first != second
    assert first.startswith("kzpark-")
    assert first.count("@") == 1


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("KZPARK_LAMP_EXPIRES_S", "0", "1 to 86400"),
        ("KZPARK_LAMP_EXPIRES_S", "-5", "whole number"),
        ("KZPARK_PREFETCH", "1.5", "whole number"),
        ("KZPARK_PREFETCH", "٣", "whole number"),
        ("KZPARK_COMPAT", "loose", "fixed, strict"),
        ("KZPARK_PRESENCE_TYPE", "late", "early, confirmed, terminated"),
        ("KZPARK_HTTP", "9464", "host:port"),
        ("KZPARK_HTTP", "localhost:99999", "host:port"),
        ("KZPARK_NODE", "kzpark", "name@host"),
        ("KZPARK_PREFIX", "a b", "letters"),
        ("KZPARK_LOG_LEVEL", "INFO", "debug, info"),
        ("KZPARK_AMQP_URL", "http://x", "amqp://"),
        ("KZPARK_AMQP_URL", "amqp://host:port/", "amqp://"),
        ("KZPARK_AMQP_URL", "amqp://", "amqp://"),
        ("KZPARK_AMQP_URL", ",", "amqp://"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_what_is_wanted(
    name: str, text: str, wanted: str
) -> None:
    reason = refusal({name: text})
    assert reason.startswith(f"{name} must be ")
    assert wanted in reason


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    assert refusal({"KZPARK_AMQP_ULR": "x"}).endswith("did you mean KZPARK_AMQP_URL?")
    assert "docs/settings.md" in refusal({"KZPARK_0123456789": "x"})


def test_names_that_are_not_ours_are_ignored() -> None:
    kubernetes = {
        "KZPARK_SERVICE_HOST": "10.0.0.1",
        "KZPARK_SERVICE_PORT_HTTP": "80",
        "KZPARK_PORT": "tcp://10.0.0.1:80",
        "KZPARK_PORT_80_TCP_ADDR": "10.0.0.1",
        "KZPARK_METRICS_PORT_80_TCP": "tcp://10.0.0.1:80",
    }
    assert read_settings({"PATH": "/bin", "KZPARKING": "x", **kubernetes}).zone == "local"


# --- the file -------------------------------------------------------------------------------


def test_the_file_gives_settings_and_the_environment_wins(tmp_path: Path) -> None:
    config = write_config(tmp_path, 'zone = "east"\nprefetch = 7\nlamp_expires_s = "90"\n')
    settings = read_settings({**config, "KZPARK_ZONE": "west"})
    assert (settings.zone, settings.prefetch, settings.lamp_expires_s) == ("west", 7, 90)


def test_an_account_table_holds_only_what_it_says(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        f'[accounts.{ACCOUNT}]\nparked_presence_type = "confirmed"\n'
        'default_ringback_timeout = 60000\ndefault_callback_timeout = "20000"\n',
    )
    settings = read_settings(config)
    assert settings.account(ACCOUNT) == Defaults(
        presence_type=PresenceType.CONFIRMED,
        ringback_timeout_ms=60_000,
        callback_timeout_ms=20_000,
    )
    assert settings.account(AccountId("f" * 32)) == Defaults()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("zoen = 'x'", "did you mean zone?"),
        ("config = 'x'", "is not a setting"),
        ("zone = 1.5", "must be a text or a whole number"),
        ("prefetch = true", "must be a text or a whole number"),
        ("zone = [", "is not TOML"),
        ("accounts = 1", "must hold tables"),
        ("[accounts.abc]", "32 characters"),
        (f"[accounts]\n{ACCOUNT} = 1", "must be a table"),
        (
            f"[accounts.{ACCOUNT}]\nparked_presense_type = 'early'",
            "did you mean parked_presence_type?",
        ),
        (f"[accounts.{ACCOUNT}]\nparked_presence_type = 'x'", "early, confirmed"),
        (f"[accounts.{ACCOUNT}]\ndefault_ringback_timeout = 0", "1 to"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(
    tmp_path: Path, text: str, wanted: str
) -> None:
    reason = refusal(write_config(tmp_path, text))
    assert "kzpark.toml" in reason
    assert wanted in reason


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    assert "cannot read" in refusal({"KZPARK_CONFIG": str(tmp_path / "none.toml")})
    assert "cannot read" in refusal({"KZPARK_CONFIG": str(tmp_path)})
    (tmp_path / "latin.toml").write_bytes(b"zone = '\xe9'")
    assert "not UTF-8" in refusal({"KZPARK_CONFIG": str(tmp_path / "latin.toml")})


# --- secrets --------------------------------------------------------------------------------


def test_the_url_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("amqp://u:hidden@rabbit/\n", encoding="utf-8")
    settings = read_settings({"KZPARK_AMQP_URL_FILE": str(secret)})
    assert settings.amqp_urls == ("amqp://u:hidden@rabbit/",)


def test_the_url_and_its_file_together_are_refused(tmp_path: Path) -> None:
    both = {"KZPARK_AMQP_URL": "amqp://h", "KZPARK_AMQP_URL_FILE": str(tmp_path)}
    assert "not both" in refusal(both)
    assert "cannot read" in refusal({"KZPARK_AMQP_URL_FILE": str(tmp_path / "none")})


def test_only_a_secret_has_a_file_variant() -> None:
    assert "is not a setting" in refusal({"KZPARK_ZONE_FILE": "/x"})


def test_a_password_is_never_shown() -> None:
    settings = read_settings({"KZPARK_AMQP_URL": "amqp://u:hidden@h/v?x=hidden,amqp://a:hidden@b"})
    assert settings.printable()["KZPARK_AMQP_URL"] == "amqp://u:***@h/v?***,amqp://a:***@b"
    assert "hidden" not in repr(settings)
    assert "hidden" not in refusal({"KZPARK_AMQP_URL": "http://u:hidden@h"})
    assert "hidden" not in refusal({"KZPARK_AMQP_URL": "amqp://u:hidden@h:port"})


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_url_is_read_or_refused_and_redacting_never_fails(text: str) -> None:
    redact_url(text)
    try:
        urls = read_settings({"KZPARK_AMQP_URL": text}).amqp_urls
    except UsageError:
        return
    assert urls


def test_the_page_of_settings_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == markdown(), (
        "run: python -m worker.settings > docs/settings.md"
    )
