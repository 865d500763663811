import pytest
from pydantic import ValidationError

from gatepass.config.credential.http_json import HttpJsonCredential
from tests.unit.config.credential.refused import refused

URL = {"type": "http_json", "url": "https://portal.example/login"}


def shown(**block: object) -> dict[str, object]:
    dumped = HttpJsonCredential.model_validate({**URL, **block}).model_dump(mode="json", by_alias=True)
    return {name: dumped[name] for name in ("headers", "query", "form", "json")}


def test_the_values_of_a_login_are_hidden():
    found = shown(
        headers={"Accept": "text/plain", "X-Key": "top-secret"},
        query={"grant_type": "x", "n": "{nonce}", "key": "top-secret{nonce}"},
        json={"a": ["top-secret", 5], "b": "{signature}", "c": ("{timestamp:number}",)},
    )
    assert found == {
        "headers": {"Accept": "(hidden)", "X-Key": "(hidden)"},
        "query": {"grant_type": "(hidden)", "n": "(hidden)", "key": "(hidden)"},
        "form": None,
        "json": {"a": ["(hidden)", "(hidden)"], "b": "(hidden)", "c": ["(hidden)"]},
    }
    assert shown(form={"scope": "all", "pin": "123456"})["form"] == {"scope": "(hidden)", "pin": "(hidden)"}
    assert shown()["json"] is None


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"json": {}, "form": {"a": "b"}}, {"": "json and form exclude each other"}),
        ({"method": "GET", "json": {}}, {"": "a GET has no body: use query, or method: POST"}),
        (
            {"basic": {"username": "u", "password": "p"}, "headers": {"AUTHORIZATION": "x"}},
            {"": "basic and a header Authorization exclude each other"},
        ),
        ({"basic": {"username": "u"}}, {"basic.password": "is missing"}),
        ({"reply": {"token": "t", "header": "X-T"}}, {"reply": "header and token exclude each other"}),
        (
            {"reply": {"header": "X T"}},
            {"reply.header": "expects the name of a header: letters, digits, hyphens and underscores"},
        ),
    ],
)
def test_invalid_login_is_refused_with_the_remedy(block, expected):
    assert refused(**URL, **block) == expected


def test_credential_that_is_not_a_block_is_a_validation_error():
    with pytest.raises(ValidationError):
        HttpJsonCredential.model_validate("x")
