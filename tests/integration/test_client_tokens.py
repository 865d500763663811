"""Requests with tokens as clients send them, byte for byte: Open WebUI, Claude Desktop, Claude Code, and pods."""

import base64
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration import messages_upstream
from tests.integration.answers import EVENTS
from tests.integration.gateway import Gateway, relaying
from tests.integration.raw import send_raw, status_of
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply, stream

KEYCLOAK = "https://login.corp.example/realms/corp"
ENTRA = "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0"
CLUSTER = "https://kubernetes.default.svc.cluster.local"
DESKTOP = "66666666-7777-8888-9999-000000000000"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEY_ID = "uK3bTzF1"
ENDED_S = 3_600

OPEN_WEBUI = """POST /v1/chat/completions HTTP/1.1
Host: gatepass.example:8080
Content-Type: application/json
Authorization: Bearer @TOKEN@
Accept: */*
Accept-Encoding: gzip, deflate, br
User-Agent: Python/3.11 aiohttp/3.12.15
Content-Length: 104
Connection: close

{"stream": true, "model": "claude-m", "messages": [{"role": "user", "content": "What is the weather?"}]}"""
OPEN_WEBUI_MODELS = """GET /v1/models HTTP/1.1
Host: gatepass.example:8080
Authorization: Bearer @TOKEN@
Accept: */*
Accept-Encoding: gzip, deflate, br
User-Agent: Python/3.11 aiohttp/3.12.15
Connection: close

"""
DESKTOP_MODELS = """GET /v1/models HTTP/1.1
Host: gatepass.example:8080
anthropic-version: 2023-06-01
authorization: Bearer @TOKEN@
accept: */*
Connection: close

"""
DESKTOP_CHAT = """POST /v1/messages HTTP/1.1
Host: gatepass.example:8080
anthropic-version: 2023-06-01
authorization: Bearer @TOKEN@
content-type: application/json
content-length: 97
Connection: close

{"model":"claude-m","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"Hello"}]}"""
DESKTOP_CODE = DESKTOP_CHAT.replace("authorization: Bearer @TOKEN@", "x-api-key: @TOKEN@")
DESKTOP_LOGIN = DESKTOP_CHAT.replace("@TOKEN@", "sk-ant-oat01-of-its-own-login\nx-api-key: @TOKEN@")
CLAUDE_CODE = DESKTOP_CHAT.replace("@TOKEN@", "@TOKEN@\nx-api-key: @TOKEN@")


class Sent(NamedTuple):
    text: str
    caller: str
    user: str
    issuer: str


REQUESTS = {
    "Open WebUI, a chat": Sent(OPEN_WEBUI, "people", "alice", KEYCLOAK),
    "Open WebUI, the models": Sent(OPEN_WEBUI_MODELS, "people", "alice", KEYCLOAK),
    "Claude Desktop, the models": Sent(DESKTOP_MODELS, "desktop", "alice@corp.example", ENTRA),
    "Claude Desktop, a chat": Sent(DESKTOP_CHAT, "desktop", "alice@corp.example", ENTRA),
    "Claude Desktop's tab Code": Sent(DESKTOP_CODE, "desktop", "alice@corp.example", ENTRA),
    "Claude Desktop with its own login": Sent(DESKTOP_LOGIN, "desktop", "alice@corp.example", ENTRA),
    "Claude Code with apiKeyHelper": Sent(CLAUDE_CODE, "people", "alice", KEYCLOAK),
}


def signed(claims: dict[str, Any], *, ago_s: float = 0, kind: str | None = "JWT", **changed: Any) -> str:
    """Return a token that was issued five minutes ago for an hour, or `ago_s` earlier."""
    begin_s = int(time.time() - 300 - ago_s)
    times = {"iat": begin_s, "exp": begin_s + 3600}
    return jwt.encode({**times, **claims, **changed}, KEY, algorithm="RS256", headers={"kid": KEY_ID, "typ": kind})


