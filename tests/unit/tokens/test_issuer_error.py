import json
import re
from typing import Any

import pytest

from gatepass.replies.error_body import says_failure
from gatepass.tokens.failure import FailureKind, failure_advice
from gatepass.tokens.issuer_error import (
    MAX_MESSAGE_CHARS,
    OUTAGE_RETRY_AFTER_S,
    REFUSED,
    NotJson,
    TimedTokenResponse,
    TokenResponse,
    embedded_error_failure,
    error_in,
    error_response_failure,
    is_definite,
    is_transient,
    mask_token_like,
    one_line,
    parse_json_text,
    wait_s,
    words_of,
)
from tests.unit.tokens.scripted import http_json, oauth2, timed_response

NOW = 1_800_000_000.0
"""Fri, 15 Jan 2027 08:00:00 GMT."""
WITHOUT_ERROR: tuple[Any, ...] = (
    *({}, [], None, 5, "no", {"data": {"token": "x"}}, {"code": 0, "msg": "ok"}, {"code": "0000", "msg": "ok"}),
    *({"code": 200, "message": "success"}, {"error": None}, {"message": "  "}, {"detail": []}),
)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"error": "invalid_client", "error_description": "No such client"}, "invalid_client: No such client"),
        ({"error": {"code": 401, "message": "expired"}}, "401: expired"),
        ({"errors": [{"code": 9109, "message": "Invalid access token"}]}, "9109: Invalid access token"),
        ([{"error": {"message": "denied"}}], "denied"),
        ({"code": 40101, "msg": "密码错误"}, "40101: 密码错误"),
        ({"errcode": "40013", "errmsg": "invalid appid"}, "40013: invalid appid"),
        ({"success": False, "message": "locked"}, "locked"),
        ({"detail": "Not authenticated"}, "Not authenticated"),
        ({"error": {}, "msg": "busy"}, "busy"),
        ({"code": True, "title": "Forbidden"}, "Forbidden"),
        ({"detail": ["first", "second"]}, "first; second"),
        # Ory and Authelia, league/oauth2-server: the description is the same for each error of a code
        (
            {
                "error": "invalid_client",
                "error_description": "Client authentication failed",
                "error_hint": 'Use "basic".',
            },
            'invalid_client: Use "basic".',
        ),
        (
            {"error": "invalid_request", "message": "Malformed.", "hint": "Check `scope`"},
            "invalid_request: Check `scope`",
        ),
        ({"error": "invalid_client", "error_hint": " ", "error_description": "No."}, "invalid_client: No."),
        *((document, None) for document in WITHOUT_ERROR),
    ],
)
def test_issuers_message_is_found_in_every_shape_of_an_error(document, words):
    found = error_in(document, str)
    assert (None if found is None else words_of(found)) == words


def test_codes_that_no_later_attempt_changes_are_definite():
    lasting = {"invalid_client", "unauthorized_client", "invalid_scope", "access_denied"}
    lasting |= {"401", "40101", "40013", "403", "10401", "20403"}
    passing = {None, "500", "429", "42900", "busy", "4010123", "41", "temporarily_unavailable", "4２9", "1401"}
    found = {code: error_in({"code": code, "msg": "no"}, str) for code in lasting | passing}
    assert {code for code, error in found.items() if error is not None and is_definite(error)} == lasting


def test_only_a_certain_error_beside_a_token_is_an_error():
    errors: list[Any] = [
        {"error": "x", "token": "t"},
        {"error": {"a": 1}},
        {"success": False},
        {"code": 401, "msg": "x"},
    ]
    errors += [{"code": "50013"}, {"errcode": 40013}]
    others: list[Any] = [None, [], "x", {}, {"error": ""}, {"error": None}, {"success": True}]
    others += [{"code": 0}, {"code": 200}, {"code": 10001}]
    others += [{"error": {"code": 0, "message": "ok"}}, {"error": {"code": 0}}, {"error": "0"}, {"errorCode": 500}]
    others += [{"status": 401}, {"statusCode": "404"}, {"resultCode": "500001"}, {"rtnCode": "500000"}]
    assert [document for document in errors + others if says_failure(document)] == errors


