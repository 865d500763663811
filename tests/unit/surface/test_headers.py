"""What of a client's headers may leave gatepass at all."""

import pytest

from gatepass.surface.headers import safe_headers


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
def test_credentials_and_the_first_hops_framing_stay_behind(name):
    assert safe_headers(((name, b"v"), (b"accept", b"*/*"))) == ((b"accept", b"*/*"),)


def test_names_with_underscores_stay_behind():
    assert safe_headers(((b"x_api_key", b"k"), (b"x_request_id", b"r"))) == ()


def test_what_connection_names_stays_behind():
    headers = (
        (b"x-request-id", b"r"),
        (b"connection", b"keep-alive, X-Request-Id ,openai-project"),
        (b"openai-project", b"p"),
        (b"connection", b"x-late"),
        (b"x-late", b"l"),
        (b"openai-organization", b"o"),
    )
    assert safe_headers(headers) == ((b"openai-organization", b"o"),)
