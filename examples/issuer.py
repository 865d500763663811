"""A company's token issuer: OAuth 2.0 client credentials (RFC 6749, 4.4), and a login with JSON.

python examples/issuer.py
curl -u demo-chat:secret-of-demo-chat -d grant_type=client_credentials http://127.0.0.1:9001/oauth/token
"""

import argparse
import hashlib
import math
import secrets
import time
from collections.abc import Callable, Mapping
from secrets import compare_digest
from types import MappingProxyType
from typing import Annotated, Any

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel

SIGNING_KEY = "the-issuer-and-its-servers-share-this-key"
"""HS256 keeps the example small. A real issuer signs with a private key, and publishes the public one."""
CLIENTS: Mapping[str, str] = MappingProxyType(
    {"demo-chat": "secret-of-demo-chat", "demo-embed": "secret-of-demo-embed"}
)
"""The secret of each client. Its tokens have its id as their audience, so that each model needs its own login."""


class Login(BaseModel):
    """The JSON of a login page, as companies write their own."""

    app_id: str
    secret: str


def announce(audience: str, token: str, lifetime_s: float) -> None:
    """Print a token's fingerprint, never the token."""
    fingerprint = hashlib.sha256(token.encode()).hexdigest()[:8]
    print(f"   * issuer: new token {fingerprint} for {audience}, lives {lifetime_s:.0f} s", flush=True)


def create_app(
    clients: Mapping[str, str] = CLIENTS,
    lifetime_s: float = 300,
    on_issue: Callable[[str, str, float], object] = announce,
) -> FastAPI:
    """Return the issuer. `on_issue` is called with the audience, the token and its lifetime in seconds."""
    app = FastAPI()

    def issue(client_id: str, secret: str) -> tuple[str, int] | None:
        """Return a token and its end in seconds since the epoch, or None for a wrong id or secret."""
        if not compare_digest(clients.get(client_id, "").encode(), secret.encode()) or not secret:
            return None
        ends_at = math.ceil(time.time() + lifetime_s)  # `exp` has whole seconds
        # without `jti`, two tokens of one second would be equal
        claims = {"aud": client_id, "exp": ends_at, "jti": secrets.token_hex(8)}
        token = jwt.encode(claims, SIGNING_KEY, "HS256")
        on_issue(client_id, token, lifetime_s)
        return token, ends_at

    @app.post("/oauth/token")
    def oauth(client: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> dict[str, Any]:
        """Answer in the form of RFC 6749, section 5.1."""
        issued = issue(client.username, client.password)
        if issued is None:
            raise HTTPException(401, "invalid_client")
        return {"access_token": issued[0], "token_type": "Bearer", "expires_in": int(lifetime_s)}

    @app.post("/login")
    def login(login: Login) -> dict[str, Any]:
        """Answer in an envelope, with milliseconds, and with HTTP 200 for a wrong secret: all of it is common."""
        issued = issue(login.app_id, login.secret)
        if issued is None:
            return {"code": 10401, "msg": "wrong app_id or secret", "data": None}
        return {"code": 0, "data": {"token": issued[0], "expireAt": issued[1] * 1000}}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--lifetime", type=float, default=300, help="seconds that a token lives (default: %(default)s)")
    options = parser.parse_args()
    uvicorn.run(create_app(lifetime_s=options.lifetime), port=options.port, log_level="warning")