@pytest.mark.parametrize(
    ("document", "definite", "passing"),
    [
        ({"code": 1001, "msg": "wrong app secret"}, False, False),
        ({"code": 500, "msg": "wrong password"}, False, False),
        ({"code": 503, "msg": "x"}, False, True),
        ({"code": 429, "msg": "login failed"}, False, True),
        ({"error": "temporarily_unavailable", "msg": "login failed"}, False, True),
        ({"errcode": 599}, False, True),
        ({"errcode": "42900"}, False, True),
        ({"status": 503, "error": "Service Unavailable"}, False, True),
        ({"status": "429", "message": "x"}, False, True),
        ({"status": 401, "error": "Unauthorized"}, True, False),
        ({"status_code": 403, "message": "x"}, True, False),
        ({"status": 400, "error": "temporarily_unavailable"}, False, True),
        ({"status": 503, "error": "invalid_client"}, True, False),
        ({"status": 503, "code": 40101}, True, False),
        ({"status": 1, "info": "x", "msg": "?"}, False, False),
    ],
)
def test_error_in_a_200_is_classified_by_its_code_only(document, definite, passing):
    found = error_in(document, str)
    assert found is not None
    assert (is_definite(found), is_transient(found)) == (definite, passing)


def test_an_error_in_a_2xx_never_quotes_what_may_be_the_token():
    document = {"message": "here it is: eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln"}
    failure = embedded_error_failure(document, timed_response(200), "sso")
    assert failure is not None
    assert failure.reason == "sso answered 200 with an error: here it is: ***"


def response(status: int, document: object, *headers: tuple[bytes, bytes]) -> TimedTokenResponse:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return timed_response(status, headers, body, wall_s=NOW)


@pytest.mark.parametrize(
    ("reply", "reason", "definite"),
    [
        (response(401, {"error": "invalid_client"}), REFUSED + "sso answered 401: invalid_client", True),
        (response(401, {"msg": "no"}), REFUSED + "sso answered 401: no", True),
        (response(403, {"code": 40302, "msg": "no"}), REFUSED + "sso answered 403: 40302: no", True),
        (
            response(401, b"<html>", (b"www-authenticate", b"Basic")),
            REFUSED + "sso answered 401: an HTML page",
            True,
        ),
        (response(407, b"<html>"), "the proxy in front of sso refuses (407)", True),
        (response(502, b"<html><p>bad gateway"), "sso answered 502: an HTML page", False),
        (response(500, b"stack\n  trace"), "sso answered 500: stack trace", False),
        (response(404, {"msg": "no route"}), "sso answered 404: no route", False),
        (response(500, {"message": "用户名或密码错误"}), "sso answered 500: 用户名或密码错误", False),
        (response(503, {"error": "invalid_client"}), REFUSED + "sso answered 503: invalid_client", True),
        (response(400, {"error": "temporarily_unavailable"}), "sso answered 400: temporarily_unavailable", False),
    ],
)
def test_refusal_has_the_issuers_message_and_class(reply, reason, definite):
    failure = error_response_failure(reply, "sso")
    assert (failure.reason, failure.is_refused) == (reason, definite)


PAGE = b"<html><title>Wrong password</title>"
LOGIN_ERROR = {"message": "用户名或密码错误"}


@pytest.mark.parametrize(
    ("reply", "kind", "kind_of_a_login"),
    [
        # proxies and firewalls before the issuer send these
        *((response(status, b""), "outage", "outage") for status in (400, 403, 422)),
        *((response(status, PAGE), "outage", "outage") for status in (400, 401, 403, 422)),
        *((response(status, b"RBAC: access denied"), "outage", "outage") for status in (400, 403)),
        (response(403, {}), "outage", "outage"),
        (response(400, {"code": 503, "msg": "system busy"}), "outage", "outage"),
        (
            response(401, {"error": "temporarily_unavailable"}, (b"www-authenticate", b"Bearer")),
            *("outage", "outage"),
        ),
        # a no without a reason
        (response(401, b""), "limited", "limited"),
        (response(401, b"Unauthorized"), "limited", "limited"),
        (response(403, {"message": "Forbidden"}), "limited", "limited"),
        (response(400, {"code": "INVALID_PASSWORD"}), "limited", "limited"),
        # a body that repeats its own status
        (response(400, {"status": 400, "error": "Bad Request", "path": "/login"}), "limited", "limited"),
        (response(403, {"statusCode": 403, "message": "Forbidden resource"}), "limited", "limited"),
        (response(400, {"statusCode": 400}), "outage", "outage"),
        (response(400, {"status": 503, "error": "Service Unavailable"}), "outage", "outage"),
        # a 500 of a login
        (response(500, LOGIN_ERROR), "outage", "limited"),
        (response(500, b"<html>"), "outage", "outage"),
        (response(502, {"message": "bad gateway"}), "outage", "outage"),
    ],
)
def test_a_status_without_a_certain_refusal_is_limited_or_an_outage(reply, kind, kind_of_a_login):
    assert error_response_failure(reply, "sso").kind == kind
    assert error_response_failure(reply, "sso", is_login=True).kind == kind_of_a_login


