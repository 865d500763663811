from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.references import resolve
from gatepass.errors import TokenUnavailable
from gatepass.tokens.sources.http_json import HttpJsonSource
from gatepass.tokens.token_endpoint import HEADERS
from gatepass.types import OutboundRequest, Secret
from tests.unit.clock import DrivenClock
from tests.unit.tokens.conftest import Endpoint
from tests.unit.tokens.scripted import Answer, Mint, RunningHolder, ScriptedIssuer, answer, failure_of, http_json

FORM = b"application/x-www-form-urlencoded"
JSON_BODY = b"application/json"
LOGIN = {"app_id": "bot", "n": [1, None, True]}


def posted(url: str, kind: bytes | None, body: bytes, *headers: tuple[bytes, bytes]) -> OutboundRequest:
    kinds = () if kind is None else ((b"content-type", kind),)
    return OutboundRequest("POST", url, (*HEADERS, *kinds, *headers), body)


async def sent(endpoint: Endpoint, **settings: object) -> OutboundRequest:
    await endpoint.source(http_json(**settings), "login").fetch()
    return endpoint.requests[0]


async def test_a_json_login(endpoint: Endpoint):
    assert await sent(endpoint, json=LOGIN) == OutboundRequest(
        "POST",
        "https://portal.example/login",
        (
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"gatepass"),
            (b"content-type", b"application/json"),
        ),
        b'{"app_id":"bot","n":[1,null,true]}',
    )


@pytest.mark.parametrize("document", [[], {}, 0, "", False])
async def test_every_json_document_is_a_body(endpoint: Endpoint, document):
    request = await sent(endpoint, json=document)
    assert json.loads(request.body) == document


async def test_a_form_login(endpoint: Endpoint):
    request = await sent(endpoint, form={"user": "ä b", "password": "p&q"})
    assert request.body == b"user=%C3%A4+b&password=p%26q"
    assert dict(request.headers)[b"content-type"] == b"application/x-www-form-urlencoded"


async def test_a_login_by_query_and_headers_without_a_body(endpoint: Endpoint):
    request = await sent(
        endpoint,
        method="GET",
        url="https://portal.example/login?v=2",
        query={"key": "k&1", "id": "x"},
        headers={"X-App": "bot", "ACCEPT": "*/*", "User-Agent": "curl"},
    )
    assert (request.method, request.url, request.body) == (
        "GET",
        "https://portal.example/login?v=2&key=k%261&id=x",
        b"",
    )
    assert request.headers == (
        (b"accept", b"*/*"),
        (b"accept-encoding", b"identity"),
        (b"user-agent", b"curl"),
        (b"x-app", b"bot"),
    )


async def test_query_is_appended_to_a_url_without_one(endpoint: Endpoint):
    assert (await sent(endpoint, query={"a": "b"})).url == "https://portal.example/login?a=b"


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\x00"])
async def test_a_header_with_a_line_break_is_never_sent(endpoint: Endpoint, value):
    source = endpoint.source(http_json(headers={"X-Key": value}), "login")
    failure = await failure_of(source.fetch())
    assert (failure.reason, failure.definite) == (
        "headers.X-Key contains a line break, which a header must not contain",
        True,
    )
    assert endpoint.requests == []


