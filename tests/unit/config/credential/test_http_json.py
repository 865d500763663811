from typing import Any, get_args

import pytest
from pydantic import ValidationError

from gatepass.cli.check import editor_schema
from gatepass.config.block import checked_url
from gatepass.config.checks import unsafe_settings
from gatepass.config.credential.http_json import PLAIN, PRESETS, HttpJsonCredential, PresetName, expanded, preset_faults
from gatepass.config.network import TokenPlacement
from gatepass.config.references import Reference
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


def test_the_editors_schema_requires_a_url_or_a_preset():
    schema = editor_schema()["$defs"]["HttpJsonCredential"]
    assert schema["required"] == ["type"]
    assert schema["anyOf"] == [{"required": ["url"]}, {"required": ["preset"]}]


KEY = Reference.to_variable("KEY", "top-secret-value")
GIVEN: dict[str, dict[str, Any]] = {
    "ibm_iam": {"apikey": KEY},
    "baidu": {"client_id": "me", "client_secret": KEY},
    "huawei": {"username": "me", "password": KEY, "domain": "corp"},
    "databricks": {"base_url": "https://dbc.example/", "client_id": "me", "client_secret": KEY},
    "sap": {"base_url": "https://corp.sap.example", "client_id": "sb-a!b1|c!d2", "client_secret": KEY},
    "login": {"url": "https://portal.example/login", "username": "me", "password": KEY},
}
HUAWEI_USER = {"name": "me", "password": KEY, "domain": {"name": "corp"}}
HUAWEI_IDENTITY = {"methods": ["password"], "password": {"user": HUAWEI_USER}}
BASIC = {"username": "me", "password": KEY}
NO_SECRET = "expects a text that is not empty, best as a reference: ${NAME} or ${file:/path}"
OAUTH = {"token": "access_token", "expiry": "expires_in"}

