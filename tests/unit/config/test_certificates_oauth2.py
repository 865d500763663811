import sys
from pathlib import Path
from typing import Any

import pytest

from gatepass.config.certificates import KEY_OF_ANOTHER, LOCKED_KEY, NO_CERTIFICATE, NO_KEY, NO_RSA_KEY, unusable_files
from gatepass.config.credential.base import how_to_install
from gatepass.config.model import Config
from gatepass.config.references import Reference
from tests.unit.tokens.keys import certificate_pem, private_pem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "key": private_pem("rsa"),
        "cert": certificate_pem("rsa"),
        "garbage": "nothing",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def faults(**block: Any) -> dict[str, str]:
    corp = {"type": "oauth2", "token_url": "https://sso.example/t", "client_id": "me", **block}
    upstreams = {"u": {"base_url": "https://u.example/v1"}}
    config = Config.model_validate({"upstreams": upstreams, "credentials": {"corp": corp}})
    return {".".join(map(str, path)).removeprefix("credentials.corp."): text for path, text in unusable_files(config)}


def signing(folder: Path, file: str) -> dict[str, str]:
    return faults(client_auth="private_key_jwt", private_key=Reference.to_file(str(folder / file)))


@pytest.mark.parametrize(
    ("file", "expected"), [("key", {}), ("cert", {"private_key": NO_KEY}), ("garbage", {"private_key": NO_KEY})]
)
def test_a_key_is_tried_at_load(folder, file, expected):
    assert signing(folder, file) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (private_pem("rsa") + certificate_pem("rsa"), {}),
        (certificate_pem("rsa") + private_pem("rsa"), {}),
        (private_pem("rsa"), {"certificate_file": NO_CERTIFICATE}),
        (certificate_pem("rsa"), {"certificate_file": NO_KEY}),
        (private_pem("rsa") + certificate_pem("other-rsa"), {"certificate_file": KEY_OF_ANOTHER}),
        (private_pem("p256") + certificate_pem("p256"), {"certificate_file": NO_RSA_KEY}),
        (private_pem("rsa", b"phrase") + certificate_pem("rsa"), {"certificate_file": LOCKED_KEY}),
    ],
    ids=["key first", "certificate first", "no certificate", "no key", "another key", "P-256", "locked"],
)
def test_a_certificate_is_tried_at_load(tmp_path, text, expected):
    (tmp_path / "app.pem").write_text(text)
    assert faults(client_auth="private_key_jwt", certificate_file=str(tmp_path / "app.pem")) == expected


def test_without_its_library_a_key_is_refused_with_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    expected = f"private_key_jwt needs a library that is not installed: {how_to_install('crypto')}"
    assert signing(folder, "garbage") == {"client_auth": expected}
    assert faults(client_auth="basic", client_secret="s") == {}