def token(issuer: str, **changed: Any) -> str:
    """Return what each issuer writes for Alice: Keycloak an access token, Entra an ID token."""
    if issuer == KEYCLOAK:
        claims = {
            "jti": "onrtac:5b1c", "iss": KEYCLOAK, "aud": ["api://gatepass", "account"], "sub": "5c1f-alice",
            "typ": "Bearer", "azp": "open-webui", "sid": "b1d2", "acr": "1", "allowed-origins": ["/*"],
            "realm_access": {"roles": ["offline_access", "llm-user"]},
            "resource_access": {"account": {"roles": ["view-profile"]}}, "scope": "openid email profile",
            "email_verified": True, "preferred_username": "alice", "email": "alice@corp.example",
        }  # fmt: skip
    else:
        claims = {
            "aud": DESKTOP, "iss": ENTRA, "name": "Alice", "nonce": "5f9c", "oid": "9a1b",
            "preferred_username": "alice@corp.example", "rh": "1.AX", "roles": ["LLM.User"], "sub": "AAAA-alice",
            "tid": "11111111-2222-3333-4444-555555555555", "uti": "x", "ver": "2.0",
        }  # fmt: skip
    return signed(claims, **changed)


def pod_token(**changed: Any) -> str:
    """Return what the kubelet writes into a projected volume of a pod: there is no `typ`."""
    claims = {
        "aud": ["gatepass", "vault"], "iss": CLUSTER, "jti": "6f1d", "nbf": int(time.time()) - 300,
        "kubernetes.io": {
            "namespace": "imports", "node": {"name": "n1", "uid": "1"}, "pod": {"name": "indexer-7d", "uid": "2"},
            "serviceaccount": {"name": "indexer", "uid": "3"}, "warnafter": int(time.time()) + 3000,
        },
        "sub": "system:serviceaccount:imports:indexer",
    }  # fmt: skip
    return signed(claims, kind=None, **changed)


def key_set(folder: Path) -> str:
    """Write what `kubectl get --raw /openid/v1/jwks` prints, and return its path."""
    numbers = KEY.public_key().public_numbers()

    def encoded(value: int) -> str:
        data = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    public = {"use": "sig", "kty": "RSA", "kid": KEY_ID, "alg": "RS256", "n": encoded(numbers.n), "e": "AQAB"}
    (folder / "cluster.jwks").write_text(json.dumps({"keys": [public]}))
    return str(folder / "cluster.jwks")


def issuers(file: str) -> list[dict[str, Any]]:
    people = {"claim": "realm_access.roles", "contains": "llm-user", "name": "people", "profile": "open_webui"}
    desktop = {"claim": "roles", "contains": "LLM.User", "name": "desktop"}
    services = {"equals": ["imports", "search"], "name": "services", "name_from": "sub"}
    pods = [
        {"claim": r"kubernetes\.io.serviceaccount.name", "equals": "nightly", "name": "nightly"},
        {"claim": r"kubernetes\.io.namespace", **services, "limits": {"requests": {"minute": 2}}},
    ]
    found: list[dict[str, Any]] = [
        {"issuer": KEYCLOAK, "audience": "api://gatepass", "callers": [{**people, "name_from": "preferred_username"}]},
        {
            "issuer": ENTRA,
            "audience": DESKTOP,
            "tokens": ["id"],
            "callers": [desktop | {"name_from": "preferred_username"}],
        },
        {"issuer": CLUSTER, "audience": ["gatepass", "gatepass-test"], "callers": pods},
    ]
    return [{**one, "jwks": file} for one in found]


def answer(request: Received) -> Dialogue:
    if request.method == "GET":
        return [Send(reply({"object": "list", "data": [{"id": "claude-m", "object": "model"}]}))]
    return messages_upstream.answer()(request) if "messages" in request.target else [Send(stream(*EVENTS))]


Served = tuple[Scripted, Gateway]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with relaying(answer=answer, access={"jwt": issuers(key_set(tmp_path))}) as (upstream, gp):
        yield upstream, gp


