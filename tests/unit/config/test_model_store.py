from importlib import util

import pytest
from pydantic import ValidationError

from gatepass.config.credential.base import how_to_install
from gatepass.config.model import StoreSettings
from gatepass.types import Secret

KEY = Secret("k" * 32)


def store(**settings):
    return StoreSettings.model_validate({"url": "valkey://127.0.0.1", "encryption_key": KEY, **settings})


def refusal(**settings) -> str:
    with pytest.raises(ValidationError) as raised:
        store(**settings)
    (error,) = raised.value.errors()
    return error["msg"]


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("valkey://store.example", ("store.example", 6379, 0, False)),
        ("valkey://store.example:7000/", ("store.example", 7000, 0, False)),
        ("redis://store.example:7000/15", ("store.example", 7000, 15, False)),
        ("valkeys://store.example/2", ("store.example", 6379, 2, True)),
        ("rediss://[::1]:6380/0", ("::1", 6380, 0, True)),
    ],
)
def test_a_url_sets_host_database_and_tls(url, parts):
    made = store(url=url)
    assert (made.host, made.port, made.database, made.tls) == parts


@pytest.mark.parametrize(
    "url",
    [
        *("http://store.example", "store.example:6379", "valkey://", "valkey:///0", "valkey://store.example:0"),
        *("valkey://store.example/zero", "valkey://store.example/0/1", "valkey://store.example?db=1", "valkey://a b"),
        *("valkey://store.example#x", "unix:///run/valkey.sock", ""),
    ],
)
def test_invalid_store_url_is_refused(url):
    assert "expects valkey://host:6379/0" in refusal(url=url)


def test_a_malformed_url_is_refused():
    assert "host or port is malformed" in refusal(url="valkey://store.example:port")


def test_a_password_in_the_url_is_refused_without_being_quoted():
    reported = refusal(url="valkey://me:pa55word@store.example")
    assert "store.password" in reported
    assert "pa55word" not in reported


def test_a_short_key_is_refused():
    reported = refusal(encryption_key=Secret("k" * 31))
    assert "shorter than 32 characters: create one with `openssl rand -hex 32`" in reported


def test_the_first_key_writes_and_a_second_one_reads():
    other = Secret("o" * 32)
    assert [key.reveal() for key in store(previous_encryption_key=other).encryption_keys] == ["k" * 32, "o" * 32]
    assert len(store(previous_encryption_key=KEY).encryption_keys) == 1
    assert "shorter than 32 characters" in refusal(previous_encryption_key=Secret("k" * 31))


def test_without_a_key_nothing_is_shared():
    with pytest.raises(ValidationError, match="encryption_key"):
        StoreSettings.model_validate({"url": "valkey://127.0.0.1"})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"username": "me"}, "username requires password"),
        ({"network": {"ca_file": "/ca.pem"}}, "write valkeys://"),
        ({"url": "valkeys://store.example", "network": {"client_key": "/k.pem"}}, "client_key requires client_cert"),
        ({"url": "valkey://store.example", "password": Secret("x")}, "plain TCP to another machine"),
        ({"key_prefix": "a b"}, "String should match pattern"),
        ({"timeout_s": 0.0}, "greater than 0"),
        ({"timeout_s": 60.0}, "less than or equal to 5"),
    ],
)
def test_conflicting_store_settings_are_refused(settings, expected):
    assert expected in refusal(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "valkey://127.0.0.1", "password": Secret("x")},
        {"url": "valkey://store.example", "password": Secret("x"), "allow_plain_tcp": True},
        {"url": "valkeys://store.example", "password": Secret("x"), "username": "me"},
        {"url": "valkey://store.example"},
    ],
)
def test_password_needs_loopback_tls_or_permission(settings):
    assert store(**settings).host


def test_without_its_library_the_error_has_the_install_command(monkeypatch):
    real = util.find_spec
    monkeypatch.setattr(
        "gatepass.config.credential.base.find_spec", lambda name: None if name == "valkey" else real(name)
    )
    assert how_to_install("valkey") in refusal()


def test_it_prints_no_secret():
    assert "kkk" not in repr(store(password=Secret("hidden"))) + str(store().model_dump())