@pytest.mark.parametrize(
    ("reply", "wish_s"),
    [
        (response(503, b"", (b"retry-after", b"3600")), OUTAGE_RETRY_AFTER_S),
        (response(503, b"", (b"retry-after", b"1")), 1.0),
        (response(302, b"", (b"retry-after", b"3600")), OUTAGE_RETRY_AFTER_S),
        (response(429, b"", (b"retry-after", b"3600")), 3600.0),
        (response(403, {"error": "access_denied"}, (b"retry-after", b"900")), 900.0),
        (response(500, b""), None),
    ],
)
def test_retry_after_is_obeyed_in_replies_about_the_client(reply, wish_s):
    assert error_response_failure(reply, "sso").retry_after_s == wish_s


@pytest.mark.parametrize(
    ("document", "wish_s"),
    [
        ({"code": 10001}, 900.0),
        ({"code": 503}, OUTAGE_RETRY_AFTER_S),
    ],
)
def test_retry_after_is_obeyed_with_an_error_in_a_200(document, wish_s):
    failure = embedded_error_failure(document, response(200, document, (b"retry-after", b"900")), "sso")
    assert failure is not None
    assert failure.retry_after_s == wish_s


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("opaque8f3k2l1q9z7x5v3b1n", "***"),
        ("token=opaque8f3k2l1q9z7x5v", "***"),
        ("/9j8aB/cdefghijklmnopqrstuvw", "***"),
        ("/usr/lib/corp-login/helpers/token.py", "/usr/lib/corp-login/helpers/token.py"),
        ("/abcdefghijklmnopqrstuvwxyzabcdef", "***"),
        ("short", "short"),
    ],
)
def test_texts_like_tokens_are_masked_and_paths_are_not(words, shown):
    assert mask_token_like(f"x {words} y") == f"x {shown} y"


@pytest.mark.parametrize(
    ("document", "quoted"),
    [
        ({"code": 1}, "code 1"),
        ({"code": "0001", "data": None, "ok": False}, "code 0001"),
        ({"errcode": 70013, "hint": "a-token-1", "data": {"token": "t"}}, "code 70013"),
        ({"code": 1, "msg": "no such app"}, "1: no such app"),
        ({"error": "busy"}, "busy"),
        ({"status": 503}, "status 503"),
    ],
)
def test_a_number_without_a_text_is_called_a_code(document, quoted):
    failure = embedded_error_failure(document, timed_response(200), "sso")
    assert failure is not None
    assert failure.reason == f"sso answered 200 with an error: {quoted}"
    assert quoted in error_response_failure(response(400, document), "sso").reason


@pytest.mark.parametrize(
    ("location", "aim"),
    [
        (b"https://login.example/x?secret=1", " to login.example"),
        (b"/login", " to /login"),
        (b"https://sso/oauth/token/?x=secret", " to https://sso/oauth/token/"),
        (b"/s/0af7651916cd43dd8448eb211c80319c", " to another path of the same host"),
        (b"http://[bad", ""),
        (b"", ""),
        (b"https://b\xfcse/", ""),
    ],
)
def test_redirect_is_reported_with_its_host_or_a_plain_path_alone(location, aim):
    failure = error_response_failure(timed_response(302, ((b"location", location),)), "sso")
    assert (failure.reason, failure.is_refused) == (f"sso answered 302, a redirect{aim}", False)


