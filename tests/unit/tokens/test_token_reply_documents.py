import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.config.credential.base import ReplyPaths
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.tokens.token_reply import ReadTimes, TokenReplyFormat, parse_token_document, parse_token_text
from tests.unit.tokens.scripted import TokenFacts, signed

NOW = 1_800_000_000.0
RUN = ReadTimes(5.0, NOW)
FILE = ReadTimes(5.0, NOW, NOW - 60)
UNTIL = "2027-01-15T08:05:00Z"


def terms(**paths: Any) -> TokenReplyFormat:
    return TokenReplyFormat("the file t", 240.0, ReplyPaths(**paths), plain_text=True)


def read(document: Any, at_s: ReadTimes = RUN, **paths: Any) -> TokenFacts:
    text = document if isinstance(document, str) else json.dumps(document)
    return TokenFacts.of(parse_token_document(text, terms(**paths), at_s, str))


def failure(document: Any, at_s: ReadTimes = RUN, **paths: Any) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        read(document, at_s, **paths)
    return caught.value


@pytest.mark.parametrize(
    ("document", "paths", "found"),
    [
        *((text, {}, ("abc", 240.0, LifetimeSource.DEFAULT)) for text in ("abc\n", "Bearer abc", '"abc"')),
        ({"access_token": "abc", "expires_in": 300}, {}, ("abc", 300.0, LifetimeSource.REPLY)),
        (
            {"a": {"b": "abc"}, "c": UNTIL},
            {"token": "a.b", "expiry": "c"},
            ("abc", 300.0, LifetimeSource.REPLY),
        ),
        ({"token": "abc"}, {"expiry": "c"}, ("abc", 240.0, LifetimeSource.DEFAULT)),
        ({"token": "abc", "expires_in": 300_000}, {}, ("abc", 300_000.0, LifetimeSource.REPLY)),
        ({"token": "abc", "expires_in": 300_000}, {"unit": "ms"}, ("abc", 300.0, LifetimeSource.REPLY)),
    ],
)
def test_token_of_a_printed_document(document, paths, found):
    text, lifetime_s, source = found
    assert read(document, **paths) == TokenFacts(text, lifetime_s, TokenKind.OPAQUE, source)


def test_kubectls_exec_credential_is_known_by_its_kind():
    status = {"token": "k8s-aws-v1.abc", "expirationTimestamp": UNTIL}
    document = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    assert read(document) == TokenFacts("k8s-aws-v1.abc", 300.0, TokenKind.OPAQUE, LifetimeSource.REPLY)
    del status["expirationTimestamp"]
    assert read(document) == TokenFacts("k8s-aws-v1.abc", 240.0, TokenKind.OPAQUE, LifetimeSource.DEFAULT)


@pytest.mark.parametrize(
    ("claims", "at_s", "expires_in_s"),
    [
        ({"iat": NOW, "exp": NOW + 300}, RUN, 300.0),
        ({"iat": NOW - 240, "exp": NOW + 60}, RUN, 60.0),
        ({"iat": NOW + 120, "exp": NOW + 420}, RUN, 300.0),
        ({"iat": NOW - 180, "exp": NOW + 420}, FILE, 420.0),
    ],
)
def test_a_jwt_may_be_old_and_the_rest_of_its_life_counts(claims, at_s, expires_in_s):
    assert read({"token": signed(**claims), "expires_in": 9999}, at_s).lifetime_s == expires_in_s
    if at_s.written_s is not None:
        assert parse_token_text(signed(**claims), "it", at_s).lifetime_s == expires_in_s


def test_a_life_in_a_file_began_when_the_file_was_written_and_a_moment_ends_a_jwt_too():
    in_an_hour = signed(iat=NOW, exp=NOW + 3600)
    ended = [{"token": token, "expires_at": NOW - 10} for token in ("abc", in_an_hour)]
    for document in ({"token": "abc", "expires_in": 50}, *ended):
        assert failure(document, FILE).reason == "the file t contains a token that expired 10 s ago"
    assert failure(ended[1]).reason == "the file t contains a token that expired 10 s ago"
    # a file from the future is as old as now
    assert read({"token": "abc", "expires_in": 50}, ReadTimes(5.0, NOW, NOW + 500)).lifetime_s == 50.0


