"""Which pages may call gatepass."""

import pytest

from gatepass.auth.cors import EXPOSED, METHODS, VARY, cors_headers, is_preflight, preflight, preflight_error
from gatepass.protocols.operations import OPERATIONS

CHAT = "https://chat.corp.example"
ASKED = ((b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"authorization,x-a"))


def of(origin: str, *more):
    return ((b"host", b"gw"), (b"origin", origin.encode()), *more)


def test_a_listed_page_may_read_the_answer():
    for origins in ([CHAT], ["*"]):
        assert cors_headers(of(CHAT), origins) == (
            (b"access-control-allow-origin", CHAT.encode()),
            (b"access-control-expose-headers", EXPOSED),
            (b"vary", b"origin"),
        )


@pytest.mark.parametrize(
    ("headers", "origins"),
    [
        (((b"host", b"gw"),), [CHAT]),
        (of("https://chat.corp.example.evil"), [CHAT]),
        (of("http://chat.corp.example"), [CHAT]),
        (of("https://chat.corp.example:8443"), [CHAT]),
        (of("HTTPS://CHAT.CORP.EXAMPLE"), [CHAT]),
        (of("null"), ["*"]),
        (of("*"), [CHAT]),
    ],
)
def test_other_origin_gets_only_a_vary_header(headers, origins):
    assert cors_headers(headers, origins) == (VARY,) == ((b"vary", b"origin"),)
    assert preflight("OPTIONS", (*headers, *ASKED), origins) is None
    assert cors_headers(headers, []) == ()


def test_every_method_of_every_operation_is_allowed():
    allowed = METHODS.decode().split(", ")
    assert {operation.method for operation in OPERATIONS} | {"OPTIONS"} == set(allowed)


def test_preflight_allows_the_requested_headers():
    assert preflight("OPTIONS", of(CHAT, *ASKED), [CHAT]) == (
        (b"access-control-allow-origin", CHAT.encode()),
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", b"authorization,x-a"),
        (b"access-control-max-age", b"600"),
        (b"vary", b"origin"),
    )


def test_origin_null_is_refused_with_a_hint():
    reported = preflight_error(of("null", *ASKED)).message
    assert "'null'" in reported
    assert "never allowed" in reported
    assert "cors_origins" not in reported


def test_a_long_origin_is_cut_and_nothing_of_it_reaches_a_terminal():
    reported = preflight_error(((b"origin", b"https://\x1b[2J\xe9" + b"x" * 9000),)).message
    assert "\x1b" not in reported
    assert len(reported) < 400


@pytest.mark.parametrize("names", [b"", b"a b", b"x\r\ny: z", b"a," * 100, b"*"])
def test_invalid_header_names_are_not_reflected(names):
    asked = ((b"access-control-request-method", b"POST"), (b"access-control-request-headers", names))
    reported = dict(preflight("OPTIONS", of(CHAT, *asked), [CHAT]) or ())
    assert reported[b"access-control-allow-headers"] == b"authorization, content-type"


@pytest.mark.parametrize(("method", "asked"), [("POST", ASKED), ("OPTIONS", ())])
def test_other_requests_are_not_preflights(method, asked):
    assert preflight(method, of(CHAT, *asked), [CHAT]) is None
    assert not is_preflight(method, of(CHAT, *asked))
    assert not is_preflight("OPTIONS", ASKED)
    assert is_preflight("OPTIONS", of(CHAT, *ASKED))
