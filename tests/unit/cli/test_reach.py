import time

import pytest

from gatepass.cli.reach import describe_certificate, explain_certificate, issuer_server
from gatepass.http_client.fault_text import ServerNames
from gatepass.http_client.tls import TlsProblem
from gatepass.types import Timeouts
from tests.unit.config.credential.test_kinds import CREDENTIAL, PLACES

NOW_S = 1_795_190_000.0
DAY_S = 86_400.0
NAMES = ServerNames.of_upstream("chat", "https://llm.example/v1", Timeouts())


@pytest.mark.parametrize(("block", "place"), PLACES)
def test_a_credential_whose_tokens_come_from_a_host_has_a_server(block, place):
    server = issuer_server("corp", CREDENTIAL.validate_python(block))
    assert (None if server is None else server.destination.host in place) == (None if " " in place else True)


def moment(at_s):
    return time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(at_s))


def certificate(name="llm", issuer="Corp CA", since_s=NOW_S - DAY_S, until_s=NOW_S + 90 * DAY_S, names=(), **more):
    return {
        "subject": ((("commonName", name),),),
        "issuer": ((("commonName", issuer),),),
        "notBefore": moment(since_s),
        "notAfter": moment(until_s),
        "subjectAltName": tuple(("DNS", each) for each in names),
        **more,
    }


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (90, "TLSv1.3, certificate of Corp CA, valid until "),
        (3, "TLSv1.3, certificate of Corp CA, it expires in 3 days ("),
    ],
)
def test_a_good_certificate_is_described_with_its_end(days, expected):
    text = describe_certificate(certificate(until_s=NOW_S + days * DAY_S), "TLSv1.3", NOW_S)
    assert text.startswith(expected)
    assert text.endswith(": renew it") is (days == 3)


def test_many_host_names_are_cut():
    own = certificate(names=[f"h{number}.example" for number in range(7)])
    why, advice = explain_certificate([own], TlsProblem.WRONG_NAME, NAMES, (), NOW_S)
    assert why == (
        "the certificate is for h0.example, h1.example, h2.example, h3.example, h4.example and 2 more,"
        " not for llm.example"
    )
    assert advice is None


def test_the_last_certificate_of_the_chain_names_the_missing_ca():
    chain = [certificate(issuer="Issuing"), certificate("Issuing", issuer="Root")]
    why, advice = explain_certificate(chain, TlsProblem.UNKNOWN_CA, NAMES, (), NOW_S)
    assert "signed by the CA Root, which this machine does not trust" in why
    assert advice == "Set network.ca_file to a PEM file with the certificate of Root."


def test_single_certificate_with_an_issuer_url_is_an_incomplete_chain():
    alone = certificate(caIssuers=("http://pki.example/issuing.cer",))
    assert "incomplete chain" in explain_certificate([alone], TlsProblem.UNKNOWN_CA, NAMES, (), NOW_S)[0]
    by_directory = certificate(caIssuers=("ldap:///CN=Corp",))
    assert "signed by the CA" in explain_certificate([by_directory], TlsProblem.UNKNOWN_CA, NAMES, (), NOW_S)[0]
