import jwt
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, pkcs12

from gatepass.config.certificates import NO_KEY
from gatepass.tokens.vendor.entra import LIFE_S, CertificateFile, certificate
from gatepass.types import Secret
from tests.unit.tokens import keys
from tests.unit.tokens.scripted import failure_of

PEM = (keys.private_pem("rsa") + keys.certificate_pem("rsa")).encode()
LOCKED = (keys.private_pem("rsa", b"phrase") + keys.certificate_pem("rsa")).encode()
UNREADABLE = "contains no readable certificate with its key, or has another pass phrase"


def p12(kind: str, phrase: bytes | None = None, alone: bool = False) -> bytes:
    lock = NoEncryption() if phrase is None else BestAvailableEncryption(phrase)
    found = None if alone else keys.certificate(kind)
    return pkcs12.serialize_key_and_certificates(b"me", keys.key(kind), found, None, lock)


@pytest.mark.parametrize(
    ("data", "password"),
    [(PEM, None), (LOCKED, "phrase"), (p12("rsa"), None), (p12("rsa", b"phrase"), "phrase")],
    ids=["pem", "locked-pem", "p12", "locked-p12"],
)
def test_a_certificate_is_read_in_either_form(data, password):
    found = certificate(data, password)
    assert found.key.private_numbers() == keys.key("rsa").private_numbers()
    assert found.thumbprint == jwt.utils.base64url_encode(keys.certificate("rsa").fingerprint(SHA256())).decode()


@pytest.mark.parametrize(
    ("data", "password", "expected"),
    [
        (b"", None, UNREADABLE),
        (b"garbage", None, UNREADABLE),
        (b"\xff\x00", None, UNREADABLE),
        (keys.certificate_pem("rsa").encode(), None, UNREADABLE),
        (keys.private_pem("rsa").encode(), None, UNREADABLE),
        (LOCKED, None, UNREADABLE),
        (LOCKED, "wrong", UNREADABLE),
        (p12("rsa", b"phrase"), "wrong", UNREADABLE),
        (p12("rsa", alone=True), None, "contains no certificate with an RSA key, which Entra ID requires"),
        (
            (keys.private_pem("p256") + keys.certificate_pem("p256")).encode(),
            None,
            "contains no certificate with an RSA key, which Entra ID requires",
        ),
        (
            (keys.private_pem("other-rsa") + keys.certificate_pem("rsa")).encode(),
            None,
            "contains a key that belongs to another certificate",
        ),
        ((keys.broken_pem() + keys.certificate_pem("rsa")).encode(), None, NO_KEY),
    ],
)
def test_an_unusable_key_is_reported(data, password, expected):
    with pytest.raises(ValueError) as caught:
        certificate(data, password)
    assert str(caught.value) == expected


def test_an_assertion_has_issuer_audience_and_a_lifetime_of_minutes():
    found = certificate(PEM, None)
    text = found.assertion("app-1", "https://issuer.example/token", 1_800_000_000.7)
    header = jwt.get_unverified_header(text)
    assert header == {"alg": "PS256", "typ": "JWT", "x5t#S256": found.thumbprint}
    reported = jwt.decode(
        text,
        keys.public_pem("rsa"),
        ["PS256"],
        {"verify_exp": False, "verify_nbf": False},
        audience="https://issuer.example/token",
    )
    assert len(reported.pop("jti")) == 24
    assert reported == {
        "iss": "app-1",
        "sub": "app-1",
        "aud": "https://issuer.example/token",
        "nbf": 1_800_000_000 - LIFE_S // 2,
        "exp": 1_800_000_000 + LIFE_S,
    }
    assert found.assertion("app-1", "https://issuer.example/token", 1_800_000_000.7) != text


async def test_a_file_is_parsed_again_only_when_it_or_its_pass_phrase_changes(tmp_path):
    path, phrases = tmp_path / "app.pem", ["phrase"]
    path.write_bytes(LOCKED)
    file = CertificateFile(str(path), Secret(lambda: phrases[-1]))
    first, before = file.current(), file.fingerprint()
    assert file.current() is first
    phrases.append("wrong")
    assert (await failure_of(file.current)).reason == f"certificate_file: {path} {UNREADABLE}"
    phrases.append("phrase")
    assert file.current() is first
    path.write_bytes((keys.private_pem("other-rsa", b"phrase") + keys.certificate_pem("other-rsa")).encode())
    assert file.current().thumbprint != first.thumbprint
    assert file.fingerprint() != before


def test_a_certificate_prints_no_key():
    assert "RSAPrivateKey" not in repr(certificate(PEM, None))
