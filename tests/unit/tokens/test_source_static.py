from __future__ import annotations

import pytest

from gatepass.config.credential.kinds import ApiKeyCredential
from gatepass.tokens import build_source
from gatepass.tokens.lifetime import LifetimeSource, TokenKind
from gatepass.types import Secret
from tests.unit.clock import DrivenClock
from tests.unit.tokens.scripted import ScriptedIssuer, failure_of, static


def source(key: str):
    issuer = ScriptedIssuer(DrivenClock())
    return build_source("key", static(Secret(key)), issuer, issuer.clock)


@pytest.mark.parametrize("key", ["sk-abc", "1|abc", "id:secret", " sk-abc\n", "Bearer sk-abc"])
async def test_a_key_is_a_token_without_an_end(key):
    token = await source(key).fetch()
    assert token.text == key.strip().removeprefix("Bearer ")
    assert (token.requested_s, token.lifetime_s, token.kind, token.lifetime_source) == (
        1000.0,
        None,
        TokenKind.KEY,
        LifetimeSource.NONE,
    )


@pytest.mark.parametrize("key", ["a b", "a\nb", "ä", "Bearer ", "a\x7f"])
async def test_a_key_that_fits_into_no_header_is_refused(key):
    failure = await failure_of(source(key).fetch())
    assert failure.is_refused
    assert key.strip() not in failure.reason


def test_its_key_is_its_secret():
    it = source("sk-abc")
    assert [secret.reveal() for secret in it.secrets()] == ["sk-abc"]


async def test_api_key_is_a_static_source_with_its_own_setting():
    issuer = ScriptedIssuer(DrivenClock())
    settings = ApiKeyCredential.model_validate({"type": "api_key", "key": "1|abc"})
    token = await build_source("key", settings, issuer, issuer.clock).fetch()
    assert (token.text, token.lifetime_s, token.kind) == ("1|abc", None, TokenKind.KEY)
    bad = ApiKeyCredential.model_validate({"type": "api_key", "key": "a b"})
    failure = await failure_of(build_source("key", bad, issuer, issuer.clock).fetch())
    assert failure.reason == "key contains a space, a line break or a non-ASCII character"
