from __future__ import annotations

import base64
import ssl

import pytest
from cryptography.hazmat.primitives import hashes

from gatepass.config.signing_key import (
    FOREIGN_CERTIFICATE,
    LOCKED_KEY,
    NO_CERTIFICATE,
    NO_KEY,
    SHORT_KEY,
    SHORT_SECRET,
    WRONG_KIND,
    check_belongs,
    check_secret,
    signing_key,
    thumbprint,
)
from tests.unit.tokens.keys import certificate, certificate_pem, private_pem, public_pem


@pytest.mark.parametrize(
    ("kind", "algorithms", "wanted"), [("rsa", ("RS256", "PS256"), "PS256"), ("p256", ("ES256",), "ES256")]
)
def test_a_key_knows_what_it_can_sign_with(kind, algorithms, wanted):
    key = signing_key(private_pem(kind))
    assert key.algorithms == algorithms
    assert (key.algorithm(None), key.algorithm(wanted)) == (algorithms[0], wanted)
    assert "PRIVATE" not in repr(key)


def test_a_key_is_asked_for_nothing_that_it_cannot():
    with pytest.raises(ValueError, match="is RS256, which the key cannot sign with: it can ES256"):
        signing_key(private_pem("p256")).algorithm("RS256")


@pytest.mark.parametrize(
    ("pem", "told"),
    [
        ("", NO_KEY),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", NO_KEY),
        (public_pem("rsa"), NO_KEY),
        (certificate_pem("rsa"), NO_KEY),
        (private_pem("rsa", b"phrase"), LOCKED_KEY),
        (private_pem("p384"), WRONG_KIND),
        (private_pem("short-rsa"), SHORT_KEY),
    ],
    ids=["empty", "garbage", "public", "certificate", "locked", "P-384", "short"],
)
def test_what_cannot_sign_is_told_without_a_quote(pem, told):
    with pytest.raises(ValueError) as caught:
        signing_key(pem)
    assert str(caught.value) == told
    assert caught.value.__cause__ is None


def test_a_thumbprint_is_the_first_certificates():
    found = thumbprint(f"Bag Attributes\n{certificate_pem('rsa')}{certificate_pem('p256')}")
    assert base64.urlsafe_b64decode(f"{found}=") == certificate("rsa").fingerprint(hashes.SHA256())
    assert len(found) == 43


@pytest.mark.parametrize(
    "pem",
    ["", private_pem("rsa"), "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE----------BEGIN CERTIFICATE-----"],
)
def test_what_holds_no_certificate_is_told(pem):
    with pytest.raises(ValueError) as caught:
        thumbprint(pem)
    assert str(caught.value) == NO_CERTIFICATE


def test_a_certificate_belongs_to_one_key():
    key = signing_key(private_pem("rsa"))
    check_belongs(certificate_pem("rsa"), key)
    for pem, told in (
        (certificate_pem("other-rsa"), FOREIGN_CERTIFICATE),
        (certificate_pem("p256"), FOREIGN_CERTIFICATE),
        (ssl.DER_cert_to_PEM_cert(b"no certificate"), NO_CERTIFICATE),
    ):
        with pytest.raises(ValueError) as caught:
            check_belongs(pem, key)
        assert str(caught.value) == told


def test_a_secret_signs_from_32_bytes_on():
    check_secret("x" * 32)
    check_secret("ä" * 16)
    with pytest.raises(ValueError) as caught:
        check_secret("x" * 31)
    assert str(caught.value) == SHORT_SECRET
