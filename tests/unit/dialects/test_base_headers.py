import pytest

from gatepass.dialects.base import NOT_RELAYED, RELAYED, RELAYED_PREFIXES, ResponseHeaders, forwarded
from gatepass.types import CREDENTIALS, HOP_BY_HOP

relayed = ResponseHeaders().select

EVENTS = b"text/event-stream; charset=utf-8"


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "X-API-Key", "api-key", "Cookie", "Host", "Connection", "TE", "Transfer-Encoding", "Expect"),
        *("Content-Length", "Proxy-Authorization", "Accept", "Accept-Encoding", "Content-Type", "X-Gatepass-Hop"),
    ],
)
def test_configured_credentials_and_framing_are_not_forwarded(name):
    assert forwarded(((name.lower().encode(), b"v"),), [name]) == ()


def test_fields_that_connection_names_are_not_relayed():
    upstream = ((b"connection", b"X-Secret"), (b"x-secret", b"s"), (b"cf-ray", b"k"))
    assert relayed(upstream) == [(b"cf-ray", b"k")]
    of_mcp = ((b"connection", b"Mcp-Session-Id"), (b"mcp-session-id", b"s"), (b"allow", b"GET"))
    assert ResponseHeaders(is_of_mcp=True).select(of_mcp) == [(b"allow", b"GET")]


def test_only_the_listed_fields_are_relayed():
    kept = [(name, b"v") for name in sorted(RELAYED)] + [(prefix + b"x", b"v") for prefix in RELAYED_PREFIXES]
    unlisted = (b"x-other", b"content-_x", b"x_thing", b"set-cookie", b"x-request-id", b"mcp-session-id", b"allow")
    others = [(name, b"v") for name in (*sorted(NOT_RELAYED | CREDENTIALS | HOP_BY_HOP - {b"connection"}), *unlisted)]
    assert relayed((*others, *kept)) == kept


def test_an_mcp_server_may_name_its_session_and_the_methods_that_it_allows():
    upstream = ((b"mcp-session-id", b"s"), (b"allow", b"GET"), (b"set-cookie", b"c"), (b"x-api-key", b"k"))
    assert ResponseHeaders(is_of_mcp=True).select(upstream) == [*upstream[:2]]


def test_a_field_that_holds_a_secret_is_dropped():
    chosen = ResponseHeaders(holds=lambda text: "s3cret" in text)
    upstream = ((b"cf-ray", b"1"), (b"openai-version", b"a s3cret of us"), (b"content-type", b"text/plain"))
    assert chosen.select(upstream) == [(b"content-type", b"text/plain"), (b"cf-ray", b"1")]


@pytest.mark.parametrize(
    "name",
    [
        *("x-accel-redirect", "x-accel-buffering", "x-sendfile", "location", "content-location", "refresh", "via"),
        *("x-reproxy-url", "server-timing", "clear-site-data", "nel", "report-to"),
        *("public-key-pins", "public-key-pins-report-only"),
    ],
)
def test_fields_that_control_a_proxy_or_a_client_are_not_relayed(name):
    assert relayed(((name.encode(), b"v"), (b"retry-after", b"3"))) == [(b"retry-after", b"3")]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([], []),
        ([b"application/json"], [(b"content-type", b"application/json")]),
        ([EVENTS, b"text/event-stream"], [(b"content-type", EVENTS)]),
        ([b"text/html", EVENTS], [(b"content-type", EVENTS)]),
        ([b"application/json", b"text/html"], [(b"content-type", b"application/json")]),
    ],
)
def test_content_type_is_relayed_once(kinds, expected):
    assert relayed(tuple((b"content-type", kind) for kind in kinds)) == expected
