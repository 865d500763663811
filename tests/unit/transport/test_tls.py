from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from gatepass.config.network import Network
from gatepass.transport.tls import Trust, ssl_context


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    authority = trustme.CA()
    client = authority.issue_cert("client.example")
    found = {name: str(tmp_path / f"{name}.pem") for name in ("ca_file", "client_cert", "client_key")}
    authority.cert_pem.write_to_path(found["ca_file"])
    client.cert_chain_pems[0].write_to_path(found["client_cert"])
    client.private_key_pem.write_to_path(found["client_key"])
    return found


def test_a_hops_authority_is_added_to_the_systems(files: dict[str, str]):
    system, own = ssl_context(Network()), ssl_context(Network(ca_file=files["ca_file"]))
    assert own.cert_store_stats()["x509_ca"] == system.cert_store_stats()["x509_ca"] + 1
    assert (own.verify_mode, own.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_client_certificate_is_loaded_with_its_key(files: dict[str, str]):
    ssl_context(Network.model_validate(files))
    with pytest.raises(ssl.SSLError):
        ssl_context(Network(client_cert=files["client_cert"]))


@pytest.mark.parametrize("name", ["ca_file", "client_cert"])
def test_a_file_that_is_none_is_told_of_at_once(files: dict[str, str], name: str, tmp_path: Path):
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for path in (text, tmp_path / "missing.pem"):
        with pytest.raises(OSError):
            ssl_context(Network.model_validate({**files, name: str(path)}))


def test_hops_with_the_same_files_share_one_context(files: dict[str, str]):
    trust = Trust()
    assert trust.of(Network()) is trust.of(Network(proxy="http://p.example"))
    assert trust.of(Network(ca_file=files["ca_file"])) is not trust.of(Network())
