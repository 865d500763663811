import time
from base64 import urlsafe_b64decode
from typing import Any

import jwt
import pytest
from azure.core import rest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, NoEncryption, pkcs12

from gatepass.config.certificates import NO_KEY
from gatepass.tokens.secrets import secret_values
from gatepass.tokens.source import build_source
from gatepass.tokens.vendor.entra import LIFE_S, AzureTransport, CertificateFile, certificate
from gatepass.types import Secret
from tests.unit.tokens import keys
from tests.unit.tokens.scripted import Answer, Broken, Mint, ScriptedIssuer, answer, failure_of, form_of, signed
from tests.unit.tokens.vendor.accounts import SECRET, entra, logs_nothing_of, present
from tests.unit.tokens.vendor.test_fetch import vendor_fetch

TOKEN_URL = "https://login.microsoftonline.com/corp.example/oauth2/v2.0/token"
SCOPE = "https://cognitiveservices.azure.com/.default"
IDENTITY = ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET", "AZURE_CLIENT_ID")


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No identity of this machine's own reaches azure-identity."""
    for name in (*IDENTITY, "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST", "IDENTITY_SERVER_THUMBPRINT"):
        monkeypatch.delenv(name, raising=False)


def source(issuer, **settings):
    return build_source("corp", entra(**settings), issuer, issuer.clock)


async def test_authority_and_scope_are_configured():
    issuer = ScriptedIssuer(present())
    await source(
        issuer,
        client_secret=SECRET,
        authority_host="https://login.microsoftonline.us/",
        scope="https://ai.azure.com/.default",
    ).fetch()
    assert issuer.requests[-1].url == "https://login.microsoftonline.us/corp.example/oauth2/v2.0/token"
    assert form_of(issuer.requests[-1])["scope"] == "https://ai.azure.com/.default"


@pytest.mark.parametrize("locked", [False, True], ids=["plain", "pass-phrase"])
async def test_a_certificate_signs_the_assertion(tmp_path, locked):
    path = tmp_path / "app.pem"
    path.write_text(keys.private_pem("rsa", b"phrase" if locked else None) + keys.certificate_pem("rsa"))
    more = {"certificate_password": "phrase"} if locked else {}
    issuer = ScriptedIssuer(present())
    token_source = source(issuer, certificate_file=str(path), **more)
    assert (await token_source.fetch()).text == "token-1"
    sent = form_of(issuer.requests[-1])
    assertion = sent.pop("client_assertion")
    assert sent == {
        "grant_type": "client_credentials",
        "client_id": "app-1",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "scope": SCOPE,
    }
    claims = jwt.decode(assertion, options={"verify_signature": False})
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("app-1", "app-1", TOKEN_URL)
    body, _, signature = assertion.rpartition(".")
    salted = padding.PSS(padding.MGF1(SHA256()), padding.PSS.AUTO)
    padded = signature + "=" * (-len(signature) % 4)
    keys.key("rsa").public_key().verify(urlsafe_b64decode(padded), body.encode(), salted, SHA256())


async def test_a_certificate_that_cannot_be_used_is_reported_without_a_request(tmp_path):
    issuer, path = ScriptedIssuer(present()), tmp_path / "app.pem"
    token_source = source(issuer, certificate_file=str(path))
    missing = await failure_of(token_source.fetch())
    assert missing.reason == f"certificate_file: {path} cannot be read: No such file or directory"
    path.write_text("no certificate")
    failure = await failure_of(token_source.fetch())
    assert failure.reason.startswith(f"certificate_file: {path} contains no readable certificate with its key")
    assert not failure.is_refused
    assert issuer.calls == 0


async def test_workload_identity_sends_the_current_projected_token(tmp_path):
    path = tmp_path / "token"
    issuer = ScriptedIssuer(present())
    token_source = source(issuer, federated_token_file=str(path))
    for text in ("projected-token-1", "projected-token-2"):
        path.write_text(text + "\n")
        await token_source.fetch()
        assert form_of(issuer.requests[-1])["client_assertion"] == text
    path.unlink()
    failure = await failure_of(token_source.fetch())
    expected = f"federated_token_file: the file {path} cannot be read: No such file or directory"
    assert (failure.reason, issuer.calls) == (expected, 2)


async def test_a_managed_identity_asks_the_machines_own_metadata_server():
    issuer = ScriptedIssuer(present(), *[answer({"access_token": "t", "expires_in": "1000", "resource": "r"})] * 2)
    token = await source(issuer, managed_identity=True).fetch()
    assert (token.text, token.lifetime_s) == ("t", 1_000)
    asked = issuer.requests[-1]
    assert asked.url == (
        "http://169.254.169.254/metadata/identity/oauth2/token"
        "?api-version=2018-02-01&resource=https://cognitiveservices.azure.com"
    )
    assert (asked.method, dict(asked.headers)[b"metadata"], asked.body) == ("GET", b"true", b"")
    await source(issuer, managed_identity=True, client_id="id-2").fetch()
    assert "client_id=id-2" in issuer.requests[-1].url


async def test_an_app_service_identity_shows_its_header(monkeypatch):
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://169.254.129.6:8081/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "proof-of-the-app-service")
    ends_s = int(time.time()) + 86_400
    issuer = ScriptedIssuer(
        present(),
        answer({"access_token": "t", "expires_on": str(ends_s), "resource": "r", "token_type": "Bearer"}),
        answer({"statusCode": 400, "message": "proof-of-the-app-service is stale"}, 400),
    )
    token_source = source(issuer, managed_identity=True)
    assert (await token_source.fetch()).text == "t"
    assert issuer.requests[-1].url.startswith("http://169.254.129.6:8081/msi/token?")
    assert dict(issuer.requests[-1].headers)[b"x-identity-header"] == b"proof-of-the-app-service"
    assert (await failure_of(token_source.fetch())).reason == "169.254.129.6:8081 answered 400: *** is stale"