async def send(gp: Gateway, text: str, sent_token: str) -> bytes:
    head, _, body = text.replace("@TOKEN@", sent_token).partition("\n\n")
    return await send_raw(gp.port, head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body.encode())


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_client_s_request_is_answered_and_its_token_goes_no_further(served: Served, name: str):
    sent, (upstream, gp) = REQUESTS[name], served
    text = token(sent.issuer)
    answered = await send(gp, sent.text, text)
    assert status_of(answered) == 200, answered
    access = next(gp.state.inspector.newest()).access
    assert (access.caller, access.user, access.auth) == (sent.caller, sent.user, "jwt")
    if sent.text.startswith("POST"):
        assert answered.endswith((b"data: [DONE]\n\n\r\n0\r\n\r\n", b'{"type":"message_stop"}\n\n\r\n0\r\n\r\n'))
        assert len(upstream.received) == 1
    else:
        assert b'"claude-m"' in answered
    for one in upstream.received:
        assert (one.header("authorization"), one.header("x-api-key")) == (None, None)
        assert text not in str(one)


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_expired_token_is_a_401_after_which_a_client_signs_in_again(served: Served, name: str):
    sent, (upstream, gp) = REQUESTS[name], served
    answered = await send(gp, sent.text, token(sent.issuer, ago_s=ENDED_S))
    head, _, body = answered.partition(b"\r\n\r\n")
    assert status_of(answered) == 401
    assert b'www-authenticate: Bearer error="invalid_token"' in head
    assert b"x-should-retry" not in head
    assert re.search(rb"The token expired \d+ (?:min|h) ago\.", body)
    assert upstream.received == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"aud": "account"}, b"the audience account. gatepass expects api://gatepass."),
        ({"typ": "ID", "nonce": "n"}, b"This is an ID token"),
        ({"sub": None}, b"no claim sub"),
    ],
)
async def test_a_client_that_would_send_the_same_token_again_is_told_not_to(served: Served, changed: Any, words: bytes):
    answered = await send(served[1], OPEN_WEBUI, token(KEYCLOAK, **changed))
    head, _, body = answered.partition(b"\r\n\r\n")
    assert status_of(answered) == 401
    assert b'www-authenticate: Bearer error="invalid_token"' in head
    assert b"x-should-retry: false" in head
    assert words in body


async def test_a_service_account_is_one_caller_whatever_token_is_in_the_file_of_a_pod(served: Served, tmp_path: Path):
    """A client reads the file for each request, because the kubelet replaces it."""
    upstream, gp = served
    file, statuses = tmp_path / "token", []
    for name, pod in (("indexer", "1"), ("indexer", "2"), ("indexer", "3"), ("crawler", "4")):
        own = {"namespace": "imports", "pod": {"name": pod}, "serviceaccount": {"name": name}}
        file.write_text(pod_token(sub=f"system:serviceaccount:imports:{name}", jti=pod, **{"kubernetes.io": own}))
        statuses.append(status_of(await send(gp, OPEN_WEBUI, file.read_text())))
        access = next(gp.state.inspector.newest()).access
        assert (access.caller, access.user) == ("services", f"system:serviceaccount:imports:{name}")
    assert statuses == [200, 200, 429, 200]
    assert len(upstream.received) == 3


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"aud": [CLUSTER, "https://kubernetes.default.svc"]}, 401, b"gatepass expects gatepass or gatepass-test."),
        ({"kubernetes.io": {"namespace": "games"}}, 403, rb"kubernetes\\.io.namespace"),
        ({"kubernetes.io": {"namespace": ["imports"]}}, 403, b"no_caller_row"),
        ({"kubernetes.io.namespace": "imports", "kubernetes.io": {}}, 403, b"no_caller_row"),
        ({"iss": "https://kubernetes.default.svc"}, 401, b"is of the issuer https://kubernetes.default.svc."),
        ({"exp": int(time.time()) - 31}, 401, b"The token expired "),
    ],
)
async def test_a_pod_that_no_row_or_audience_fits_learns_why(served: Served, changed: Any, status: int, words: bytes):
    answered = await send(served[1], OPEN_WEBUI, pod_token(**changed))
    assert status_of(answered) == status
    assert words in answered
    assert served[0].received == []
