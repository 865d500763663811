from pathlib import Path

import pytest

from gatepass.call import Request, Secret
from gatepass.config.carry import Carry
from gatepass.observe.redaction import Redactor
from gatepass.upstream.authorize import REREAD_S, Carrier, sendable

PLAIN = Request("POST", "https://llm.corp.example/v1/chat/completions", ((b"accept", b"application/json"),), b"{}")
ACCEPT = PLAIN.headers[0]


def added(carrier: Carrier, token: str | None = "abc", request: Request = PLAIN, now: float = 0.0):
    """What `carrier` made of `request`: its new headers, and what stands behind the URL."""
    loaded = carrier.loaded(request, None if token is None else Secret(token), now)
    assert (loaded.method, loaded.body, loaded.timeouts) == (request.method, request.body, request.timeouts)
    assert loaded.url.startswith(request.url)
    return [field for field in loaded.headers if field != ACCEPT], loaded.url.removeprefix(request.url)


def test_token_is_a_bearer_where_nothing_else_is_said():
    assert added(Carrier(), "ragflow-abc~.+/=") == ([(b"authorization", b"Bearer ragflow-abc~.+/=")], "")


def test_request_without_token_and_headers_is_the_very_same():
    assert Carrier().loaded(PLAIN, None, 0.0) is PLAIN


def test_token_goes_into_every_header_that_is_named():
    carry = Carry(headers={"X-Auth-Token": "{token}", "Authorization": "Token t={token};v=1"})
    assert added(Carrier(carry)) == ([(b"x-auth-token", b"abc"), (b"authorization", b"Token t=abc;v=1")], "")


def test_token_in_a_query_is_escaped_and_in_no_header():
    carrier = Carrier(Carry(query="access_token"))
    assert added(carrier, "24.a/b+c==") == ([], "?access_token=24.a%2Fb%2Bc%3D%3D")


def test_token_in_a_query_goes_behind_the_one_that_is_there():
    request = Request("GET", "https://azure.example/models?api-version=1", (ACCEPT,))
    assert added(Carrier(Carry(query="key")), request=request) == ([], "&key=abc")


def test_token_goes_into_a_header_and_the_query_where_both_are_named():
    carry = Carry(headers={"api-key": "{token}"}, query="key")
    assert added(Carrier(carry)) == ([(b"api-key", b"abc")], "?key=abc")


def test_token_with_the_placeholder_in_it_is_put_in_once():
    assert added(Carrier(), "a{token}b") == ([(b"authorization", b"Bearer a{token}b")], "")


def test_static_headers_go_beside_the_token_and_without_one():
    carrier = Carrier(headers={"AI-Resource-Group": Secret("default")})
    group = (b"ai-resource-group", b"default")
    assert added(carrier) == ([group, (b"authorization", b"Bearer abc")], "")
    assert added(carrier, None) == ([group], "")


def test_static_header_replaces_the_clients():
    client = Request("POST", PLAIN.url, ((b"openai-organization", b"mine"), (b"user-agent", b"sdk")))
    carrier = Carrier(headers={"OpenAI-Organization": Secret("ours")})
    assert carrier.loaded(client, None, 0.0).headers == ((b"user-agent", b"sdk"), (b"openai-organization", b"ours"))


def test_fields_of_a_token_are_made_once():
    read: list[str] = []

    def value() -> str:
        read.append("read")
        return "abc"

    secret = Secret(value)
    carrier = Carrier(Carry(headers={"api-key": "{token}"}, query="key"))
    first, second = (carrier.loaded(PLAIN, secret, now) for now in (0.0, 100.0))
    assert first == second
    assert first.headers[-1] is second.headers[-1]
    assert read == ["read"]


def test_next_token_has_fields_of_its_own():
    carrier = Carrier()
    assert [added(carrier, token)[0] for token in ("one", "two", "one")] == [
        [(b"authorization", b"Bearer one")],
        [(b"authorization", b"Bearer two")],
        [(b"authorization", b"Bearer one")],
    ]


@pytest.mark.parametrize("value", ["", "a b", "a\r\nx: y", "tokén", "a\x00", "a\x7f", "a\ud800"])
def test_token_that_no_field_can_hold_is_refused_without_being_told(value):
    with pytest.raises(ValueError) as raised:
        sendable(Secret(value))
    assert str(raised.value) == "the token is empty or holds a blank, a line break or a character beyond ASCII"
    assert raised.value.__cause__ is raised.value.__context__ is None


@pytest.mark.parametrize("carry", [Carry(), Carry(query="access_token")])
def test_token_that_cannot_be_sent_leaves_no_other_one_in_its_place(carry):
    carrier = Carrier(carry)
    carrier.loaded(PLAIN, Secret("first-token"), 0.0)
    for _ in range(2):
        with pytest.raises(ValueError):
            carrier.loaded(PLAIN, Secret("two words"), 0.0)


def test_static_header_in_a_file_is_read_again_soon(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text("first")
    carrier = Carrier(headers={"Ocp-Apim-Subscription-Key": Secret(file.read_text)})
    shown = []
    for now in (0.0, REREAD_S - 0.1, REREAD_S):
        shown.append(added(carrier, now=now)[0][0][1])
        file.write_text("second")
    assert shown == [b"first", b"first", b"second"]


@pytest.mark.parametrize("bad", ["two\nlines", " blank", "kéy"])
def test_static_header_that_went_bad_stays_as_it_was(bad):
    values = iter(["good", bad, "better"])
    carrier = Carrier(headers={"X-Key": Secret(lambda: next(values))})
    shown = [added(carrier, now=now)[0][0][1] for now in (0.0, REREAD_S, REREAD_S + 0.1, 2 * REREAD_S)]
    assert shown == [b"good", b"good", b"good", b"better"]


def test_static_header_that_was_never_good_fails_the_request_and_not_silently():
    carrier = Carrier(headers={"X-Key": Secret("two\nlines")})
    for _ in range(2):
        with pytest.raises(ValueError, match="line break"):
            carrier.loaded(PLAIN, None, 0.0)


def test_static_headers_that_may_be_secrets_are_masked_and_names_are_not():
    redactor = Redactor()
    carrier = Carrier(headers={"X-Key": Secret("0123456789abcdef"), "X-Group": Secret("default")}, redactor=redactor)
    carrier.loaded(PLAIN, None, 0.0)
    assert redactor.mask("key 0123456789abcdef of group default") == "key *** of group default"


def test_carrier_tells_nothing_of_what_it_holds():
    carrier = Carrier(headers={"X-Key": Secret("0123456789abcdef")})
    carrier.loaded(PLAIN, Secret("my-token"), 0.0)
    assert repr(carrier) == "Carrier(hidden)"
