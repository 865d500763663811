import json

import pytest

from gatepass.json_body import BOM
from gatepass.replies import content
from gatepass.replies.content import MAX_BLANK_BYTES, ContentKind, content_kind, support_id
from tests.memory import traced_memory

EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"),)

JSON = ((b"content-type", b"application/json"),)
HTML = ((b"content-type", b"Text/HTML; charset=utf-8"),)
XML = ((b"content-type", b"application/xml"),)
BIG = "x" * content.WHOLE_BYTES


def test_content_type_is_read_without_parameters():
    assert content.content_type(()) == ""
    assert content.content_type(HTML) == "text/html"
    assert content.content_type((*HTML, *EVENTS)) == "text/event-stream"
    assert content.content_type((*JSON, *HTML)) == "application/json"


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (JSON, b"\n\n <!DOCTYPE html><html>", True),
        (JSON, b"\xef\xbb\xbf<html lang=en>", True),
        ((), b"<h1>502 Bad Gateway</h1>", True),
        ((), b"<!-- sso -->", True),
        (HTML, b"You are <b>out</b>", True),
        (HTML, b"Bad gateway", False),
        (HTML, b'{"error":"<html>"}', False),
        (HTML, b"[1]", False),
        (XML, b"<Error><Code>1</Code></Error>", False),
        (JSON, b'<?xml version="1.0"?><fault/>', False),
        (XML, b'<?xml version="1.0"?><!DOCTYPE html><html/>', True),
        (JSON, b"<400> InternalError.Algo.InvalidParameter", False),
        (JSON, b"", False),
    ],
)
def test_page_is_recognized_by_its_bytes(headers, body, expected):
    assert content.is_html(headers, body) is expected


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<html><title>Corp | Sign in</title></html>", True),
        ("<html><title>LOGIN</title></html>", True),
        ("<html><title>统一身份认证平台 - 登录</title></html>", True),
        ("<html><title>Corp SSO</title></html>", True),
        ("<form action=/x><input name=p type='password'></form>", True),
        ('<form method=post><input type="hidden" name="SAMLRequest" value="x"></form>', True),
        ("<html><body>Your session has expired. Log in again.</body></html>", True),
        ("<html><body><p>Please <b>wait</b></p><p>请重新登录</p></body></html>", True),
        # nginx, Apache, Cloudflare, and a page of a site with a link to its login
        ("<html><title>403 Forbidden</title><body><center><h1>403 Forbidden</h1></center>nginx</body></html>", False),
        ("<title>403 Forbidden</title><p>You don't have permission to access this resource.</p>", False),
        ("<title>Attention Required! | Cloudflare</title><h1>Sorry, you have been blocked</h1>", False),
        ('<title>Not found</title><a href="/login">Log in</a><p>Please check the address</p>', False),
        ("<title>Catalog in preparation</title>", False),
    ],
)
def test_login_page_is_recognized_and_the_page_of_an_error_is_not(page, expected):
    assert content.is_login_page(page.encode()) is expected


def test_page_title_is_found_or_absent():
    assert content.title_of("<head><title data-x>\n Sign in \n</title>") == "\n Sign in \n"
    assert content.title_of("<title> </title>") is None
    assert content.title_of("<title>never ends") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' + b"[" * 1_000_000,
        b'{"a": "' + b"x" * content.WHOLE_BYTES,
        b'{"a": NaN, "b": ' + b"[" * 100_000,
    ],
)
def test_body_that_is_not_json_is_a_value_error(body):
    with pytest.raises(ValueError):
        content.parse(body)


def test_large_document_is_read_but_for_what_is_large_or_of_no_use():
    document = {
        "code": 102,
        "msg": "no",
        "message": BIG,
        "data": [BIG],
        "error": {"a": BIG},
        "detail": [{"a": 2}],
        "x": 1,
    }
    expected = {
        "code": 102,
        "msg": "no",
        "message": "…",
        "data": [None],
        "error": {"message": "…"},
        "detail": [{"a": 2}],
    }
    assert content.parse(json.dumps(document).encode()) == expected
    assert content.parse(BOM + json.dumps(document).encode()) == expected


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([{"text": BIG}], [{"text": "…"}]),
        ([{"x": BIG}], [{}]),
        ([{"x": BIG, "message": {}, "error": None}], [{"message": {}, "error": None}]),
        (
            [{"message": {"content": BIG}, "finish_reason": "stop"}],
            [{"message": {"message": "…"}, "finish_reason": "stop"}],
        ),
        ([{"delta": {"content": BIG}}, {"text": "b"}, {"text": "c"}], [{"delta": {"message": "…"}}, {}]),
    ],
)
def test_of_a_large_list_of_choices_the_first_is_read_but_for_what_is_large(choices, expected):
    assert content.parse(json.dumps({"choices": choices}).encode()) == {"choices": expected}


