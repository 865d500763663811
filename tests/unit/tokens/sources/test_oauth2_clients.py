from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from jwt.types import Options

from gatepass.config.references import Reference
from gatepass.tokens.sources.oauth2 import BACKDATED_S, LIFETIME_S
from gatepass.types import Secret
from tests.unit.tokens.conftest import Endpoint, form_in
from tests.unit.tokens.keys import certificate, certificate_pem, private_pem, public_pem
from tests.unit.tokens.scripted import SECRET, answer, date, failure_of, oauth2, refused

TOKEN_URL = "https://sso.example/token"
WALL_S = 1_800_000_000
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def signing(kind: str = "rsa", **settings: object):
    """A credential that signs with a new key."""
    given = {"client_auth": "private_key_jwt", "client_secret": None, "private_key": Secret(private_pem(kind))}
    return oauth2(**{**given, **settings})


def verified(request: httpx2.Request, key: str, algorithm: str, audience: str = TOKEN_URL) -> dict[str, object]:
    """The claims of a request's assertion, its signature and audience verified."""
    unchecked: Options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
    return jwt.decode(
        form_in(request)["client_assertion"], key, algorithms=[algorithm], audience=audience, options=unchecked
    )


async def test_the_secret_goes_by_basic_form_encoded_before_it_is_joined(endpoint: Endpoint):
    settings = oauth2(client_auth="basic", client_id="a:b", client_secret=Secret("p ä%&+"))
    pair = b64encode(b"a%3Ab:p+%C3%A4%25%26%2B")
    request = await endpoint.sent(settings)
    assert (request.method, str(request.url), request.content) == ("POST", TOKEN_URL, b"grant_type=client_credentials")
    assert dict(request.headers) == {
        "host": "sso.example",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "gatepass",
        "content-type": "application/x-www-form-urlencoded",
        "content-length": "29",
        "authorization": f"Basic {pair.decode()}",
    }


@pytest.mark.parametrize("auth", ["basic", "form"])
def test_its_secrets_are_known_in_the_forms_in_which_they_travel(endpoint: Endpoint, auth):
    extra = {"assertion": Secret("an-assertion"), "grant_type": Secret("password")}
    source = endpoint.source(oauth2(client_auth=auth, extra=extra))
    pair = b64encode(f"me:{SECRET}".encode()).decode()
    assert [secret.reveal() for secret in source.secrets()] == [SECRET, pair, "an-assertion"]


async def test_settings_of_another_method_or_grant_are_neither_read_nor_sent(endpoint: Endpoint):
    unused = {"private_key": Secret("no-key"), "key_id": "k", "subject": "svc", "subject_file": "/nowhere"}
    request = await endpoint.sent(oauth2(client_auth="form", assertion_file="/nowhere", **unused))
    assert form_in(request) == {"grant_type": "client_credentials", "client_id": "me", "client_secret": SECRET}
    assert "authorization" not in request.headers


@pytest.mark.parametrize(("kind", "signed"), [("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")])
async def test_a_key_signs_what_its_public_half_verifies(endpoint: Endpoint, kind, signed):
    request = await endpoint.sent(signing(kind, key_id="key-7"))
    sent = form_in(request)
    assert jwt.get_unverified_header(sent["client_assertion"]) == {"alg": signed, "typ": "JWT", "kid": "key-7"}
    claims = verified(request, public_pem(kind), signed)
    assert claims.pop("jti")
    assert claims == {
        "iss": "me",
        "sub": "me",
        "aud": TOKEN_URL,
        "iat": WALL_S - BACKDATED_S,
        "nbf": WALL_S - BACKDATED_S,
        "exp": WALL_S - BACKDATED_S + LIFETIME_S,
    }
    del sent["client_assertion"]
    assert sent == {"grant_type": "client_credentials", "client_id": "me", "client_assertion_type": TYPE}
    assert "authorization" not in request.headers


