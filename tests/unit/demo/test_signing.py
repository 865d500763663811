from __future__ import annotations

import pytest

from gatepass.demo.signing import Distrust, Distrusted, Minted, SigningKey, fingerprint


def mint(key: SigningKey, audience: str = "chat", life_s: float = 20.0) -> Minted:
    return key.sign(number=1, subject="demo", audience=audience, life_s=life_s)


def why(key: SigningKey, token: str, audience: str = "chat") -> Distrust:
    with pytest.raises(Distrusted) as caught:
        key.verify(token, audience)
    return caught.value.why


def test_a_fresh_token_of_its_audience_is_believed():
    key = SigningKey()
    key.verify(mint(key).token, "chat")


def test_a_token_lives_at_least_as_long_as_was_asked_and_less_than_a_second_more():
    key = SigningKey(wall=lambda: 1_800_000_000.25)
    token = mint(key)
    assert (token.issued_at, token.expires_at) == (1_800_000_000.25, 1_800_000_021)


def test_a_token_is_stale_at_its_very_end():
    key = SigningKey()
    past = mint(key, life_s=-5)
    assert why(key, past.token) is Distrust.STALE
    key.verify(past.token, "chat", expiry=False)


def test_other_audiences_other_keys_and_garbage_are_foreign():
    key = SigningKey()
    assert why(key, mint(key, audience="embeddings").token) is Distrust.FOREIGN
    assert why(key, mint(SigningKey()).token) is Distrust.FOREIGN
    assert why(key, "garbage") is Distrust.FOREIGN


def test_a_token_is_printed_by_its_fingerprint_alone():
    token = mint(SigningKey())
    assert repr(token) == f"Minted(1, demo, {fingerprint(token.token)})"
    assert len(token.fingerprint) == 8
