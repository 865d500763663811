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


def test_the_first_key_writes_and_a_second_one_reads():
    other = Secret("o" * 32)
    assert [key.reveal() for key in store(previous_encryption_key=other).encryption_keys] == ["k" * 32, "o" * 32]
    assert len(store(previous_encryption_key=KEY).encryption_keys) == 1
    assert "shorter than 32 characters" in refusal(previous_encryption_key=Secret("k" * 31))


def test_without_its_library_the_error_has_the_install_command(monkeypatch):
    real = util.find_spec
    monkeypatch.setattr(
        "gatepass.config.credential.base.find_spec", lambda name: None if name == "valkey" else real(name)
    )
    assert how_to_install("valkey") in refusal()


def test_it_prints_no_secret():
    assert "kkk" not in repr(store(password=Secret("hidden"))) + str(store().model_dump())
