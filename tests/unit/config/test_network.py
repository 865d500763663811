import pytest
from pydantic import ValidationError

from gatepass.config.credential.kinds import StaticCredential
from gatepass.config.network import BEARER_PLACEMENT, TokenPlacement

FIXED = "holds no {token}, which gatepass replaces by the token; a fixed value belongs under upstreams"
UNFIT = "begins or ends with a space, or holds a line break or a character beyond ASCII"


def refused(**settings):
    with pytest.raises(ValidationError) as caught:
        TokenPlacement.model_validate(settings)
    [detail] = caught.value.errors()
    return ".".join(map(str, detail["loc"])), str(detail.get("ctx", {}).get("error") or detail["type"])


def test_token_is_a_bearer_by_default():
    assert TokenPlacement() == BEARER_PLACEMENT
    assert BEARER_PLACEMENT.templates == {"Authorization": "Bearer {token}"}


def test_a_configured_placement_replaces_the_bearer():
    assert TokenPlacement(headers={"api-key": "{token}"}).templates == {"api-key": "{token}"}
    assert TokenPlacement(query="access_token").templates == {}
    both = TokenPlacement(headers={"X_Token": "{token}"}, query="key")
    assert (both.templates, both.query) == ({"X_Token": "{token}"}, "key")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", FIXED),
        ("Bearer", FIXED),
        ("Bearer {Token}", FIXED),
        ("{token}:{secret}", "supports no placeholder but {token}"),
        ("Bearer {token} ", UNFIT),
        ("Bearer\n{token}", UNFIT),
        ("Bêarer {token}", UNFIT),
    ],
)
def test_template_that_no_header_could_hold_is_refused(template, expected):
    assert refused(headers={"Authorization": template}) == ("headers.Authorization", expected)


@pytest.mark.parametrize(
    "name", ["Host", "Content-Length", "connection", "Proxy-Authorization", "X-Request-Id", "X-Gatepass-Hop"]
)
def test_header_of_one_hop_carries_no_token(name):
    expected = f"{name.lower()} is set by gatepass or belongs to one connection: it cannot be set"
    assert refused(headers={name: "{token}"}) == ("", expected)


def test_header_that_is_named_twice_is_refused():
    expected = "x-key is set twice: header names are case-insensitive"
    assert refused(headers={"X-Key": "{token}", "x-key": "{token}"}) == ("", expected)


def test_token_must_go_somewhere():
    assert refused(headers={}) == ("", "has no place for the token: name a header or a query parameter")


@pytest.mark.parametrize("name", ["", "a b", "a&b", "a=b", "é"])
def test_parameter_must_need_no_escape(name):
    assert refused(query=name) == ("query", "string_pattern_mismatch")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é"])
def test_header_must_be_a_token_of_http(name):
    assert refused(headers={name: "{token}"})[1] == "string_pattern_mismatch"


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
