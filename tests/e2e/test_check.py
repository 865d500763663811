"""The check in front of llama.cpp accepts only valid tokens."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.check import TokenRefused, Verifier, published_keys
from tests.e2e.servers import RESOURCE, TOKEN_LIFE_S, CheckedServer, Issuer

EXPIRED = "token refused: Signature has expired"


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def message(body: dict[str, dict[str, str]]) -> str:
    return body["error"]["message"]


def test_eleven_second_old_token_is_refused_without_leeway(issuer: Issuer, chat_server: CheckedServer):
    minted_s = time.time()
    token = issuer.mint()
    exp = claims_of(token)["exp"]
    assert isinstance(exp, int)
    assert TOKEN_LIFE_S - 1 <= exp - minted_s <= TOKEN_LIFE_S + 1

    assert chat_server.get("/v1/models", token)[0] == 200
    time.sleep(exp - time.time() + 0.05)  # the test requires the real lifetime of the token
    status, body = chat_server.get("/v1/models", token)
    assert (status, message(body)) == (401, EXPIRED), "50 ms after exp"
    time.sleep(max(0.0, minted_s + 11 - time.time()))  # no leeway of ten seconds either
    status, body = chat_server.get("/v1/models", token)
    assert (status, message(body)) == (401, EXPIRED), "11 s after it was minted"


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def forged(token: str) -> str:
    """Return the token with the same header and claims, signed with another key."""
    return jwt.encode(claims_of(token), new_key(), "RS256", headers={"kid": jwt.get_unverified_header(token)["kid"]})


def part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(token: str) -> str:
    return f"{part({'alg': 'none', 'kid': 'e2e'})}.{token.split('.')[1]}."


def prolonged(token: str) -> str:
    """Return the token with an `exp` one hour later and the unchanged signature."""
    header, _, signature = token.split(".")
    return f"{header}.{part(claims_of(token) | {'exp': int(time.time()) + 3600})}.{signature}"


def test_forged_tokens_are_refused(issuer: Issuer, chat_server: CheckedServer):
    token = issuer.mint()
    for bad_token in (forged(token), unsigned(token), prolonged(token), "opaque", None):
        status, body = chat_server.get("/v1/models", bad_token)
        assert (status, body["error"]["code"]) == (401, "invalid_token"), bad_token


def test_token_for_another_audience_is_refused(issuer: Issuer):
    token, keys = issuer.mint(), published_keys(issuer.url)
    assert Verifier(issuer.url, RESOURCE, keys).claims(f"Bearer {token}") == claims_of(token)
    for verifier in (Verifier(issuer.url, "urn:another", keys), Verifier("http://another", RESOURCE, keys)):
        with pytest.raises(TokenRefused):
            verifier.claims(f"Bearer {token}")


def test_every_refusal_is_counted(issuer: Issuer, chat_server: CheckedServer):
    before = chat_server.tally()
    chat_server.get("/v1/models", None)
    token = issuer.mint()
    chat_server.get("/v1/models", token)
    after = chat_server.tally()
    assert after.refusals == [*before.refusals, "no bearer token"]
    assert after.tokens == before.tokens | {str(claims_of(token)["jti"]): 1}
