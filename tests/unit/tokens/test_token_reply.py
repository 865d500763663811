import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gatepass.config.credential.base import ReplyPaths
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import TimedTokenResponse
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.tokens.token_reply import EXPIRY_NAMES, TokenReplyFormat, checked_token, parse_token_response, value_at
from tests.unit.tokens.scripted import JSON, TokenFacts, date, signed, timed_response

NOW = 1_800_000_000.0
OAUTH2 = TokenReplyFormat("sso", 240.0)
LOGIN = TokenReplyFormat("sso", 240.0, plain_text=True)


def terms(**paths: Any) -> TokenReplyFormat:
    return TokenReplyFormat("sso", 240.0, ReplyPaths(**paths), plain_text=True)


def response(document: Any, *headers: tuple[bytes, bytes], status: int = 200) -> TimedTokenResponse:
    return timed_response(status, (*JSON, *headers), json.dumps(document).encode(), wall_s=NOW)


def minted(
    document: Any, how: TokenReplyFormat = LOGIN, *headers: tuple[bytes, bytes]
) -> tuple[str, float | None, str]:
    it = parse_token_response(response(document, *headers), how)
    return it.text, it.lifetime_s, it.lifetime_source.value


def failure(reply: TimedTokenResponse, how: TokenReplyFormat = LOGIN) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        parse_token_response(reply, how)
    return caught.value


def reason(reply: TimedTokenResponse, how: TokenReplyFormat = LOGIN) -> str:
    return failure(reply, how).reason


def test_standard_reply_is_read():
    document = {"access_token": "2YotnFZFEjr1zCsicMWpAA", "token_type": "example", "expires_in": 300}
    expected = TokenFacts("2YotnFZFEjr1zCsicMWpAA", 300.0, TokenKind.OPAQUE, LifetimeSource.REPLY)
    assert TokenFacts.of(parse_token_response(response(document), OAUTH2)) == expected
    twice = timed_response(200, JSON, json.dumps(json.dumps(document)).encode())
    assert TokenFacts.of(parse_token_response(twice, OAUTH2)) == expected
    checked_token = document | {"token_type": "bEARER"}
    found = parse_token_response(response(checked_token), OAUTH2)
    assert TokenFacts.of(found) == expected


@pytest.mark.parametrize(
    "document",
    [
        *({"access_token": "abc"}, {"accessToken": "abc"}, {"token": "abc"}),
        *({"data": {"token": "abc"}}, {"result": {"access_token": "abc"}}, {"response": {"token": "abc"}}),
        *({"body": {"accessToken": "abc"}}, {"token": {"token": "abc"}}, {"code": 0, "data": {"token": "abc"}}),
        *({"access_token": "abc", "token": "no"}, {"token": "abc", "data": {"access_token": "no"}}),
        *({"access_token": None, "data": {"token": "abc"}}, {"access_token": " abc\n"}),
        *({"token": "Bearer abc"}, {"token": "bearer  abc "}, "abc"),
        *({"code": 200, "msg": "success", "data": {"token": "abc"}}, {"success": True, "token": "abc"}),
    ],
)
def test_the_token_is_found_under_its_usual_names(document):
    assert minted(document)[0] == "abc"


def test_id_token_is_used_only_if_configured():
    assert reason(response({"id_token": "abc"})) == "sso answered without a token; the reply has id_token"
    assert minted({"id_token": "abc"}, terms(token="id_token"))[0] == "abc"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.token", "abc"),
        ("list.0.token", "in list"),
        ("with.dot", "flat"),
        ("deep.with.dot", "flat below"),
        ("list.7.token", None),
        ("list.x", None),
        ("list.99999999999", None),
        ("data.token.more", None),
        ("data.none.more", None),
        ("nowhere", None),
    ],
)
def test_dotted_paths(path, value):
    document = {
        "data": {"token": "abc", "none": None},
        "list": [{"token": "in list"}],
        "with.dot": "flat",
        "deep": {"with.dot": "flat below"},
    }
    assert value_at(document, path) == value


@pytest.mark.parametrize(
    "document",
    [
        *({"data": {"token": "abc", name: int(NOW + 30) * 1000}} for name in EXPIRY_NAMES),
        *({"data": {"token": "abc", name: 30}} for name in EXPIRY_NAMES),
        {"expires_in": 7200, "data": {"token": "abc", "expireAt": int(NOW + 30) * 1000}},
        {"result": {"expires_in": 7200}, "body": {"token": "abc", "expires_in": 30}},
        {"data": {"token": "abc"}, "expires_in": 30},
    ],
)
def test_the_life_beside_the_token_is_found_without_a_path(document):
    assert minted(document) == ("abc", 30.0, "reply")


