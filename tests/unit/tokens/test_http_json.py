from __future__ import annotations

import json
from pathlib import Path

import pytest

from gatepass.call import Request, Secret, Timeouts
from gatepass.config.references import resolve
from gatepass.tokens import build_source
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import Answer, ScriptedIssuer, answer, failure_of, http_json

LOGIN = {"app_id": "bot", "n": [1, None, True]}


async def sent(**settings: object) -> Request:
    issuer = ScriptedIssuer(DrivenClock())
    await build_source("login", http_json(**settings), issuer, issuer.clock).fetch()
    return issuer.requests[0]


async def test_a_json_login():
    assert await sent(json=LOGIN) == Request(
        "POST",
        "https://portal.example/login",
        (
            (b"accept", b"application/json"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"gatepass"),
            (b"content-type", b"application/json"),
        ),
        b'{"app_id":"bot","n":[1,null,true]}',
        Timeouts(5.0, 10.0, 10.0, 10.0),
    )


@pytest.mark.parametrize("document", [[], {}, 0, "", False])
async def test_every_json_document_is_a_body(document):
    request = await sent(json=document)
    assert json.loads(request.body) == document


async def test_a_form_login():
    request = await sent(form={"user": "ä b", "password": "p&q"})
    assert request.body == b"user=%C3%A4+b&password=p%26q"
    assert dict(request.headers)[b"content-type"] == b"application/x-www-form-urlencoded"


async def test_a_login_by_query_and_headers_without_a_body():
    request = await sent(
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


async def test_a_query_is_put_behind_a_url_without_one():
    assert (await sent(query={"a": "b"})).url == "https://portal.example/login?a=b"


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\x00"])
async def test_a_header_with_a_line_break_is_never_sent(value):
    issuer = ScriptedIssuer(DrivenClock())
    source = build_source("login", http_json(headers={"X-Key": value}), issuer, issuer.clock)
    failure = await failure_of(source.fetch())
    assert (failure.reason, failure.definite) == ("headers.X-Key holds a line break, which no header may", True)
    assert issuer.calls == 0


async def test_references_in_the_body_are_read_at_every_fetch(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("first-secret\n")
    reference = resolve(f"${{file:{file}}}", {})
    issuer = ScriptedIssuer(DrivenClock())
    source = build_source("login", http_json(json={"x": [{"secret": reference}]}), issuer, issuer.clock)
    await source.fetch()
    file.write_text("second-secret\n")
    await source.fetch()
    assert [json.loads(request.body) for request in issuer.requests] == [
        {"x": [{"secret": "first-secret"}]},
        {"x": [{"secret": "second-secret"}]},
    ]
    assert [secret.reveal() for secret in source.secrets()] == ["second-secret"]


async def test_a_reference_that_cannot_be_read_names_itself(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("first-secret")
    reference = resolve(f"${{file:{file}}}", {})
    file.unlink()
    issuer = ScriptedIssuer(DrivenClock())
    source = build_source("login", http_json(json={"secret": reference}), issuer, issuer.clock)
    assert (await failure_of(source.fetch())).reason.startswith(f"${{file:{file}}}: the file {file} cannot be read")


async def test_token_and_expiry_by_path():
    clock = DrivenClock()
    until_ms = int(clock.wall() + 120) * 1000
    issuer = ScriptedIssuer(clock, answer({"code": 0, "data": {"token": "abc", "expireAt": until_ms}}))
    reply = {"token": "data.token", "expires_at": "data.expireAt", "unit": "ms"}
    token = await build_source("login", http_json(json=LOGIN, reply=reply), issuer, clock).fetch()
    assert (token.text, token.life_s) == ("abc", 120.0)


async def test_a_plain_text_reply_is_a_token():
    issuer = ScriptedIssuer(DrivenClock(), Answer(body=b"abc\n", headers=((b"content-type", b"text/plain"),)))
    token = await build_source("login", http_json(default_ttl_s=60.0), issuer, issuer.clock).fetch()
    assert (token.text, token.life_s) == ("abc", 60.0)


def test_its_secrets_come_from_all_parts_of_the_request():
    issuer = ScriptedIssuer(DrivenClock())
    settings = http_json(
        headers={"X-Key": "header-key", "Accept": "*/*"}, query={"sig": "query-sig"}, json={"password": "body-password"}
    )
    source = build_source("login", settings, issuer, issuer.clock)
    assert [secret.reveal() for secret in source.secrets()] == ["header-key", "query-sig", "body-password"]
    form = build_source("login", http_json(form={"pin": Secret("123456")}), issuer, issuer.clock)
    assert [secret.reveal() for secret in form.secrets()] == ["123456"]
    assert repr(source) == "HttpJsonSource(login)"
