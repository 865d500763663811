from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.tokens.token_reply import checked_token, strip_bearer
from tests.unit.tokens.scripted import failure_of


@pytest.mark.parametrize("text", ["abc", "a-._~+/9==", "eyJ.eyJ.sig", "bearerless"])
def test_tokens_of_rfc_6750_pass(text):
    assert checked_token(text, "sso") == text


@pytest.mark.parametrize("text", [" abc\r\n", "Bearer abc", "bearer\tabc ", "BEARER   abc"])
def test_white_space_and_the_scheme_are_removed(text):
    assert checked_token(text, "sso") == "abc"


@pytest.mark.parametrize(
    "text",
    [
        *("a\r\nx-evil: 1", "a\nb", "a b", "a\x00b", "\u00e4", "a;b", '"a"', "=", "a=b", "{}", "\ufffd"),
        *("", " ", "Bearer ", "bearer", "Bearer Bearer abc"),
    ],
)
async def test_text_that_cannot_be_a_bearer_token_is_refused(text):
    failure = await failure_of(lambda: checked_token(text, "sso"))
    assert failure.reason == "sso returned a token with characters that a bearer token must not contain (RFC 6750 2.1)"


@pytest.mark.parametrize("text", ["null", "None", "undefined", "false", "Bearer null"])
async def test_text_for_a_missing_value_is_not_a_token(text):
    assert "instead of a token" in (await failure_of(lambda: checked_token(text, "sso"))).reason


@given(st.text())
def test_bare_text_never_grows(text):
    assert strip_bearer(text) in text