@pytest.mark.parametrize(
    ("document", "life"),
    [
        ({"expires_in": 300}, (300.0, "reply")),
        ({"expires_in": "3599", "ext_expires_in": "9", "expires_on": "1"}, (3599.0, "reply")),
        ({"expires_at": NOW + 300}, (300.0, "reply")),
        ({"expires_in": NOW + 300}, (300.0, "reply")),
        ({"expires_in": "2027-01-15T08:05:00"}, (300.0, "reply")),
        ({"token": {"expires_at": "2027-01-15T08:05:00.000000Z"}}, (300.0, "reply")),
        ({"expires_in": True, "expires_at": 77}, (77.0, "reply")),
        *(({"expires_in": none}, (240.0, "default_ttl_s")) for none in ("soon", 0, -1, "-1")),
        ({}, (240.0, "default_ttl_s")),
        ({"expires_in": 300_000}, (300_000.0, "reply")),
        ({"expires_at": NOW + 86_400}, (86_400.0, "reply")),
    ],
)
def test_the_life_is_found_under_its_usual_names_and_in_every_unit(document, life):
    assert minted({"access_token": "abc", **document}) == ("abc", *life)
    text = signed(iat=NOW, exp=NOW + 60)
    assert minted({"access_token": text, **document}) == (text, 60.0, "jwt")


@pytest.mark.parametrize(
    ("paths", "life"),
    [
        ({"expiry": "x.left"}, (30.0, "reply")),
        ({"expiry": "x.left", "unit": "s"}, (30.0, "reply")),
        ({"expiry": "x.millis", "unit": "ms"}, (30.0, "reply")),
        ({"expiry": "x.until", "unit": "ms"}, (30.0, "reply")),
        ({"expiry": "x.until"}, (30.0, "reply")),
        ({"expiry": "x.nowhere"}, (240.0, "default_ttl_s")),
        ({"token": "x.token"}, (99.0, "reply")),
        ({"token": "x.token", "unit": "ms"}, (0.099, "reply")),
    ],
)
def test_configured_paths_and_units(paths, life):
    x = {"left": 30, "millis": 30_000, "until": int(NOW + 30) * 1000, "token": "abc", "expires_in": 99}
    assert minted({"token": "abc", "x": x}, terms(**paths)) == ("abc", *life)


@pytest.mark.parametrize("skew_s", [-86_400, 0, 120])
def test_a_moment_beside_a_jwt_is_read_by_the_issuers_clock(skew_s):
    text, clock = signed(iat=NOW + skew_s, exp=NOW + skew_s + 300), date(NOW + skew_s)
    assert minted({"token": text, "expires_at": NOW + skew_s + 200}, LOGIN, clock) == (text, 200.0, "reply")
    for announced in (300, -10):
        assert minted({"token": text, "expires_at": NOW + skew_s + announced}, LOGIN, clock) == (text, 300.0, "jwt")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("access_token=ab%2Bc&token_type=bearer&expires_in=300", ("ab+c", 300.0, "reply")),
        ("scope=repo%2Cgist&access_token=gho_abc&token_type=bearer\n", ("gho_abc", 240.0, "default_ttl_s")),
        ("expires_in=0&accessToken=abc", ("abc", 240.0, "default_ttl_s")),
    ],
)
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/json", "text/html"])
def test_a_form_is_read(form, expected, kind):
    reply = timed_response(200, ((b"content-type", kind.encode()),), form.encode())
    for how in (OAUTH2, LOGIN):
        token = parse_token_response(reply, how)
        assert (token.text, token.lifetime_s, token.lifetime_source.value) == expected


@pytest.mark.parametrize("status", [200, 400])
def test_an_error_as_a_form_is_read(status):
    found = failure(timed_response(status, (), b"error=invalid_client&error_description=The+secret+is+wrong"))
    assert "invalid_client: The secret is wrong" in found.reason
    assert found.is_refused