async def test_a_token_out_of_the_metadata_servers_cache_lives_only_what_is_left():
    now_s = time.time()
    old = signed(iat=int(now_s) - 80_000, exp=int(now_s) + 6_400)
    reply = {"access_token": old, "expires_in": "6400", "expires_on": str(int(now_s) + 6_400), "resource": "r"}
    issuer = ScriptedIssuer(present(), answer(reply))
    token = await source(issuer, managed_identity=True).fetch()
    assert token.lifetime_s == pytest.approx(6_400, abs=2)


@pytest.mark.parametrize(
    ("reply", "expected", "definite"),
    [
        (
            answer({"error": "invalid_client", "error_description": f"AADSTS: {SECRET} is off"}, 401),
            "the issuer refused the client: {} answered 401: invalid_client: AADSTS: *** is off",
            True,
        ),
        *((answer({}, status, (b"retry-after", b"1")), None, False) for status in (408, 429, 500)),
        (
            answer({"error": "temporarily_unavailable"}, 503, (b"retry-after", b"1")),
            "{} answered 503: temporarily_unavailable; check whether the issuer is up",
            False,
        ),
        (Answer(302, b"", ((b"location", b"https://elsewhere.example/x"),)), None, False),
        (Answer(200, b""), "{} answered 200 with an empty body", False),
        (answer({"hi": 1}), "{} answered without a token; the reply has hi", False),
        (answer({"access_token": None, "expires_in": 1}), None, False),
        (answer({"access_token": "t", "expires_in": "soon"}), None, False),
        (answer({"access_token": "t"}), None, False),
        (answer({"access_token": "a\r\nb", "expires_in": 300}), None, False),
        (Broken(), "no connection to {} (refused)", False),
    ],
)
async def test_each_failure_quotes_its_source(reply, expected, definite):
    issuer = ScriptedIssuer(present(), reply)
    failure = await failure_of(source(issuer, client_secret=SECRET).fetch())
    assert SECRET not in failure.reason
    assert failure.is_refused is definite
    assert issuer.calls == 1
    if expected is not None:
        assert failure.reason == expected.format("login.microsoftonline.com")
    else:
        assert "login.microsoftonline.com" in failure.reason or "bearer token must not" in failure.reason


async def test_nothing_that_is_secret_is_logged_at_any_level(caplog):
    words = answer({"error": "invalid_client", "error_description": f"not {SECRET}"}, 401)
    token_source = source(ScriptedIssuer(present(), Mint(text="a-token-nobody-reads"), words), client_secret=SECRET)
    with logs_nothing_of(caplog, ("azure", "msal"), SECRET, "a-token-nobody-reads"):
        await token_source.fetch()
        await failure_of(token_source.fetch())


async def test_secrets_are_the_current_login_values(tmp_path):
    issuer, path = ScriptedIssuer(present()), tmp_path / "file"
    assert secret_values(source(issuer, client_secret=SECRET).secrets()) == (SECRET,)
    assert source(issuer, managed_identity=True).secrets() == ()
    workload = source(issuer, federated_token_file=str(path))
    assert secret_values(workload.secrets()) == (None,)
    path.write_text("projected\n")
    assert secret_values(workload.secrets()) == ("projected",)
    certified = source(issuer, certificate_file=str(path), certificate_password="phrase")
    before = secret_values(certified.secrets())
    path.write_bytes(b"\x00\xff")
    after = secret_values(certified.secrets())
    assert before[0] == after[0] == "phrase"
    assert before[1] != after[1]
    path.unlink()
    assert secret_values(certified.secrets()) == ("phrase", None)


async def test_adapter_implements_azure_cores_transport():
    issuer = ScriptedIssuer(present(), Answer(200, b"\xef\xbb\xbf{}", ((b"content-type", b"application/json"),)))
    async with AzureTransport(vendor_fetch(issuer)) as transport:
        for data in ({"a": "b c"}, "text", b"bytes", None):
            form = isinstance(data, dict)
            of_body: dict[str, Any] = {"data" if form else "content": data}
            request: Any = rest.HttpRequest("POST", "https://x.example/", **of_body)
            response = await transport.send(request)
            if issuer.calls == 1:
                assert (response.status_code, response.text(), response.body()) == (200, "{}", b"\xef\xbb\xbf{}")
                assert (response.headers["Content-Type"], response.content_type) == ("application/json",) * 2
    assert [request.body for request in issuer.requests] == [b"a=b+c", b"text", b"bytes", b""]


async def test_an_arc_challenge_that_cannot_be_met_has_a_reason(monkeypatch):
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:40342/metadata/identity/oauth2/token")
    monkeypatch.setenv("IMDS_ENDPOINT", "http://127.0.0.1:40342")
    issuer = ScriptedIssuer(present(), answer({}, 401, (b"www-authenticate", b"Basic realm=/etc/hostname")))
    failure = await failure_of(source(issuer, managed_identity=True).fetch())
    assert failure.reason.startswith(
        "the issuer refused the client: 127.0.0.1:40342 answered 401: {} (azure-identity: "
    )
    assert "key file path is invalid" in failure.reason
    assert issuer.calls == 1


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