MADE: dict[str, dict[str, Any]] = {
    "ibm_iam": {
        "url": "https://iam.cloud.ibm.com/identity/token",
        "form": {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": KEY},
        "reply": OAUTH,
    },
    "baidu": {
        "url": "https://aip.baidubce.com/oauth/2.0/token",
        "query": {"grant_type": "client_credentials", "client_id": "me", "client_secret": KEY},
        "reply": OAUTH,
        "token_placement": {"query": "access_token"},
    },
    "huawei": {
        "url": "https://iam.myhuaweicloud.com/v3/auth/tokens",
        "query": {"nocatalog": "true"},
        "json": {"auth": {"identity": HUAWEI_IDENTITY}},
        "reply": {"header": "X-Subject-Token", "expiry": "token.expires_at"},
        "token_placement": {"headers": {"X-Auth-Token": "{token}"}},
    },
    "databricks": {
        "url": "https://dbc.example/oidc/v1/token",
        "basic": BASIC,
        "form": {"grant_type": "client_credentials", "scope": "all-apis"},
        "reply": OAUTH,
    },
    "sap": {
        "url": "https://corp.sap.example/oauth/token",
        "basic": {"username": "sb-a!b1|c!d2", "password": KEY},
        "form": {"grant_type": "client_credentials"},
        "reply": OAUTH,
    },
    "login": {"json": {"username": "me", "password": KEY}},
}


def made(preset: str, **more: Any) -> dict[str, Any]:
    """The settings that the preset added."""
    given = {"type": "http_json", "preset": preset, **GIVEN[preset], **more}
    return {name: value for name, value in expanded(given).items() if given.get(name) is not value}


def test_each_preset_has_a_name_and_plain_settings_that_exist():
    assert set(PRESETS) == set(get_args(PresetName)) == set(GIVEN) == set(MADE)
    assert {name for preset in PRESETS.values() for name in preset.takes} <= {*PLAIN, "url"}
    assert {*PLAIN, "preset", "url"} <= set(HttpJsonCredential.model_fields)


@pytest.mark.parametrize("preset", GIVEN)
def test_a_preset_expands_into_ordinary_settings(preset):
    assert made(preset) == MADE[preset]
    HttpJsonCredential.model_validate({"type": "http_json", "preset": preset, **GIVEN[preset]})


@pytest.mark.parametrize("preset", GIVEN)
def test_a_preset_equals_the_settings_written_by_hand(preset):
    by_preset = HttpJsonCredential.model_validate({"type": "http_json", "preset": preset, **GIVEN[preset]})
    by_hand = HttpJsonCredential.model_validate({"type": "http_json", "url": by_preset.url, **MADE[preset]})
    plain = dict.fromkeys((*PLAIN, "preset"))
    assert {**by_preset.model_dump(by_alias=True), **plain} == by_hand.model_dump(by_alias=True)
    assert by_preset.placement == by_hand.placement


def test_references_stay_references_so_that_a_rotated_file_is_read_again(tmp_path):
    file = tmp_path / "key"
    file.write_text("first-secret\n")
    block = {"type": "http_json", "preset": "ibm_iam", "apikey": Reference.to_file(str(file))}
    settings = HttpJsonCredential.model_validate(block)
    file.write_text("second-secret\n")
    assert settings.form is not None
    assert settings.form["apikey"].reveal() == "second-secret"


def test_settings_that_may_be_left_out_leave_no_hole():
    assert made("huawei", project="cn-north-4")["json"]["auth"]["scope"] == {"project": {"name": "cn-north-4"}}
    assert made("databricks", scope="sql")["form"]["scope"] == "sql"


def test_own_settings_override_the_presets():
    assert made("huawei", url="https://iam.eu.example/v3/auth/tokens").get("url") is None
    found = made("ibm_iam", reply={"token": "id_token"}, headers={"A": "b"})
    assert found == {"url": MADE["ibm_iam"]["url"], "form": MADE["ibm_iam"]["form"]}


def test_a_url_stands_for_the_base_url_that_would_lead_to_it():
    url = "https://accounts.example/oidc/accounts/1/v1/token"
    block = {**GIVEN["databricks"], "preset": "databricks", "url": url}
    assert list(preset_faults(block)) == [("base_url", "conflicts with url: keep one of them")]
    del block["base_url"]
    assert list(preset_faults(block)) == []
    assert expanded(block)["url"] == url


def test_each_preset_has_a_way_to_carry_its_token():
    carried = {
        name: HttpJsonCredential.model_validate({"type": "http_json", "preset": name, **given}).placement
        for name, given in GIVEN.items()
    }
    ways = {name: token_placement for name, token_placement in carried.items() if token_placement != TokenPlacement()}
    assert ways == {
        "baidu": TokenPlacement(query="access_token"),
        "huawei": TokenPlacement(headers={"X-Auth-Token": "{token}"}),
    }


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"preset": "ibm_iam"}, {"apikey": "is missing: the preset ibm_iam requires it"}),
        (
            {"preset": "ibm_iam", "client_id": "x"},
            {
                "apikey": "is missing: the preset ibm_iam requires it",
                "client_id": "does not belong to the preset ibm_iam, which takes apikey",
            },
        ),
        (
            {"preset": "huawei", **GIVEN["huawei"], "scope": "x"},
            {"scope": "does not belong to the preset huawei, which takes username, password, domain and project"},
        ),
        (
            {"preset": "login", "username": "u", "password": "p"},
            {"url": "is missing: the preset login requires it"},
        ),
        ({"url": "https://x", "apikey": "k"}, {"apikey": "belongs to a preset: ibm_iam"}),
        ({"url": "https://x", "password": "k"}, {"password": "belongs to a preset: huawei and login"}),
        ({"preset": "aws", "apikey": "k"}, {"preset": f"'aws' is not known here; there is {', '.join(PRESETS)}"}),
        ({}, {"url": "is missing"}),
        ({"preset": "ibm_iam", "apikey": 5}, {"apikey": NO_SECRET}),
        ({"preset": "ibm_iam", "apikey": ""}, {"apikey": NO_SECRET}),
        (
            {"preset": "sap", **GIVEN["sap"], "base_url": "nonsense"},
            {"base_url": "expects http://host… or https://host…"},
        ),
        (
            {"preset": "sap", **GIVEN["sap"], "client_id": 5},
            {"client_id": "expects a text, not a number"},
        ),
    ],
)
def test_an_inconsistent_setting_is_reported_once_and_at_the_setting(block, expected):
    assert refused(type="http_json", **block) == expected


def test_credential_that_is_not_a_block_is_a_validation_error():
    with pytest.raises(ValidationError):
        HttpJsonCredential.model_validate("x")


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if "url" in preset.settings])
def test_the_urls_of_presets_are_urls(preset):
    assert checked_url(expanded({"preset": preset, **GIVEN[preset]})["url"]).startswith("https://")


@pytest.mark.parametrize("setting", ["base_url", "url"])
def test_a_secret_over_plain_http_is_refused_through_a_preset_too(setting):
    block = {"type": "http_json", "preset": "sap", **GIVEN["sap"], setting: "http://corp.sap.example"}
    reported = dict(unsafe_settings({"credentials": {"c": block}}))
    assert set(reported) == {("credentials", "c", setting)}
    assert list(unsafe_settings({"credentials": {"c": {**block, "allow_plain_http": True}}})) == []
