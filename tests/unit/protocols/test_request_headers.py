"""The client's header fields that gatepass may send to an upstream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.protocols.request import safe_headers


def test_safe_headers_stay_in_order_duplicates_included():
    headers = (
        (b"user-agent", b"OpenAI/Python"),
        (b"x-tag", b"1"),
        (b"x-stainless-retry-count", b"0"),
        (b"x-tag", b"2"),
        (b"traceparent", b"00-a-b-01"),
    )
    assert safe_headers(headers) == headers


@pytest.mark.parametrize(
    "name",
    [
        *(b"authorization", b"x-api-key", b"api-key", b"cookie", b"proxy-authorization"),
        *(b"host", b"content-length", b"content-encoding", b"accept-encoding", b"expect"),
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    ],
)
def test_credentials_and_framing_are_removed(name):
    assert safe_headers(((name, b"v"), (b"accept", b"*/*"))) == ((b"accept", b"*/*"),)


def test_names_with_underscores_are_removed():
    assert safe_headers(((b"x_api_key", b"k"), (b"x_request_id", b"r"))) == ()


def test_fields_that_connection_names_are_removed():
    headers = (
        (b"x-request-id", b"r"),
        (b"connection", b"keep-alive, X-Request-Id ,openai-project"),
        (b"openai-project", b"p"),
        (b"connection", b"x-late"),
        (b"x-late", b"l"),
        (b"openai-organization", b"o"),
    )
    assert safe_headers(headers) == ((b"openai-organization", b"o"),)


NAMES = st.sampled_from(
    [
        b"accept",
        b"x-tag",
        b"x_tag",
        b"host",
        b"connection",
        b"keep-alive",
        b"content-encoding",
        b"content-type",
        b"authorization",
        b"te",
    ]
)
VALUES = st.sampled_from(
    [b"", b"keep-alive", b"identity", b" Identity ", b"gzip", b"X-Tag, accept", b"close,content-type"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6).map(tuple))
def test_single_pass_keeps_the_same_headers_as_three(headers):
    named = {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
    gone = {b"host", b"connection", b"keep-alive", b"content-encoding", b"authorization", b"te", *named}
    kept = tuple(field for field in headers if field[0] not in gone and b"_" not in field[0])
    assert safe_headers(headers) == kept