def test_end_of_a_jwt_applies_if_its_document_states_a_later_one():
    text = signed(iat=NOW, exp=NOW + 300)
    assert read({"token": text, "expires_in": 3600}) == TokenFacts(text, 300.0, TokenKind.JWT, LifetimeSource.JWT)


def test_a_file_without_a_lifetime_is_valid_until_it_changes():
    assert read({"token": "abc"}, FILE) == TokenFacts("abc", None, TokenKind.OPAQUE, LifetimeSource.NONE)
    assert TokenFacts.of(parse_token_text("abc\n", "it", FILE)) == TokenFacts(
        "abc", None, TokenKind.KEY, LifetimeSource.NONE
    )
    assert read({"token": "abc"}, FILE, expiry="c") == TokenFacts(
        "abc", 240.0, TokenKind.OPAQUE, LifetimeSource.DEFAULT
    )


@pytest.mark.parametrize(("at_s", "definite"), [(RUN, False), (FILE, True)])
def test_expired_token_is_a_failure_until_its_file_changes(at_s, definite):
    reported = failure({"token": signed(iat=NOW - 400, exp=NOW - 100)}, at_s)
    assert (reported.reason, reported.is_refused) == ("the file t contains a token that expired 100 s ago", definite)
    assert failure({"token": "abc", "expires_at": NOW - 100}, at_s).is_refused is definite


@pytest.mark.parametrize(
    ("document", "paths", "reason"),
    [
        (" \n", {}, "the file t is empty"),
        ("{", {}, "the file t begins like JSON but is not valid JSON"),
        ("abc", {"token": "a.b"}, "the file t is not JSON, so it contains nothing at a.b"),
        ('WARNING: old\n{"token": "a"}', {}, "the file t has text before its JSON, such as a warning: leave it out"),
        ({"a": 1}, {}, "the file t contains no token; it has a"),
        ([], {}, "the file t contains no token"),
        ({"a": 1}, {"token": "a.b"}, "the file t contains no token at a.b; it has a"),
        ({"a": 1}, {"token": "a"}, "the file t contains a token at a that is not text"),
        ({"error": "busy", "token": "abc"}, {}, "the file t contains an error: busy"),
        ({"code": 1, "msg": "no"}, {}, "the file t contains an error: 1: no"),
        ("null", {}, "the file t returned 'null' instead of a token"),
    ],
)
def test_an_invalid_token_is_reported(document, paths, reason):
    reported = failure(document, **paths)
    assert (reported.reason, reported.is_refused) == (reason, False), "the file may be incomplete"


def test_an_error_object_quotes_nothing_that_looks_like_a_token():
    reported = failure({"error": "invalid_client", "message": "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln"})
    assert (reported.reason, reported.is_refused) == (
        "the issuer refused the client: the file t contains an error: invalid_client: ***",
        True,
    )


@pytest.mark.parametrize(
    ("text", "reason", "definite"),
    [
        ("", "it is empty", False),
        ("Bearer ", "it is empty", False),
        ("a b", "it contains a space, a line break or a non-ASCII character", True),
        ("schlüssel", "it contains a space, a line break or a non-ASCII character", True),
        (signed(exp=NOW - 5), "it contains a token that expired 5 s ago", True),
    ],
)
def test_an_invalid_key_is_reported(text, reason, definite):
    with pytest.raises(FetchFailure) as caught:
        parse_token_text(text, "it", RUN)
    assert (caught.value.reason, caught.value.is_refused) == (reason, definite)


def test_a_key_may_hold_any_visible_ascii_and_a_jwt_without_an_end_has_none():
    assert TokenFacts.of(parse_token_text(" 1|abc\n", "it", RUN)) == TokenFacts(
        "1|abc", None, TokenKind.KEY, LifetimeSource.NONE
    )
    text = signed(sub="me")
    assert TokenFacts.of(parse_token_text(text, "it", RUN)) == TokenFacts(
        text, None, TokenKind.JWT, LifetimeSource.NONE
    )


def outcome(reading):
    try:
        return reading()
    except FetchFailure as reported:
        return reported


@given(
    st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("utf-8", "replace")),
    st.sampled_from([RUN, FILE]),
)
def test_no_text_breaks_the_reading(text, at_s):
    for reading in (lambda: read(text, at_s), lambda: parse_token_text(text, "it", at_s)):
        it = outcome(reading)
        if isinstance(it, FetchFailure):
            assert it.reason.isprintable()
        else:
            assert it.lifetime_s is None or it.lifetime_s > 0
