"""Keys in the configuration and in environment variables."""

from __future__ import annotations

from typing import Any

import pytest

from gatepass.config.credential.kinds import ApiKeyCredential, EnvCredential
from gatepass.config.references import Reference
from gatepass.tokens import TokenSource, build_source
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import ScriptedIssuer, failure_of, signed, static

NOW = DrivenClock().wall()
JWT = signed(iat=NOW - 60, exp=NOW + 240)


def source(kind: str, value: str) -> TokenSource:
    issuer = ScriptedIssuer(DrivenClock())
    settings: dict[str, Any] = {
        "static": lambda: static(value),
        "api_key": lambda: ApiKeyCredential.model_validate({"type": "api_key", "key": value}),
        "env": lambda: EnvCredential.model_validate(
            {"type": "env", "variable": Reference.to_variable("CORP_TOKEN", value)}
        ),
    }
    return build_source("corp", settings[kind](), issuer, issuer.clock)


@pytest.mark.parametrize("kind", ["static", "api_key", "env"])
@pytest.mark.parametrize("value", ["sk-abc", "1|abc", "id:secret", " sk-abc\n", "Bearer sk-abc"])
async def test_a_key_is_a_token_without_an_end_and_its_own_secret(kind, value):
    it = source(kind, value)
    token = await it.fetch()
    assert token.text == value.strip().removeprefix("Bearer ")
    assert (token.requested_s, token.lifetime_s) == (1000.0, None)
    assert (token.kind, token.lifetime_source) == (TokenKind.KEY, LifetimeSource.NONE)
    assert [secret.reveal() for secret in it.secrets()] == [value]


async def test_a_variable_may_hold_a_jwt_with_its_end():
    token = await source("env", JWT).fetch()
    assert (token.text, token.lifetime_s, token.kind, token.lifetime_source) == (
        *(JWT, 240.0),
        *(TokenKind.JWT, LifetimeSource.JWT),
    )


NO_HEADER = "contains a space, a line break or a non-ASCII character"


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        *(("static", value, f"token {NO_HEADER}") for value in ("a b", "a\nb", "ä", "Bearer ", "a\x7f")),
        ("api_key", "a b", f"key {NO_HEADER}"),
        ("env", "a b", f"the environment variable CORP_TOKEN {NO_HEADER}"),
        ("env", signed(exp=NOW - 9), "the environment variable CORP_TOKEN contains a token that expired 9 s ago"),
    ],
)
async def test_a_key_that_fits_into_no_header_or_is_expired_is_refused(kind, value, reason):
    failure = await failure_of(source(kind, value).fetch())
    assert (failure.reason, failure.is_refused) == (reason, True)
