import pytest
from pydantic import ValidationError

from gatepass.config.upstream import UpstreamConfig

BASE = {"base_url": "https://llm.example/v1"}


def refused(**settings):
    with pytest.raises(ValidationError) as caught:
        UpstreamConfig.model_validate({**BASE, **settings})
    [detail] = caught.value.errors()
    return str(detail.get("ctx", {}).get("error") or detail["type"])


def test_static_headers_may_be_any_but_those_of_one_hop():
    headers = {"AI-Resource-Group": "default", "api-key": "k", "Cookie": "a=b", "User-Agent": "two words", "X_Y": "v"}
    upstream = UpstreamConfig.model_validate({**BASE, "headers": headers})
    assert {name: value.reveal() for name, value in upstream.headers.items()} == headers
    assert "default" not in repr(upstream)
    assert upstream.model_dump()["headers"] == dict.fromkeys(headers, "(hidden)")


@pytest.mark.parametrize("name", ["Host", "connection", "TE", "Content-Type", "accept", "X-Request-Id", "X-Gatepass-A"])
def test_static_header_of_one_hop_or_of_gatepass_is_refused(name):
    expected = f"{name.lower()} is set by gatepass or belongs to one connection: it cannot be set"
    assert refused(headers={name: "v"}) == expected


def test_static_header_that_is_named_twice_is_refused():
    assert refused(headers={"X-Y": "a", "x-y": "b"}) == "x-y is set twice: header names are case-insensitive"


@pytest.mark.parametrize("value", [" v", "v ", "a\nb", "a\r\nX: y", "ä", "a\0"])
def test_static_header_with_a_value_that_no_header_holds_is_refused_without_it(value):
    expected = "the value of X-Y begins or ends with a space, or holds a line break or a character beyond ASCII"
    assert refused(headers={"X-Y": value}) == expected


def test_static_header_without_a_value_is_refused():
    assert "not empty" in refused(headers={"X-Y": ""})


def test_headers_of_a_client_that_hold_its_key_are_not_forwarded():
    for name in ("Authorization", "x-api-key", "api-key", "Cookie", "Host", "X-Gatepass-Hop"):
        assert "is never forwarded" in refused(forward_headers=[name])