async def test_a_certificate_signs_with_its_thumbprint_and_is_read_again(endpoint: Endpoint, tmp_path: Path):
    """As Microsoft Entra ID requires (learn.microsoft.com, "certificate credentials")."""
    file = tmp_path / "app.pem"
    source = endpoint.source(signing(private_key=None, certificate_file=str(file)))
    for kind in ("rsa", "other-rsa"):
        file.write_text(private_pem(kind) + certificate_pem(kind))
        await source.fetch()
        request = endpoint.requests[-1]
        thumbprint = urlsafe_b64encode(certificate(kind).fingerprint(SHA256())).rstrip(b"=").decode()
        shown = jwt.get_unverified_header(form_in(request)["client_assertion"])
        assert shown == {"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint}
        assert verified(request, public_pem(kind), "PS256")
    file.write_text("no key")
    failure = await failure_of(source.fetch())
    assert failure.reason.startswith("certificate_file holds no PEM private key that can be read")
    assert (failure.is_refused, len(endpoint.requests)) == (False, 2)


async def test_no_two_assertions_are_the_same(endpoint: Endpoint):
    requests = [await endpoint.sent(signing()) for _ in range(3)]
    assert len({str(verified(request, public_pem("rsa"), "RS256")["jti"]) for request in requests}) == 3


async def test_the_audience_of_an_assertion_is_the_issuer_if_it_is_configured(endpoint: Endpoint):
    request = await endpoint.sent(signing(issuer="https://sso.example"))
    assert verified(request, public_pem("rsa"), "RS256", "https://sso.example")["aud"] == "https://sso.example"


async def test_a_key_file_is_read_again_when_it_changes(endpoint: Endpoint, tmp_path: Path):
    file = tmp_path / "key.pem"
    file.write_text(private_pem("rsa"))
    settings = signing(private_key=Reference.to_file(str(file)))
    source = endpoint.source(settings)
    before = [secret.reveal() for secret in source.secrets()]
    await source.fetch()
    await source.fetch()
    file.write_text(private_pem("p256"))
    await source.fetch()
    assert verified(endpoint.requests[0], public_pem("rsa"), "RS256")
    assert verified(endpoint.requests[1], public_pem("rsa"), "RS256")
    assert verified(endpoint.requests[2], public_pem("p256"), "ES256")
    assert [secret.reveal() for secret in source.secrets()] != before, "a changed key is worth a new try"
    file.unlink()
    failure = await failure_of(source.fetch())
    assert failure.reason == f"private_key: the file {file} cannot be read: No such file or directory"
    assert (failure.is_refused, len(endpoint.requests)) == (False, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"private_key": Secret("no key")}, "private_key holds no PEM private key that can be read"),
        ({"private_key": Secret(private_pem("p384"))}, "private_key holds a key that is neither RSA nor"),
    ],
)
async def test_a_key_that_has_become_useless_is_a_failure_and_no_call(endpoint: Endpoint, change, reason):
    failure = await endpoint.failure(signing(**change))
    assert failure.reason.startswith(reason)
    assert (failure.is_refused, len(endpoint.requests)) == (False, 0)


async def test_a_client_without_a_secret_sends_only_its_id(endpoint: Endpoint):
    own = {"client_auth": "none", "extra": {"grant_type": Secret("urn:x:own")}}
    request = await endpoint.sent(oauth2(client_secret=None, **own))
    sent = form_in(request)
    assert sent["client_id"] == "me"
    assert not {"client_secret", "client_assertion"} & set(sent)
    assert "authorization" not in request.headers


@pytest.mark.parametrize(("ahead_s", "words"), [(-120, "120 s behind"), (120, "120 s ahead of")])
async def test_an_assertion_that_may_be_refused_for_its_times_is_told_with_the_clocks(endpoint, ahead_s, words):
    failure = await endpoint.failure(signing(), refused("invalid_client", 401, date(WALL_S + ahead_s)))
    assert failure.reason.endswith(f"; its clock is {words} this machine's. Check both clocks")
    assert failure.kind == "limited"


@pytest.mark.parametrize(
    ("settings", "reply"),
    [
        (signing(), refused("invalid_client", 401, date(WALL_S + 15))),
        (signing(), refused("invalid_client", 401)),
        (signing(), refused("invalid_scope", 400, date(WALL_S + 120))),
        (signing(), answer({"busy": True}, 503, date(WALL_S + 120))),
        (oauth2(), refused("invalid_client", 401, date(WALL_S + 120))),
    ],
    ids=["clocks agree", "no clock", "another reason", "not refused", "no assertion"],
)
async def test_a_refusal_for_another_reason_names_no_clock(endpoint: Endpoint, settings, reply):
    assert "clock" not in (await endpoint.failure(settings, reply)).reason


@pytest.mark.parametrize(
    ("auth", "reply", "advises_form"),
    [
        ("basic", refused("invalid_client", 401), True),
        ("basic", answer({"detail": "invalid_client"}, 401), True),
        ("basic", answer({"message": "who are you"}, 401), True),
        ("basic", refused("invalid_scope", 401), False),
        ("basic", answer({"busy": True}, 503), False),
        ("form", refused("invalid_client", 401), False),
    ],
    ids=["code", "text", "status", "another code", "another status", "form"],
)
async def test_a_client_refused_with_basic_is_told_to_set_form(endpoint: Endpoint, auth, reply, advises_form):
    failure = await endpoint.failure(oauth2(client_auth=auth, client_secret=Secret("p!")), reply)
    assert (failure.advice.case == "refused_basic") == advises_form
    assert ("client_auth to form: with basic, signs of the secret such as ! are sent encoded" in failure.reason) == (
        advises_form
    )