async def test_references_in_the_body_are_read_at_every_fetch(endpoint: Endpoint, tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("first-secret\n")
    reference = resolve(f"${{file:{file}}}", {})
    source = endpoint.source(http_json(json={"x": [{"secret": reference}]}), "login")
    await source.fetch()
    file.write_text("second-secret\n")
    await source.fetch()
    assert [json.loads(request.body) for request in endpoint.requests] == [
        {"x": [{"secret": "first-secret"}]},
        {"x": [{"secret": "second-secret"}]},
    ]
    assert [secret.reveal() for secret in source.secrets()] == ["second-secret"]


async def test_a_reference_that_cannot_be_read_names_itself(endpoint: Endpoint, tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("first-secret")
    reference = resolve(f"${{file:{file}}}", {})
    file.unlink()
    source = endpoint.source(http_json(json={"secret": reference}), "login")
    assert (await failure_of(source.fetch())).reason.startswith(f"${{file:{file}}}: the file {file} cannot be read")


async def test_token_and_expiry_by_path(endpoint: Endpoint):
    until_ms = int(endpoint.clock.wall() + 120) * 1000
    endpoint.answers(answer({"code": 0, "data": {"token": "abc", "expireAt": until_ms}}))
    reply = {"token": "data.token", "expiry": "data.expireAt", "unit": "ms"}
    token = await endpoint.source(http_json(json=LOGIN, reply=reply), "login").fetch()
    assert (token.text, token.lifetime_s) == ("abc", 120.0)


async def test_a_plain_text_reply_is_a_token(endpoint: Endpoint):
    endpoint.answers(Answer(body=b"abc\n", headers=((b"content-type", b"text/plain"),)))
    token = await endpoint.source(http_json(default_ttl_s=60.0), "login").fetch()
    assert (token.text, token.lifetime_s) == ("abc", 60.0)


def test_its_secrets_come_from_all_parts_of_the_request(endpoint: Endpoint):
    settings = http_json(
        headers={"X-Key": "header-key", "Accept": "*/*"}, query={"sig": "query-sig"}, json={"password": "body-password"}
    )
    source = endpoint.source(settings, "login")
    assert [secret.reveal() for secret in source.secrets()] == ["header-key", "query-sig", "body-password"]
    form = endpoint.source(http_json(form={"pin": Secret("123456")}), "login")
    assert [secret.reveal() for secret in form.secrets()] == ["123456"]


async def test_a_user_and_password_go_as_they_stand(endpoint: Endpoint):
    """RFC 7617 2: SAP's ids hold characters that RFC 6749 would have form-encoded."""
    request = await sent(endpoint, basic={"username": "sb-a!b1|c!d2", "password": "p:ä+/="}, form={"a": "b"})
    pair = b64encode("sb-a!b1|c!d2:p:ä+/=".encode()).decode()
    assert request.headers[-1] == (b"authorization", f"Basic {pair}".encode())
    source = endpoint.source(http_json(basic={"username": "u", "password": "p-secret"}), "login")
    assert [secret.reveal() for secret in source.secrets()] == ["p-secret", b64encode(b"u:p-secret").decode()]


PRESETS: dict[str, tuple[dict[str, str], OutboundRequest, Answer, tuple[str, float]]] = {
    "ibm_iam": (
        {"apikey": "k&1"},
        posted(
            "https://iam.cloud.ibm.com/identity/token",
            FORM,
            b"grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey=k%261",
        ),
        answer({"access_token": "abc", "refresh_token": "no", "expires_in": 300, "expiration": 1_800_000_300}),
        ("abc", 300.0),
    ),
    "baidu": (
        {"client_id": "me", "client_secret": "s-secret"},
        posted(
            "https://aip.baidubce.com/oauth/2.0/token"
            "?grant_type=client_credentials&client_id=me&client_secret=s-secret",
            None,
            b"",
        ),
        answer({"access_token": "24.abc.2592000.1.2-3", "expires_in": 2_592_000}),
        ("24.abc.2592000.1.2-3", 3600.0),
    ),
    "huawei": (
        {"username": "me", "password": "s-secret", "domain": "corp", "project": "cn-north-4"},
        posted(
            "https://iam.myhuaweicloud.com/v3/auth/tokens?nocatalog=true",
            JSON_BODY,
            b'{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"me","password":"s-secret",'
            b'"domain":{"name":"corp"}}}},"scope":{"project":{"name":"cn-north-4"}}}}',
        ),
        answer(
            {"token": {"expires_at": "2027-01-15T08:30:00.000000Z", "methods": ["password"], "roles": []}},
            201,
            (b"x-subject-token", b"MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTALBglghkgBZQMEAgE="),
        ),
        ("MIIDkgYJKoZIhvcNAQcCoIIDgzCCA38CAQExDTALBglghkgBZQMEAgE=", 1800.0),
    ),
    "databricks": (
        {"base_url": "https://dbc.example", "client_id": "me", "client_secret": "s-secret"},
        posted(
            "https://dbc.example/oidc/v1/token",
            FORM,
            b"grant_type=client_credentials&scope=all-apis",
            (b"authorization", b"Basic bWU6cy1zZWNyZXQ="),
        ),
        answer({"access_token": "abc", "token_type": "Bearer", "expires_in": 3600}),
        ("abc", 3600.0),
    ),
    "sap": (
        {"base_url": "https://corp.example", "client_id": "me", "client_secret": "s-secret"},
        posted(
            "https://corp.example/oauth/token",
            FORM,
            b"grant_type=client_credentials",
            (b"authorization", b"Basic bWU6cy1zZWNyZXQ="),
        ),
        answer({"access_token": "abc", "expires_in": 43_199, "scope": "x"}),
        ("abc", 3600.0),
    ),
    "login": (
        {"url": "https://portal.example/login", "username": "me", "password": "s-secret"},
        posted("https://portal.example/login", JSON_BODY, b'{"username":"me","password":"s-secret"}'),
        answer({"code": 0, "data": {"token": "abc", "expireTime": 1_800_000_060_000}}),
        ("abc", 60.0),
    ),
}


@pytest.mark.parametrize("preset", PRESETS)
async def test_each_preset_matches_its_issuer(endpoint: Endpoint, preset):
    given, request, reply, reported = PRESETS[preset]
    settings = HttpJsonCredential.model_validate({"type": "http_json", "preset": preset, **given})
    endpoint.answers(reply)
    token = await endpoint.source(settings, preset).fetch()
    assert endpoint.requests == [request]
    assert (token.text, token.lifetime_s) == reported


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_masks_what_it_signs_in_with(endpoint: Endpoint, preset):
    given = PRESETS[preset][0]
    settings = HttpJsonCredential.model_validate({"type": "http_json", "preset": preset, **given})
    secrets = {secret.reveal() for secret in endpoint.source(settings, preset).secrets()}
    assert {given.get("apikey") or given.get("client_secret") or given.get("password")} <= secrets
    assert not {"client_credentials", "true", "corp", "me"} & secrets or preset == "huawei"


@pytest.mark.parametrize(
    ("reply", "tries"),
    [
        *((answer({"code": code}), 15) for code in (40101, 10403)),
        (answer({"msg": "no such app"}, 404), 15),
        *((answer({"message": "用户名或密码错误"}, status), 120) for status in (400, 403, 422, 500)),
        (answer({"code": 500, "msg": "wrong password"}, 500), 120),
        *((answer({"code": 1001, "msg": words}), 120) for words in ("E-4711", "wrong app secret", "系统繁忙")),
        (answer({"success": False}), 120),
        (answer({"status": 1, "info": "?"}), 120),
        (answer({"code": 500, "msg": "wrong password"}), 120),
    ],
)
async def test_a_login_that_is_rejected_is_tried_rarely(reply, tries):
    """In an hour, after a code, a status with a message, and a reply that gatepass cannot interpret."""
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, otherwise=reply)
    async with RunningHolder(clock, issuer, http_json(json=LOGIN)) as it:
        for _ in range(60):
            await clock.advance(59.99)
        assert issuer.calls == tries
        with pytest.raises(TokenUnavailable, match="next attempt in"):
            await it.holder.token()
        issuer.otherwise = Mint()
        await clock.advance(300.0)
        assert it.holder.usable


@pytest.mark.parametrize(
    "reply",
    [
        answer({"code": 42901, "msg": "系统繁忙"}),
        answer({"code": 503, "msg": "x"}),
        answer({"status": "503", "error": "Service Unavailable"}),
        answer({"errcode": "429", "errmsg": "x"}),
    ],
)
async def test_a_login_that_is_busy_is_noticed_to_be_back_within_4_seconds(reply):
    clock = DrivenClock()
    issuer = ScriptedIssuer(clock, otherwise=reply)
    async with RunningHolder(clock, issuer, http_json(json=LOGIN)) as it:
        await clock.advance(100.0)
        issuer.otherwise = Mint()
        await clock.advance(4.0)
        assert it.holder.usable


async def test_a_wrong_password_at_huawei_is_quoted(endpoint: Endpoint):
    given = PRESETS["huawei"][0]
    settings = HttpJsonCredential.model_validate({"type": "http_json", "preset": "huawei", **given})
    document = {"error": {"message": "The username or password is wrong.", "code": 401, "title": "Unauthorized"}}
    endpoint.answers(answer(document, 401))
    failure = await failure_of(endpoint.source(settings, "hw").fetch())
    assert (failure.reason, failure.definite) == (
        "the issuer refused the client: iam.myhuaweicloud.com answered 401: 401: The username or password is wrong.",
        True,
    )


async def test_braces_are_what_they_are():
    issuer = ScriptedIssuer(DrivenClock())
    settings = http_json(json={"a": "{nonce}"}, headers={"X-A": "{timestamp}"})
    await HttpJsonSource("login", settings, issuer, issuer.clock).fetch()
    assert issuer.requests[0].body == b'{"a":"{nonce}"}'
    assert dict(issuer.requests[0].headers)[b"x-a"] == b"{timestamp}"
