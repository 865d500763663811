import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gatepass.config.certificates import (
    LOCKED_KEY,
    NO_KEY,
    SHORT_KEY,
    WRONG_KIND,
    end_of_certificate,
    signing_key,
    unusable_files,
)
from gatepass.config.model import Config
from gatepass.config.references import Reference
from tests.unit.tokens.keys import broken_pem, certificate_pem, private_pem, public_pem

ABSENT = "No such file or directory"


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


def with_network(network):
    return Config.model_validate({"upstreams": {"chat": {"base_url": "https://u.example/v1", "network": network}}})


@pytest.fixture
def faults(folder):
    """The problems of a `network` whose files are given by their names in the folder."""

    def found(**files: str) -> dict[str, str]:
        network = {name: str(folder / file) for name, file in files.items()}
        return {str(path[-1]): text for path, text in unusable_files(with_network(network))}

    return found


@pytest.mark.parametrize("file", ["ca", "both"])
def test_a_file_with_a_certificate_is_a_ca_file(faults, file):
    assert faults(ca_file=file) == {}


@pytest.mark.parametrize("files", [{"client_cert": "both"}, {"client_cert": "cert", "client_key": "key"}])
def test_a_certificate_with_its_key_is_taken(faults, files):
    assert faults(**files) == {}


@pytest.mark.parametrize(
    ("files", "setting", "reason"),
    [
        *(({"ca_file": file}, "ca_file", "") for file in ("garbage", "empty", "der", "key")),
        *(({"client_cert": file, "client_key": "key"}, "client_cert", "") for file in ("garbage", "empty", "key")),
        *(({"client_cert": "cert", "client_key": file}, "client_key", "") for file in ("garbage", "cert", "locked")),
        ({"client_cert": "cert", "client_key": "other"}, "client_key", "KEY_VALUES_MISMATCH"),
        ({"client_cert": "cert"}, "client_cert", ""),
        ({"client_cert": "locked-both"}, "client_cert", ""),
        ({"ca_file": "a"}, "ca_file", ABSENT),
        ({"client_cert": "cert", "client_key": "c"}, "client_key", ABSENT),
        ({"ca_file": "."}, "ca_file", "Is a directory"),
        ({"ca_file": "nul\0"}, "ca_file", "embedded null byte"),
    ],
)
def test_a_file_that_the_tls_library_rejects_is_reported_without_a_prompt(faults, files, setting, reason):
    assert [*(found := faults(**files))] == [setting]
    assert found[setting].startswith(f"cannot be used: {reason}")


def test_a_file_is_named_once_although_each_hop_inherits_it_and_never_quoted(folder):
    file = Reference.to_variable("CA", str(folder / "topsecret"))
    upstreams = {name: {"base_url": "https://u.example/v1"} for name in "ab"}
    config = Config.model_validate({"network": {"ca_file": file}, "upstreams": upstreams})
    assert [*unusable_files(config)] == [(("network", "ca_file"), f"cannot be used: {ABSENT}")]


@pytest.mark.parametrize(("kind", "algorithm"), [("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")])
def test_the_kind_of_a_key_decides_its_algorithm(kind, algorithm):
    key = signing_key(private_pem(kind))
    assert key.algorithm == algorithm
    assert "PRIVATE" not in repr(key)


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


@pytest.mark.parametrize("days", [400, 9, 1])
def test_the_end_of_a_listener_s_certificate_is_read_whoever_signed_it(days, tmp_path):
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    for number, authority in enumerate((trustme.CA(), trustme.CA().create_child_ca())):
        leaf = authority.issue_cert("gatepass.corp.example", not_before=end - timedelta(days=500), not_after=end)
        cert, key = str(tmp_path / f"{number}.pem"), str(tmp_path / f"{number}.key")
        Path(cert).write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(key)
        assert ssl.cert_time_to_seconds(end_of_certificate(cert, key)) == end.timestamp()


def test_a_listener_s_certificate_that_has_ended_is_named_as_such(tmp_path):
    end = datetime.now(UTC) - timedelta(days=1)
    leaf = trustme.CA().issue_cert("gatepass.corp.example", not_before=end - timedelta(days=5), not_after=end)
    cert, key = str(tmp_path / "c.pem"), str(tmp_path / "c.key")
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        end_of_certificate(cert, key)
    assert refused.value.verify_message == "certificate has expired"
