import json
from base64 import b64encode
from pathlib import Path

import pytest

from gatepass.config.references import resolve
from gatepass.types import Secret
from tests.unit.tokens.conftest import Endpoint
from tests.unit.tokens.scripted import Answer, answer, failure_of, http_json

LOGIN = {"app_id": "bot", "n": [1, None, True]}


@pytest.mark.parametrize("document", [[], {}, 0, "", False])
async def test_every_json_document_is_a_body(endpoint: Endpoint, document):
    request = await endpoint.sent(http_json(json=document))
    assert json.loads(request.content) == document


async def test_a_form_login(endpoint: Endpoint):
    request = await endpoint.sent(http_json(form={"user": "ä b", "password": "p&q"}, query={"a": "b"}))
    assert str(request.url) == "https://portal.example/login?a=b"
    assert request.content == b"user=%C3%A4+b&password=p%26q"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


async def test_a_login_by_query_and_headers_without_a_body(endpoint: Endpoint):
    where = {"method": "GET", "url": "https://portal.example/login?v=2", "query": {"key": "k&1", "id": "x"}}
    headers = {"X-App": "bot", "ACCEPT": "*/*", "User-Agent": "curl"}
    request = await endpoint.sent(http_json(**where, headers=headers))
    assert (request.method, request.content) == ("GET", b"")
    assert str(request.url) == "https://portal.example/login?v=2&key=k%261&id=x"
    assert dict(request.headers) == {
        "host": "portal.example",
        "accept": "*/*",
        "accept-encoding": "identity",
        "user-agent": "curl",
        "x-app": "bot",
    }


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\x00"])
async def test_a_header_with_a_line_break_is_never_sent(endpoint: Endpoint, value):
    failure = await endpoint.failure(http_json(headers={"X-Key": value}))
    assert failure.reason == "headers.X-Key contains a line break, which a header must not contain"
    assert (failure.is_refused, endpoint.requests) == (True, [])


async def test_references_in_the_body_are_read_at_every_fetch(endpoint: Endpoint, tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("first-secret\n")
    reference = resolve(f"${{file:{file}}}", {})
    source = endpoint.source(http_json(json={"x": [{"secret": reference}]}))
    await source.fetch()
    file.write_text("second-secret\n")
    await source.fetch()
    assert [json.loads(request.content) for request in endpoint.requests] == [
        {"x": [{"secret": "first-secret"}]},
        {"x": [{"secret": "second-secret"}]},
    ]
    assert [secret.reveal() for secret in source.secrets()] == ["second-secret"]
    file.unlink()
    assert (await failure_of(source.fetch())).reason.startswith(f"${{file:{file}}}: the file {file} cannot be read")


def test_its_secrets_come_from_all_parts_of_the_request(endpoint: Endpoint):
    settings = http_json(
        headers={"X-Key": "header-key", "Accept": "*/*"}, query={"sig": "query-sig"}, json={"password": "body-password"}
    )
    source = endpoint.source(settings)
    assert [secret.reveal() for secret in source.secrets()] == ["header-key", "query-sig", "body-password"]
    form = endpoint.source(http_json(form={"pin": Secret("123456")}))
    assert [secret.reveal() for secret in form.secrets()] == ["123456"]


async def test_a_user_and_password_go_as_they_stand(endpoint: Endpoint):
    """RFC 7617 2: SAP's ids hold characters that RFC 6749 would have form-encoded."""
    basic = {"username": "sb-a!b1|c!d2", "password": "p:ä+/="}
    request = await endpoint.sent(http_json(basic=basic, form={"a": "b"}))
    pair = b64encode("sb-a!b1|c!d2:p:ä+/=".encode()).decode()
    assert request.headers["authorization"] == f"Basic {pair}"
    source = endpoint.source(http_json(basic={"username": "u", "password": "p-secret"}))
    assert [secret.reveal() for secret in source.secrets()] == ["p-secret", b64encode(b"u:p-secret").decode()]


@pytest.mark.parametrize(
    ("reply", "answered", "token"),
    [
        (
            {"header": "X-Subject-Token", "expiry": "token.expires_at"},
            answer({"token": {"expires_at": "2027-01-15T08:30:00.000000Z"}}, 201, (b"x-subject-token", b"MIID=")),
            ("MIID=", 1800.0),
        ),
        (
            {"token": "data.token", "expiry": "data.expireAt", "unit": "ms"},
            answer({"code": 0, "data": {"token": "abc", "expireAt": 1_800_000_120_000}}),
            ("abc", 120.0),
        ),
        (None, Answer(body=b"abc\n", headers=((b"content-type", b"text/plain"),)), ("abc", 240.0)),
    ],
)
async def test_the_token_is_found_by_header_path_or_as_plain_text(endpoint: Endpoint, reply, answered, token):
    """By header: the login of Huawei Cloud (support.huaweicloud.com/intl/en-us/api-iam/iam_30_0001.html)."""
    endpoint.answers(answered)
    settings = http_json(json=LOGIN, **({} if reply is None else {"reply": reply}))
    fetched = await endpoint.source(settings).fetch()
    assert (fetched.text, fetched.lifetime_s) == token


async def test_an_error_object_with_a_500_may_be_a_refusal_of_a_login(endpoint: Endpoint):
    failure = await endpoint.failure(http_json(json=LOGIN), answer({"message": "用户名或密码错误"}, 500))
    assert failure.kind == "limited"
