import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gatepass.config.certificates import FOREIGN_KEY, LOCKED_KEY, NO_CERTIFICATE, NO_KEY, TOO_WEAK, unusable_files
from gatepass.config.checks import NO_WAY
from gatepass.config.load import load
from gatepass.config.problem import ConfigError
from gatepass.config.references import Reference

ABSENT = "cannot be read: No such file or directory"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CA, a client's certificate with its key, and what is often mistaken for them."""
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
    """What is told of a `network` whose files are given by their names in the folder."""

    def found(**files: str) -> dict[str, str]:
        network = {name: str(folder / file) for name, file in files.items()}
        tree = {"upstreams": {"chat": {"network": network}}}
        return {str(path[-1]): text for path, text in unusable_files(tree)}

    return found


@pytest.mark.parametrize("file", ["ca", "both"])
def test_a_file_with_a_certificate_is_a_ca_file(faults, file):
    assert faults(ca_file=file) == {}


@pytest.mark.parametrize("file", ["garbage", "empty", "der", "key"])
def test_a_file_without_a_certificate_is_none(faults, file):
    assert faults(ca_file=file) == {"ca_file": NO_CERTIFICATE}
    assert faults(client_cert=file, client_key="key") == {"client_cert": NO_CERTIFICATE}


@pytest.mark.parametrize("files", [{"client_cert": "both"}, {"client_cert": "cert", "client_key": "key"}])
def test_a_certificate_with_its_key_is_taken(faults, files):
    assert faults(**files) == {}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"client_cert": "cert"}, {"client_cert": NO_KEY}),
        ({"client_cert": "cert", "client_key": "other"}, {"client_key": FOREIGN_KEY}),
        ({"client_cert": "cert", "client_key": "garbage"}, {"client_key": FOREIGN_KEY}),
        ({"client_cert": "cert", "client_key": "cert"}, {"client_key": FOREIGN_KEY}),
    ],
)
def test_a_certificate_without_its_key_is_told_where_the_key_should_be(faults, files, told):
    assert faults(**files) == told


def test_a_key_under_a_pass_phrase_is_told_and_nobody_is_asked_for_it(faults):
    assert faults(client_cert="cert", client_key="locked") == {"client_key": LOCKED_KEY}
    assert faults(client_cert="locked-both") == {"client_cert": LOCKED_KEY}


def test_a_certificate_that_the_tls_library_finds_too_weak_is_told(faults, monkeypatch):
    class Strict(ssl.SSLContext):
        """Refuses as OpenSSL does at a high security level: EE_KEY_TOO_SMALL."""

        def load_cert_chain(self, *_):
            error = ssl.SSLError(399, "[SSL: EE_KEY_TOO_SMALL] ee key too small")
            error.reason = "EE_KEY_TOO_SMALL"
            raise error

    monkeypatch.setattr(ssl, "SSLContext", Strict)
    assert faults(client_cert="cert", client_key="key") == {"client_cert": TOO_WEAK}


def test_every_file_that_cannot_be_read_is_told_and_nothing_follows_from_it(faults):
    assert faults(ca_file="a", client_cert="b", client_key="c") == {
        "ca_file": ABSENT,
        "client_cert": ABSENT,
        "client_key": ABSENT,
    }
    assert faults(client_cert="cert", client_key="c") == {"client_key": ABSENT}
    assert faults(ca_file=".") == {"ca_file": "cannot be read: Is a directory"}


def test_files_of_credentials_count_too_and_what_is_no_name_is_left_to_the_model(folder):
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


def test_what_no_connection_could_use_is_refused_at_load_with_line_and_setting(folder):
    path: Path = folder / "gatepass.yaml"
    path.write_text(
        "upstreams:\n"
        "  chat: {base_url: 'https://llm.example/v1/chat/completions'}\n"
        "  spare:\n"
        "    base_url: https://llm.example/v1\n"
        f"    network: {{ca_file: '{folder}/garbage'}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(str(path), {})
    told = str(caught.value).replace(f"{folder}/", "").splitlines()
    assert [line.partition(",")[0] for line in told] == [
        f"gatepass.yaml:1: upstreams: {NO_WAY.format(first='chat')}",
        "gatepass.yaml:2: upstreams.chat.base_url: ends in /chat/completions",
        f"gatepass.yaml:5: upstreams.spare.network.ca_file: {NO_CERTIFICATE}",
    ]
