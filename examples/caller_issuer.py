"""A company's issuer of access tokens (JWTs) for people and services, which gatepass accepts in place of keys.

python examples/caller_issuer.py
curl "http://127.0.0.1:9005/caller?name=alice&role=llm-user"

It requires gatepass's extra `crypto`, because a real issuer signs with a private key and publishes the public one.
"""

import argparse
import hashlib
import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse


def create_app(issuer: str) -> FastAPI:
    """Return the issuer with a new signing key. `issuer` is its URL, which its tokens name."""
    app = FastAPI()
    signing_key = ec.generate_private_key(ec.SECP256R1())
    public_key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(signing_key.public_key()))
    # a kid names one key for ever: its thumbprint (RFC 7638), so that a restart with another key has another kid
    members = {name: public_key[name] for name in ("crv", "kty", "x", "y")}
    digest = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
    public_key |= {"kid": urlsafe_b64encode(digest).rstrip(b"=").decode(), "use": "sig"}

    @app.get("/.well-known/openid-configuration")
    def discovery() -> dict[str, str]:
        return {"issuer": issuer, "jwks_uri": f"{issuer}/keys"}

    @app.get("/keys")
    def keys() -> dict[str, Any]:
        return {"keys": [public_key]}

    @app.get("/caller", response_class=PlainTextResponse)
    def caller(name: str, role: str, lifetime_s: int = 300) -> str:
        """Return an access token for gatepass. A real issuer would ask who is there."""
        now_s = int(time.time())
        claims: dict[str, Any] = {"iss": issuer, "aud": "api://gatepass", "iat": now_s, "exp": now_s + lifetime_s}
        claims |= {"sub": hashlib.sha256(name.encode()).hexdigest()[:16], "preferred_username": name, "roles": [role]}
        return jwt.encode(claims, signing_key, "ES256", headers={"kid": public_key["kid"], "typ": "at+jwt"})

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9005)
    options = parser.parse_args()
    uvicorn.run(create_app(f"http://127.0.0.1:{options.port}"), port=options.port, log_level="warning")
