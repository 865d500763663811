from __future__ import annotations

import pytest

from gatepass.cli.schema import editor_schema
from gatepass.config.credential.http_json import HttpJsonCredential
from tests.unit.config.credential.refused import refused

URL = {"type": "http_json", "url": "https://portal.example/login"}


def shown(**block: object) -> dict[str, object]:
    dumped = HttpJsonCredential.model_validate({**URL, **block}).model_dump(mode="json", by_alias=True)
    return {name: dumped[name] for name in ("headers", "query", "form", "json")}


def test_secrets_are_hidden_and_what_can_be_none_is_shown():
    sign = {"secret": "hmac-secret", "text": "{nonce}"}
    found = shown(
        headers={"Accept": "text/plain", "X-Key": "top-secret"},
        query={"grant_type": "x", "n": "{nonce}", "key": "top-secret{nonce}"},
        json={"a": ["top-secret", 5], "b": "{signature}", "c": ("{timestamp:number}",)},
        sign=sign,
    )
    assert found == {
        "headers": {"Accept": "text/plain", "X-Key": "(hidden)"},
        "query": {"grant_type": "x", "n": "{nonce}", "key": "(hidden)"},
        "form": None,
        "json": {"a": ["(hidden)", "(hidden)"], "b": "{signature}", "c": ["{timestamp:number}"]},
    }
    assert shown(form={"scope": "all", "pin": "123456"})["form"] == {"scope": "all", "pin": "(hidden)"}
    assert shown()["json"] is None


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ({"json": {}, "form": {"a": "b"}}, {"": "json and form exclude each other"}),
        ({"method": "GET", "json": {}}, {"": "a GET has no body: use query, or method: POST"}),
        (
            {"basic": {"username": "u", "password": "p"}, "headers": {"AUTHORIZATION": "x"}},
            {"": "basic and a header Authorization exclude each other"},
        ),
        ({"basic": {"username": "u"}}, {"basic.password": "is missing"}),
        ({"reply": {"token": "t", "header": "X-T"}}, {"reply": "header and token exclude each other"}),
        ({"reply": {"expires_in": "t", "expires_at": "t"}}, {"reply": "expires_in and expires_at exclude each other"}),
        (
            {"reply": {"header": "X T"}},
            {"reply.header": "expects the name of a header: letters, digits, hyphens and underscores"},
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_to_do(block, told):
    assert refused(**URL, **block) == told


def test_the_editors_schema_wants_a_url_or_a_preset():
    schema = editor_schema()["$defs"]["HttpJsonCredential"]
    assert schema["required"] == ["type"]
    assert schema["anyOf"] == [{"required": ["url"]}, {"required": ["preset"]}]
