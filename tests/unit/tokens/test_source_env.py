from __future__ import annotations

import pytest

from gatepass.config.credential.kinds import EnvCredential
from gatepass.config.references import Reference
from gatepass.tokens import build_source
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import ScriptedIssuer, failure_of, signed

NOW = DrivenClock().wall()


def source(value: str):
    issuer = ScriptedIssuer(DrivenClock())
    settings = EnvCredential.model_validate({"type": "env", "variable": Reference.to_variable("CORP_TOKEN", value)})
    return build_source("corp", settings, issuer, issuer.clock)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("sk-abc", ("sk-abc", None, TokenKind.KEY, LifetimeSource.NONE)),
        ("Bearer 1|abc\n", ("1|abc", None, TokenKind.KEY, LifetimeSource.NONE)),
        (
            signed(iat=NOW - 60, exp=NOW + 240),
            (signed(iat=NOW - 60, exp=NOW + 240), 240.0, TokenKind.JWT, LifetimeSource.JWT),
        ),
    ],
)
async def test_a_variable_holds_a_key_or_a_jwt_with_its_end(value, expected):
    token = await source(value).fetch()
    assert (token.text, token.lifetime_s, token.kind, token.lifetime_source) == expected
    assert token.requested_s == 1000.0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (signed(exp=NOW - 9), "the environment variable CORP_TOKEN contains a token that expired 9 s ago"),
        ("a b", "the environment variable CORP_TOKEN contains a space, a line break or a non-ASCII character"),
    ],
)
async def test_unusable_value_is_a_definite_failure(value, reason):
    failure = await failure_of(source(value).fetch())
    assert (failure.reason, failure.is_refused) == (reason, True)


def test_its_value_is_its_secret():
    it = source("sk-abc")
    assert [secret.reveal() for secret in it.secrets()] == ["sk-abc"]
