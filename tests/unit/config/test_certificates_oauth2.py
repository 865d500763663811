from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gatepass.config.certificates import (
    FOREIGN_CERTIFICATE,
    NO_CERTIFICATE,
    NO_DIRECTORY,
    NO_KEY,
    SHORT_SECRET,
    UNWRITABLE,
    unusable_files,
)
from gatepass.config.credential.base import how_to_install
from gatepass.config.references import Reference
from tests.unit.tokens.keys import certificate_pem, private_pem

ABSENT = "cannot be read: No such file or directory"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "key": private_pem("rsa"),
        "cert": certificate_pem("rsa"),
        "other": certificate_pem("other-rsa"),
        "garbage": "nothing",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin").write_bytes(b"\xe4")
    return tmp_path


def faults(**block: Any) -> dict[str, str]:
    tree = {"credentials": {"corp": {"type": "oauth2", **block}}}
    return {".".join(map(str, path)).removeprefix("credentials.corp."): text for path, text in unusable_files(tree)}


def signing(folder: Path, **files: str) -> dict[str, str]:
    named = {name: str(folder / file) if name.endswith("_file") else file for name, file in files.items()}
    return faults(client_auth="private_key_jwt", **named)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"private_key_file": "key"}, {}),
        ({"private_key_file": "key", "certificate_file": "cert", "algorithm": "PS256"}, {}),
        ({"private_key_file": "gone"}, {"private_key_file": ABSENT}),
        ({"private_key_file": "nul\0"}, {"private_key_file": "cannot be read: a NUL in its name"}),
        ({"private_key_file": "latin"}, {"private_key_file": "is not UTF-8 text"}),
        ({"private_key_file": "cert"}, {"private_key_file": NO_KEY}),
        (
            {"private_key_file": "key", "algorithm": "ES256"},
            {"algorithm": "is ES256, which the key does not support: use RS256 or PS256"},
        ),
        ({"private_key_file": "key", "certificate_file": "other"}, {"certificate_file": FOREIGN_CERTIFICATE}),
        ({"private_key_file": "key", "certificate_file": "garbage"}, {"certificate_file": NO_CERTIFICATE}),
        (
            {"private_key_file": "garbage", "certificate_file": "gone", "algorithm": "ES256"},
            {"private_key_file": NO_KEY, "certificate_file": ABSENT},
        ),
        ({"private_key_file": "garbage", "certificate_file": "cert"}, {"private_key_file": NO_KEY}),
    ],
)
def test_keys_and_certificates_are_tried_at_load(folder, files, expected):
    assert signing(folder, **files) == expected


def test_a_key_by_reference_is_tried_too(folder):
    assert signing(folder, private_key=Reference.to_file(str(folder / "key"))) == {}
    assert signing(folder, private_key=Reference.to_file(str(folder / "garbage"))) == {"private_key": NO_KEY}


def test_without_its_library_a_key_is_refused_with_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    expected = f"private_key_jwt needs a library that is not installed: {how_to_install('crypto')}"
    assert signing(folder, private_key_file="garbage") == {"client_auth": expected}
    assert faults(client_auth="basic") == {}


@pytest.mark.parametrize("spelling", ["secret_jwt", "client_secret_jwt"])
def test_a_secret_that_is_too_short_to_sign_with_is_reported(spelling):
    assert faults(client_auth=spelling, client_secret="x" * 31) == {"client_secret": SHORT_SECRET}
    assert faults(client_auth=spelling, client_secret="x" * 32) == {}
    assert faults(client_auth="basic", client_secret="x") == {}


def test_a_refresh_token_is_kept_where_gatepass_can_write(folder, monkeypatch):
    assert faults(refresh_token_file=str(folder / "new")) == {}
    assert faults(refresh_token_file=str(folder / "garbage")) == {}
    for file, reported in (("no/new", NO_DIRECTORY), ("latin", "is not UTF-8 text")):
        assert faults(refresh_token_file=str(folder / file)) == {"refresh_token_file": reported}
    assert "null" in faults(refresh_token_file="nul\0")["refresh_token_file"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert faults(refresh_token_file=str(folder / "new")) == {"refresh_token_file": UNWRITABLE}


@pytest.mark.parametrize(
    "block",
    [
        {"client_auth": 5},
        {"client_auth": "private_key_jwt", "private_key_file": 5},
        {"client_auth": "private_key_jwt", "private_key": None, "certificate_file": []},
        {"client_auth": "secret_jwt", "client_secret": 5},
        {"refresh_token_file": {}},
        {"type": "static", "refresh_token_file": "/no/where"},
        {"type": ["oauth2"]},
    ],
)
def test_what_is_of_a_wrong_type_is_left_to_the_model(block):
    assert faults(**block) == {}


def test_an_algorithm_of_a_wrong_type_is_left_to_the_model(folder):
    tree = {
        "credentials": {
            "a": {
                "type": "oauth2",
                "client_auth": "private_key_jwt",
                "algorithm": 5,
                "private_key_file": str(folder / "key"),
            },
            "b": None,
        }
    }
    assert list(unusable_files(tree)) == []
