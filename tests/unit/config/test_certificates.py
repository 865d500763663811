import ssl

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gatepass.config.certificates import (
    FOREIGN_KEY,
    LOCKED_KEY,
    NO_CERTIFICATE,
    NO_KEY,
    NO_KEY_IN_CERTIFICATE,
    SHORT_KEY,
    TOO_WEAK,
    WRONG_KIND,
    signing_key,
    unusable_files,
)
from gatepass.config.references import Reference
from tests.unit.tokens.keys import broken_pem, certificate_pem, private_pem, public_pem

ABSENT = "cannot be read: No such file or directory"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CA, a client's certificate with its key, and files that are often mistaken for them."""
    folder = tmp_path_factory.mktemp("pem")
    ca = trustme.CA()
    leaf = ca.issue_cert("client.example")
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass"))
    files = {
        "ca": ca.cert_pem.bytes(),
        "cert": leaf.cert_chain_pems[0].bytes(),
        "key": leaf.private_key_pem.bytes(),
        "both": leaf.private_key_and_cert_chain_pem.bytes(),
        "other": ca.issue_cert("other.example").private_key_pem.bytes(),
        "locked": locked,
        "locked-both": locked + leaf.cert_chain_pems[0].bytes(),
        "der": ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode()),
        "garbage": b"-----BEGIN CERTIFICATE-----\nx\n",
        "empty": b"",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def faults(folder):
    """The problems of a `network` whose files are given by their names in the folder."""

    def found(**files: str) -> dict[str, str]:
        network = {name: str(folder / file) for name, file in files.items()}
        tree = {"upstreams": {"chat": {"network": network}}}
        return {str(path[-1]): text for path, text in unusable_files(tree)}

    return found


@pytest.mark.parametrize("file", ["ca", "both"])
def test_a_file_with_a_certificate_is_a_ca_file(faults, file):
    assert faults(ca_file=file) == {}


@pytest.mark.parametrize("file", ["garbage", "empty", "der", "key"])
def test_file_without_a_certificate_is_reported_at_each_setting(faults, file):
    assert faults(ca_file=file) == {"ca_file": NO_CERTIFICATE}
    assert faults(client_cert=file, client_key="key") == {"client_cert": NO_CERTIFICATE}


@pytest.mark.parametrize("files", [{"client_cert": "both"}, {"client_cert": "cert", "client_key": "key"}])
def test_a_certificate_with_its_key_is_taken(faults, files):
    assert faults(**files) == {}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"client_cert": "cert"}, {"client_cert": NO_KEY_IN_CERTIFICATE}),
        ({"client_cert": "cert", "client_key": "other"}, {"client_key": FOREIGN_KEY}),
        ({"client_cert": "cert", "client_key": "garbage"}, {"client_key": FOREIGN_KEY}),
        ({"client_cert": "cert", "client_key": "cert"}, {"client_key": FOREIGN_KEY}),
    ],
)
def test_a_certificate_without_its_key_is_reported_at_the_key(faults, files, expected):
    assert faults(**files) == expected


def test_a_key_with_a_pass_phrase_is_reported_without_a_prompt(faults):
    assert faults(client_cert="cert", client_key="locked") == {"client_key": LOCKED_KEY}
    assert faults(client_cert="locked-both") == {"client_cert": LOCKED_KEY}


def test_a_certificate_that_the_tls_library_finds_too_weak_is_reported(faults, monkeypatch):
    class Strict(ssl.SSLContext):
        """Refuses as OpenSSL does at a high security level: EE_KEY_TOO_SMALL."""

        def load_cert_chain(self, *_):
            error = ssl.SSLError(399, "[SSL: EE_KEY_TOO_SMALL] ee key too small")
            error.reason = "EE_KEY_TOO_SMALL"
            raise error

    monkeypatch.setattr(ssl, "SSLContext", Strict)
    assert faults(client_cert="cert", client_key="key") == {"client_cert": TOO_WEAK}


def test_every_unreadable_file_is_reported_without_follow_up_errors(faults):
    assert faults(ca_file="a", client_cert="b", client_key="c") == {
        "ca_file": ABSENT,
        "client_cert": ABSENT,
        "client_key": ABSENT,
    }
    assert faults(client_cert="cert", client_key="c") == {"client_key": ABSENT}
    assert faults(ca_file=".") == {"ca_file": "cannot be read: Is a directory"}


def test_files_of_credentials_are_checked_and_other_types_left_to_pydantic(folder):
    tree = {
        "credentials": {
            "c": {"network": {"ca_file": "nul\0", "client_key": None}},
            "d": {"network": {"ca_file": 5}},
            "e": {"network": [str(folder / "garbage")]},
        },
        "upstreams": {"chat": {"network": None}},
    }
    assert list(unusable_files(tree)) == [
        (("credentials", "c", "network", "ca_file"), "cannot be read: a NUL in its name")
    ]


def test_a_file_named_by_reference_is_not_quoted(folder):
    file = Reference.to_variable("CA", str(folder / "topsecret"))
    tree = {"upstreams": {"chat": {"network": {"ca_file": file}}}}
    assert [text for _, text in unusable_files(tree)] == [ABSENT]


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")])
def test_the_kind_of_a_key_decides_its_algorithm(kind, algorithm):
    key = signing_key(private_pem(kind))
    assert key.algorithm == algorithm
    assert "PRIVATE" not in repr(key)


def test_an_rsa_key_is_read_without_the_validation_that_takes_a_third_of_a_second(monkeypatch):
    given, read = [], serialization.load_pem_private_key

    def reading(pem, password, **how):
        given.append(how)
        return read(pem, password, **how)

    monkeypatch.setattr(serialization, "load_pem_private_key", reading)
    signing_key(private_pem("rsa"))
    assert given == [{"unsafe_skip_rsa_key_validation": True}]


@pytest.mark.parametrize(
    ("pem", "expected"),
    [
        ("", NO_KEY),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", NO_KEY),
        (public_pem("rsa"), NO_KEY),
        (certificate_pem("rsa"), NO_KEY),
        (private_pem("rsa", b"phrase"), LOCKED_KEY),
        (private_pem("p384"), WRONG_KIND),
        (private_pem("short-rsa"), SHORT_KEY),
        (broken_pem(), NO_KEY),
    ],
    ids=["empty", "garbage", "public", "certificate", "locked", "P-384", "short", "broken"],
)
def test_an_unusable_key_is_reported_without_quoting_it(pem, expected):
    with pytest.raises(ValueError) as caught:
        signing_key(pem)
    assert str(caught.value) == expected
    assert caught.value.__cause__ is None