@pytest.mark.parametrize("life", [-30, "-2", -0.5])
def test_a_token_without_life_is_a_failure(life):
    text = signed(iat=NOW, exp=NOW + 300)
    for token in ("abc", text):
        found = failure(response({"token": token, "expires_in": life}))
        assert ("returned an expired token" in found.reason, found.is_refused) == (True, False)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (timed_response(200, JSON, b""), "sso answered 200 with an empty body"),
        (timed_response(200, JSON, b" \r\n"), "sso answered 200 with an empty body"),
        (timed_response(200, JSON, b"{"), "sso answered 200 with a body that is not JSON"),
        (response({"access_token": None}), "sso answered without a token; the reply has access_token"),
        (response(None), "sso answered without a token"),
        (response(17), "sso answered with a token that is not text"),
        (response({"code": 10001, "msg": "wrong app"}), "sso answered 200 with an error: 10001: wrong app"),
        (
            response({"code": 401, "token": "abc", "msg": "no"}),
            "the issuer refused the client: sso answered 200 with an error: 401: no",
        ),
        (response({"success": False, "token": ""}), "sso answered without a token; the reply has success, token"),
        (
            timed_response(200, ((b"content-type", b"text/html"),), b"<html><title>Corp SSO</title>"),
            "sso answered 200 with an HTML page (Corp SSO) instead of a token",
        ),
        (timed_response(500, JSON, b""), "sso answered 500. Check whether the issuer is up"),
    ],
)
def test_an_invalid_token_is_reported(reply, expected):
    assert reason(reply) == expected


def test_configured_path_is_named_if_it_has_no_value():
    assert reason(response({"data": {}}), terms(token="data.token")) == (
        "sso answered without a token at data.token; the reply has data"
    )
    assert reason(response({"n": 5}), terms(token="n")) == "sso answered with a token at n that is not text"


@pytest.mark.parametrize(
    ("credential", "names"),
    [
        ("portal", ("credentials.portal.reply.token", ". A setting without a variable requires a configuration file")),
        ("token", ("credentials.token.reply.token (GATEPASS_TOKEN_PATH)", "")),
    ],
)
def test_a_token_at_an_unknown_path_is_reported_with_the_member_names_and_the_setting(credential, names, monkeypatch):
    monkeypatch.setenv("GATEPASS_UPSTREAM_URL", "https://h/v1")
    login = replace(LOGIN, credential=credential, url_setting=f"credentials.{credential}.url", is_login=True)
    reply = response({"code": 0, "payload": {"jeton": "abc", "ttl": 5, "a b": 1}, "list": [{"x": 1}]})
    assert reason(reply, login) == (
        f"sso answered without a token; the reply has code, payload (jeton, ttl), list. Set {names[0]} to the token's"
        f" path{names[1]}"
    )


@pytest.mark.parametrize("status", [404, 405, 410])
def test_404_405_and_410_of_a_login_are_definite(status):
    login = replace(LOGIN, credential="portal", url_setting="credentials.portal.url", is_login=True)
    found = failure(response({"msg": "no such app"}, status=status), login)
    assert (found.reason, found.is_refused) == (
        f"the URL is wrong: sso answered {status}: no such app. Check credentials.portal.url",
        True,
    )
    assert not failure(response({"msg": "starting"}, status=status), OAUTH2).is_refused


def test_page_instead_of_a_token_names_the_address():
    login = replace(LOGIN, credential="portal", url_setting="credentials.portal.url", is_login=True)
    advice = {200: "Check credentials.portal.url", 403: "Check credentials.portal.url", 429: "sso answered 429"}
    advice |= dict.fromkeys((502, 503), "Check whether the issuer is up")
    for status, expected in advice.items():
        found = reason(timed_response(status, (), b"<html>"), login)
        assert expected in found
        assert (status not in (200, 403)) == ("portal.url" not in found)
    pages = [failure(timed_response(status, (), b"<html>"), login).advice.case for status in (200, 403, 404)]
    assert pages == ["issuer_page", "issuer_page", "issuer_url"]


def test_an_unknown_error_in_a_200_is_unclear_and_not_retried_at_once():
    login = replace(LOGIN, is_login=True)
    for document, kind in (
        ({"code": 1001, "msg": "wrong app secret"}, "limited"),
        ({"success": False}, "limited"),
        ({"code": 503, "msg": "x"}, "outage"),
        ({"code": 40101, "msg": "wrong app secret"}, "refused"),
    ):
        assert failure(response(document), login).kind == kind