def test_a_large_list_of_choices_takes_no_memory_for_those_that_are_not_looked_at():
    body = b'{"choices":[{"text":""}' + b",{}" * content.WHOLE_BYTES + b"]}"
    with traced_memory() as memory:
        assert content.parse(body) == {"choices": [{"text": ""}, {}]}
    assert memory.peak_bytes < len(body) / 10


LABELS = [None, b"", b"text/event-stream", b"Text/HTML; charset=utf-8", b"application/json", b"text/plain"]

BODIES = {
    ContentKind.STREAM: [
        *(b'data: {"a":1}\n\n', b"data:{}\n\n", b"data\n\n", b"event: x\n", b"id:1\n", b"retry: 5\r"),
        *(b": OPENROUTER PROCESSING\n\n", b"\n\r\n \tdata: x\n\n", BOM + b"data: x\n\n"),
    ],
    ContentKind.DOCUMENT: [b'{"object":"chat.completion"}', b"\n\n\n\n{}", b'[{"error":{}}]', BOM + b" {}"],
    ContentKind.HTML: [b"<!DOCTYPE html>", b"\r\n <html>"],
}


@pytest.mark.parametrize(("expected", "body"), [(kind, body) for kind, bodies in BODIES.items() for body in bodies])
def test_first_bytes_win_over_the_label_at_every_split(body, expected):
    for label in LABELS:
        kinds = [content_kind(body[:end], label) for end in range(len(body) + 1)]
        assert kinds[-1] is expected, label
        assert set(kinds) <= {ContentKind.UNDECIDED, expected}, label


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (b"text/event-stream; charset=utf-8", ContentKind.STREAM),
        (b"text/html", ContentKind.HTML),
        (b"application/xhtml+xml", ContentKind.HTML),
        (b"application/json", ContentKind.DOCUMENT),
        (b"text/plain", ContentKind.DOCUMENT),
        (None, ContentKind.DOCUMENT),
    ],
)
@pytest.mark.parametrize("body", [b"vendor: x\n\n", b"Service", b"datax", b"idle", b"null", b'"text"', b"\xef\xbb{"])
def test_label_decides_where_the_bytes_show_nothing(label, expected, body):
    assert content_kind(body, label) is expected


def test_white_space_without_end_is_bounded():
    assert content_kind(b"\n" * MAX_BLANK_BYTES, b"text/event-stream") is ContentKind.UNDECIDED
    assert content_kind(b"\n" * (MAX_BLANK_BYTES + 1), b"text/event-stream") is ContentKind.STREAM


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("Your support ID is: 1234567890123456789", "1234567890123456789"),
        ("<p>Reference&#32;#18.2d351ab8.1557333295.a4e16ab</p>", "18.2d351ab8.1557333295.a4e16ab"),
        ("Cloudflare Ray ID: <strong>7d8e9f0a1b2c3d4e</strong> &bull; Your IP", "7d8e9f0a1b2c3d4e"),
        ("Incident ID: 2048001300-99. Call us", "2048001300-99"),
        ("Ref A: 4F2B9C1D8E Ref B: X", "4F2B9C1D8E"),
        ("Request ID: <br/>Ab9_x-KZ1q==", "Ab9_x-KZ1q=="),
        ("您的支持ID是：99887766554433", "99887766554433"),
        ("拦截编号 2026-1128-77", "2026-1128-77"),
        ("/blocked?support_id=55501234&x=1", "55501234"),
        ("error " + "a1" * 41, ""),
        ("Request blocked. Error 1020", ""),
        ("session id 1234567890", ""),
        ("Error code: E-2048-77", "E-2048-77"),
        ("request_number=20261128", "20261128"),
        ("Incident ID: prod/4711-0815", "prod/4711-0815"),
        ("Support ID: Zm9v/12+YmFy", "Zm9v/12+YmFy"),
    ],
)
def test_the_id_of_a_filters_page_is_found(page, found):
    assert support_id(page) == found


@pytest.mark.parametrize(
    "page",
    [
        "<h1>500 Internal Server Error</h1></center><hr><center>nginx/1.22.1</center>",
        "<h1>400 Bad Request</h1><hr><address>Apache/2.4.57 (Debian)</address>",
        "<p>Error</p><p>openresty/1.21.4.1</p>",
        "Support ID: none. Reference: Microsoft-IIS/10.0",
        "Incident: HTTP/2 stream",
        "Log message: envoy/v1.31.0",
        "The error page error500-2026.html could not be read",
        "Bad request server-04711, try again",
    ],
)
def test_the_name_of_a_server_and_a_word_after_error_or_request_are_no_id(page):
    """The reader would look for it in the logs of a filter."""
    assert support_id(page) == ""
