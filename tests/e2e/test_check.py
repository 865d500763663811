"""The check in front of llama.cpp accepts only valid tokens."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.check import TokenRefused, Verifier, published_keys
from tests.e2e.servers import RESOURCE, CheckedServer, Issuer, listening, start_check, start_issuer

SHORT_LIFE_S = 2


def claims_of(token: str) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def test_a_token_is_refused_without_leeway_and_counted(chat_server: CheckedServer):
    """`chat_server` is its upstream, and answers 401 to a token of another issuer."""
    with start_issuer(token_life_s=SHORT_LIFE_S) as issuing:
        issuer = Issuer(listening(issuing))
        with start_check(issuer, chat_server.url) as checking:
            check, token = CheckedServer(listening(checking)), issuer.mint()
            claims = claims_of(token)
            exp = claims["exp"]
            assert isinstance(exp, int)
            check.get("/v1/models", token)
            time.sleep(max(0.0, exp - time.time() + 0.05))  # the test requires the real lifetime of the token
            status, body = check.get("/v1/models", token)
            assert (status, body["error"]["message"]) == (401, "token refused: Signature has expired")
            check.get("/v1/models", None)
            tally = check.tally()
    assert tally.refusals == ["Signature has expired", "no bearer token"]
    assert tally.tokens == {str(claims["jti"]): 1}


def part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_forged_tokens_and_those_for_another_audience_are_refused(issuer: Issuer):
    token, keys = issuer.mint(), published_keys(issuer.url)
    claims, key = claims_of(token), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    header, payload, signature = token.split(".")
    of_another_key = jwt.encode(claims, key, "RS256", headers={"kid": jwt.get_unverified_header(token)["kid"]})
    unsigned = f"{part({'alg': 'none', 'kid': 'e2e'})}.{payload}."
    prolonged = f"{header}.{part(claims | {'exp': int(time.time()) + 3600})}.{signature}"
    verifier = Verifier(issuer.url, RESOURCE, keys)
    assert verifier.claims(f"Bearer {token}") == claims
    for forged in (of_another_key, unsigned, prolonged, "opaque"):
        with pytest.raises(TokenRefused):
            verifier.claims(f"Bearer {forged}")
    for other in (Verifier(issuer.url, "urn:another", keys), Verifier("http://another", RESOURCE, keys)):
        with pytest.raises(TokenRefused):
            other.claims(f"Bearer {token}")