def test_the_upstream_decides_of_a_tokens_type_and_audience():
    text = signed(exp=NOW + 300, iat=NOW, aud="other")
    for token_type in ("DPoP", "N_A", None, 5):
        document = {"token_type": token_type, "issued_token_type": "urn:x:id_token", "data": {"token": text}}
        assert parse_token_response(response(document), OAUTH2).text == text


def test_plain_text_is_a_token_for_a_login_only():
    reply = timed_response(200, ((b"content-type", b"text/plain"),), b"abc\n")
    assert TokenFacts.of(parse_token_response(reply, LOGIN)) == TokenFacts(
        "abc", 240.0, TokenKind.OPAQUE, LifetimeSource.DEFAULT
    )
    assert reason(reply, OAUTH2) == "sso answered 200 with a body that is not JSON"
    assert reason(response("abc"), OAUTH2) == "sso answered without a token"


def test_json_is_read_whatever_it_is_called():
    reply = timed_response(200, ((b"content-type", b"text/html"),), b'{"access_token": "abc"}')
    assert parse_token_response(reply, OAUTH2).text == "abc"


NAMES = ["access_token", "token", "data", "expires_in", "expires_at", "error", "code", "msg", "message", "ttl", "x"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("abc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)


def judged(reply: TimedTokenResponse, how: TokenReplyFormat) -> None:
    try:
        it = parse_token_response(reply, how)
    except FetchFailure as failure:
        assert failure.reason.isprintable()  # noqa: PT017 - a property: of a token or of a failure
        assert len(failure.reason) < 500  # noqa: PT017 - as above
        return
    assert checked_token(it.text, "sso") == it.text
    assert it.lifetime_s is not None
    assert it.lifetime_s > 0


@given(st.sampled_from(["a.b", "data.token", "0", "", ".", "..", "a..b"]), json_values)
def test_no_path_breaks_on_any_document(path, document):
    value_at(document, path)
    judged(response(document), terms(token=path or None, expiry=path or None))


HEADER = TokenReplyFormat(
    "sso", 240.0, ReplyPaths(expiry="token.expires_at"), plain_text=True, header="X-Subject-Token"
)
IN_HEADER = (b"x-subject-token", b"abc")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            timed_response(204, (IN_HEADER,)),
            TokenFacts("abc", 240.0, TokenKind.OPAQUE, LifetimeSource.DEFAULT),
        ),
        (
            timed_response(200, (IN_HEADER,), b"<html>"),
            TokenFacts("abc", 240.0, TokenKind.OPAQUE, LifetimeSource.DEFAULT),
        ),
    ],
)
def test_a_token_in_a_header(reply, expected):
    assert TokenFacts.of(parse_token_response(reply, HEADER)) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (timed_response(201, JSON, b'{"token": "no"}'), "sso answered without a token in its header X-Subject-Token"),
        (
            timed_response(201, ((b"x-subject-token", b" "),), b"{}"),
            "sso answered without a token in its header X-Subject-Token",
        ),
        (
            timed_response(200, (*JSON, IN_HEADER), b'{"code": 401, "msg": "no"}'),
            "the issuer refused the client: sso answered 200 with an error: 401: no",
        ),
        (
            timed_response(200, ((b"x-subject-token", "ä".encode()),), b"{}"),
            "sso returned a token with characters that a bearer token must not contain (RFC 6750 2.1)",
        ),
    ],
)
def test_a_token_missing_in_its_header_is_reported(reply, expected):
    assert reason(reply, HEADER) == expected


UNUSABLE = "sso returned a token with characters that a bearer token must not contain (RFC 6750 2.1)"


def test_a_text_is_a_bearer_token_without_white_space_and_its_scheme_or_a_failure():
    for text in ("abc", "a-._~+/9==", "eyJ.eyJ.sig", "bearerless"):
        assert checked_token(text, "sso") == text
    for text in (" abc\r\n", "Bearer abc", "bearer\tabc ", "BEARER   abc"):
        assert checked_token(text, "sso") == "abc"
    no_tokens = ("a\r\nx-evil: 1", "a\nb", "a b", "a\x00b", "\u00e4", "a;b", '"a"', "=", "a=b", "{}", "\ufffd", "", " ")
    for text in (*no_tokens, "Bearer ", "bearer", "Bearer Bearer abc"):
        assert refused(text) == UNUSABLE, text
    for text in ("null", "None", "undefined", "false", "Bearer null"):
        assert "instead of a token" in refused(text)


def refused(text: str) -> str:
    with pytest.raises(FetchFailure) as caught:
        checked_token(text, "sso")
    return caught.value.reason
