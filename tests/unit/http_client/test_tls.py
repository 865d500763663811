import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

from gatepass.config.network import Network
from gatepass.http_client.tls import TLSContexts, TlsProblem, ssl_context, tls_detail, tls_problem


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


@pytest.mark.parametrize("name", ["ca_file", "client_cert"])
def test_unusable_tls_file_is_an_oserror_at_once(files: dict[str, str], name: str, tmp_path: Path):
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for path in (text, tmp_path / "missing.pem"):
        with pytest.raises(OSError):
            ssl_context(Network.model_validate({**files, name: str(path)}))


def renew(files: dict[str, str], *names: str) -> None:
    renewed = trustme.CA().issue_cert("renewed.example")
    pems = {"client_cert": renewed.cert_chain_pems[0], "client_key": renewed.private_key_pem}
    for name in names:
        pems[name].write_to_path(files[name])


class Shown:
    """A server behind the two ends of a pipe of memory, which reports the certificate that it received."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("sso.example").configure_cert(self.context)
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self.authority = authority

    def by(self, context: ssl.SSLContext, files: dict[str, str]) -> bytes | None:
        """The certificate that a new connection of `context` shows; the one in the file is trusted."""
        for end in (self.context, context):
            end.load_verify_locations(cadata=Path(files["client_cert"]).read_text())
        self.authority.configure_trust(context)
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(to_client, to_server, server_hostname="sso.example")
        server = self.context.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server) * 3:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        return server.getpeercert(binary_form=True)


def in_file(files: dict[str, str]) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(files["client_cert"]).read_text())


def test_half_of_a_renewed_pair_is_not_shown_and_the_whole_is(files: dict[str, str]):
    context, server, old = ssl_context(Network.model_validate(files)), Shown(), in_file(files)
    key = Path(files["client_key"]).read_bytes()
    renew(files, "client_cert", "client_key")
    new_key = Path(files["client_key"]).read_bytes()
    Path(files["client_key"]).write_bytes(key)
    server.context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(old))
    assert server.by(context, files) == old
    Path(files["client_key"]).write_bytes(new_key)
    assert server.by(context, files) == in_file(files) != old


def test_missing_certificate_file_keeps_the_last_certificate(files: dict[str, str]):
    context, server, old = ssl_context(Network.model_validate(files)), Shown(), in_file(files)
    key = Path(files["client_key"])
    key.rename(key.with_suffix(".gone"))
    assert server.by(context, files) == old


def test_a_context_with_a_certificate_is_as_strict_as_one_without(files: dict[str, str]):
    with_one, without = ssl_context(Network.model_validate(files)), ssl_context(Network(ca_file=files["ca_file"]))
    for name in ("verify_mode", "check_hostname", "verify_flags", "options", "minimum_version", "maximum_version"):
        assert getattr(with_one, name) == getattr(without, name)
    assert with_one.cert_store_stats() == without.cert_store_stats()


def test_hops_with_the_same_files_share_one_context(files: dict[str, str]):
    trust = TLSContexts()
    assert trust.context_for(Network()) is trust.context_for(Network(proxy="http://p.example"))
    assert trust.context_for(Network(ca_file=files["ca_file"])) is not trust.context_for(Network())


def test_only_a_hop_without_tls_trusts_no_ca(files: dict[str, str]):
    trust, plain, system = TLSContexts(), "http://u.example/v1", TLSContexts().context_for(Network())
    context = trust.context_for(Network(proxy="http://p.example"), plain)
    assert (context.cert_store_stats()["x509"], context.verify_mode, context.check_hostname) == (
        0,
        ssl.CERT_REQUIRED,
        True,
    )
    assert TLSContexts(trust).context_for(Network(), plain) is context
    for network, url in (
        (Network(), "HTTPS://u.example/v1"),
        (Network(proxy="https://p.example"), plain),
        (Network(ca_file=files["ca_file"]), plain),
    ):
        assert trust.context_for(network, url).cert_store_stats()["x509"] >= system.cert_store_stats()["x509"]
        assert trust.context_for(network, url) is not context


def verification(code: int, message: str = "why") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


def handshake(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()} (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        *((verification(code), TlsProblem.CERTIFICATE) for code in (9, 10, 62, 99)),
        *((verification(code), TlsProblem.UNKNOWN_CA) for code in (18, 19, 20, 21)),
        (handshake("WRONG_VERSION_NUMBER"), TlsProblem.PLAIN_HTTP),
        (handshake("TLSV13_ALERT_CERTIFICATE_REQUIRED"), TlsProblem.CLIENT_CERTIFICATE),
        (handshake("TLSV1_ALERT_UNKNOWN_CA"), TlsProblem.CLIENT_CERTIFICATE),
        (ConnectionResetError(104, "reset"), TlsProblem.OTHER),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), TlsProblem.OTHER),
        (handshake("SSLV3_ALERT_HANDSHAKE_FAILURE"), TlsProblem.OTHER),
    ],
)
def test_cause_of_a_failed_handshake_is_found_inside_other_errors(error: OSError, problem: TlsProblem):
    outer = OSError("All connection attempts failed")
    outer.__cause__ = error
    for raised in (error, outer):
        detail = tls_detail(raised)
        assert tls_problem(detail) is problem
        assert not any(sign in detail for sign in ("_ssl", "[SSL", "Errno"))


def test_openssls_reason_is_kept_for_an_unknown_problem():
    assert tls_detail(handshake("UNSUPPORTED_PROTOCOL")) == "the TLS handshake failed: unsupported protocol"
    assert tls_detail(verification(99, "a new rule")) == "its certificate is not valid: a new rule"