@pytest.mark.parametrize("secret", ["AbCdEf-Secret", "AbCd/Ef:Secret@x", "AbCd" * 80])
def test_a_redirect_reveals_no_secret_in_any_case(secret):
    for target in ("https://{}.evil/", "https://{}@evil/", "//{}:1/"):
        location = (b"location", target.format(secret).encode())
        reply = timed_response(302, (location,), mask=lambda text: text.replace(secret, "***"))
        failure = error_response_failure(reply, "sso")
        assert "abcd" not in failure.reason.lower()


def test_text_drops_a_byte_order_mark_and_survives_foreign_bytes():
    assert TokenResponse(200, (), b"\xef\xbb\xbfa\xff").text == "a\ufffd"


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', "[" * 60_000, "1" * 60_000])
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(NotJson):
        parse_json_text(text)


def test_white_space_is_folded_and_what_cannot_be_printed_removed():
    assert one_line(" a\r\n\tb\x1b[2Jc\x00 \u200b d ", str) == "a b [2Jc d"


def test_long_messages_are_cut():
    line = one_line("x" * 5000, str)
    assert line == "x" * (MAX_MESSAGE_CHARS - 1) + "…"


def test_secrets_are_masked_before_the_cut():
    text = "x" * (MAX_MESSAGE_CHARS - 5) + " hunter2hunter2"
    assert "hunt" not in one_line(text, lambda it: it.replace("hunter2hunter2", "***"))


@pytest.mark.parametrize(
    ("headers", "asked_s"),
    [
        ((), None),
        (((b"retry-after", b"7"),), 7.0),
        (((b"retry-after", b" 2.5 "),), 2.5),
        (((b"retry-after", b"-3"),), 0.0),
        (((b"retry-after", b"soon"),), None),
        (((b"retry-after", b"Fri, 15 Jan 2027 08:00:30 GMT"),), 30.0),
        (((b"retry-after", b"Fri, 15 Jan 2027 08:00:30 GMT"), (b"date", b"Fri, 15 Jan 2027 08:00:20 GMT")), 10.0),
        (((b"retry-after", b"Fri, 15 Jan 2027 07:00:30 GMT"),), 0.0),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(headers, asked_s):
    assert wait_s(timed_response(429, headers, wall_s=NOW), kind=FailureKind.LIMITED) == asked_s


@pytest.mark.parametrize(
    ("status", "body", "settings"),
    [
        (403, b"", "client_id client_secret client_auth scope"),
        (401, b" {} ", "client_id client_secret client_auth scope"),
        (400, b"[]", "client_id client_secret client_auth scope"),
        (400, b'{"error":"scope_invalid"}', "scope"),
        (400, b'{"error":"invalid_request","error_description":"The scope llm.use is not allowed"}', "scope"),
        (403, b'{"message":"Unknown scope: llm"}', "scope"),
        (400, b'{"error":"unsupported_scope"}', "scope"),
        (403, b'{"error":"insufficient_scope"}', "scope"),
        (400, b'{"error":"invalid_request","error_description":"scope is required"}', "scope"),
        (400, '{"code":40012,"msg":"scope 无效"}'.encode(), "scope"),
        (400, b'{"error":"invalid_resource","error_description":"AADSTS50001: Resource not provided"}', "extra scope"),
        (
            400,
            b'{"error":"invalid_request","error_description":"AADSTS900144: The body must contain scope."}',
            "extra scope",
        ),
        (400, b'{"error":"invalid_client"}', "client_id client_secret client_auth"),
        (403, b"RBAC: access denied", "token_url"),
        (503, b"", "token_url"),
    ],
)
def test_a_refusal_names_the_settings_that_it_is_about(status, body, settings):
    failure = error_response_failure(response(status, body), "sso")
    advised = str(failure_advice(failure, "corp", oauth2(client_secret="s")))
    assert re.findall(r"credentials\.corp\.(\w+)", advised) == settings.split()


def test_a_login_that_refuses_without_a_text_names_no_setting_of_oauth2():
    failure = error_response_failure(response(403, b""), "sso", is_login=True)
    assert re.findall(r"credentials\.corp\.(\w+)", str(failure_advice(failure, "corp", http_json()))) == ["url"]


def test_a_reply_that_is_no_text_is_not_quoted():
    failure = error_response_failure(response(502, bytes(range(256)) * 8), "sso")
    assert failure.reason == "sso answered 502"
