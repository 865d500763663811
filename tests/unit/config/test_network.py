from gatepass.config.credential.kinds import StaticCredential
from gatepass.config.network import BEARER_PLACEMENT, TokenPlacement


def test_token_is_a_bearer_by_default():
    assert TokenPlacement() == BEARER_PLACEMENT
    assert BEARER_PLACEMENT.templates == {"Authorization": "Bearer {token}"}


def test_a_configured_placement_replaces_the_bearer():
    assert TokenPlacement(headers={"api-key": "{token}"}).templates == {"api-key": "{token}"}
    assert TokenPlacement(query="access_token").templates == {}
    both = TokenPlacement(headers={"X_Token": "{token}"}, query="key")
    assert (both.templates, both.query) == ({"X_Token": "{token}"}, "key")


def test_a_credential_has_its_own_placement_or_the_default_of_its_type():
    class Own(StaticCredential):
        @property
        def default_placement(self):
            return TokenPlacement(headers={"api-key": "{token}"})

    placement = TokenPlacement(query="key")
    plain, own = (
        {"type": "static", "token": "abc"},
        {"type": "static", "token": "abc", "token_placement": {"query": "key"}},
    )
    assert StaticCredential.model_validate(plain).placement is BEARER_PLACEMENT
    assert StaticCredential.model_validate(own).placement == placement
    assert Own.model_validate(plain).placement == TokenPlacement(headers={"api-key": "{token}"})
    assert Own.model_validate(own).placement == placement
