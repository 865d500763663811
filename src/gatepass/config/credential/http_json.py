"""`type: http_json`: a login with one custom HTTP request, and presets for known issuers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_serializer, model_validator

from gatepass.config.block import BaseUrl, Block, SecretText, SettingFault, Url, checked_base_url, settings_error
from gatepass.config.credential.base import Credential, HttpReply
from gatepass.config.document import with_leaves
from gatepass.types import Secret

PresetName = Literal["ibm_iam", "baidu", "huawei", "databricks", "sap", "login"]
PLAIN = ("apikey", "client_id", "client_secret", "username", "password", "domain", "project", "scope", "base_url")
"""Settings of `http_json` that only a preset uses."""
PLACEHOLDER_URL = "https://base-url.invalid"
"""Replaces the URL of an invalid `base_url` or preset, so that the problem is reported only once."""

_NAMES = "|".join(PLAIN)
_WHOLE = re.compile(rf"\{{({_NAMES})\}}\Z")
_PART = re.compile(rf"\{{({_NAMES})\}}")


@dataclass(frozen=True, slots=True)
class Preset:
    """The login of a known issuer.

    In `settings`, `{name}` is replaced by a plain setting; a member is left out if its setting is not given. `needs`
    are the required plain settings, `may` the optional ones with their defaults.
    """

    needs: tuple[str, ...]
    settings: Mapping[str, Any]
    may: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def takes(self) -> tuple[str, ...]:
        return (*self.needs, *self.may)


PRESETS: Mapping[str, Preset] = {
    # cloud.ibm.com/apidocs/iam-identity-token-api
    "ibm_iam": Preset(
        ("apikey",),
        {
            "url": "https://iam.cloud.ibm.com/identity/token",
            "form": {"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": "{apikey}"},
            "reply": {"token": "access_token", "expiry": "expires_in"},
        },
    ),
    # ai.baidu.com/ai-doc/REFERENCE/Ck3dwjhhu: the token is a query parameter of every call
    "baidu": Preset(
        ("client_id", "client_secret"),
        {
            "url": "https://aip.baidubce.com/oauth/2.0/token",
            "query": {
                "grant_type": "client_credentials",
                "client_id": "{client_id}",
                "client_secret": "{client_secret}",
            },
            "reply": {"token": "access_token", "expiry": "expires_in"},
            "token_placement": {"query": "access_token"},
        },
    ),
    # support.huaweicloud.com/intl/en-us/api-iam/iam_30_0001.html; without `nocatalog` the reply lists every service
    "huawei": Preset(
        ("username", "password", "domain"),
        {
            "url": "https://iam.myhuaweicloud.com/v3/auth/tokens",
            "query": {"nocatalog": "true"},
            "json": {
                "auth": {
                    "identity": {
                        "methods": ["password"],
                        "password": {
                            "user": {"name": "{username}", "password": "{password}", "domain": {"name": "{domain}"}}
                        },
                    },
                    "scope": {"project": {"name": "{project}"}},
                }
            },
            "reply": {"header": "X-Subject-Token", "expiry": "token.expires_at"},
            "token_placement": {"headers": {"X-Auth-Token": "{token}"}},
        },
        {"project": None},
    ),
    # docs.databricks.com/en/dev-tools/auth/oauth-m2m.html; an account's own endpoint goes into `url`
    "databricks": Preset(
        ("base_url", "client_id", "client_secret"),
        {
            "url": "{base_url}/oidc/v1/token",
            "basic": {"username": "{client_id}", "password": "{client_secret}"},
            "form": {"grant_type": "client_credentials", "scope": "{scope}"},
            "reply": {"token": "access_token", "expiry": "expires_in"},
        },
        {"scope": "all-apis"},
    ),
    # help.sap.com, SAP AI Core, "Use a Service Key": its members url, clientid and clientsecret
    "sap": Preset(
        ("base_url", "client_id", "client_secret"),
        {
            "url": "{base_url}/oauth/token",
            "basic": {"username": "{client_id}", "password": "{client_secret}"},
            "form": {"grant_type": "client_credentials"},
            "reply": {"token": "access_token", "expiry": "expires_in"},
        },
    ),
    "login": Preset(("url", "username", "password"), {"json": {"username": "{username}", "password": "{password}"}}),
}


def expanded(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return `block`, which `preset_faults` has accepted, with the settings of its preset filled in."""
    preset = _preset(block)
    if preset is None:
        return dict(block) if block.get("preset") is None else {"url": PLACEHOLDER_URL, **block}
    values = {name: _usable(name, block.get(name) or preset.may.get(name)) for name in PLAIN}
    filled = _filled(dict(preset.settings), values)
    return {**filled, **{name: given for name, given in block.items() if given is not None or name not in filled}}


def preset_faults(block: Mapping[str, Any]) -> Iterator[SettingFault]:
    """Yield plain settings that the block's preset requires, and those that it does not use."""
    preset = _preset(block)
    given = [name for name in PLAIN if block.get(name) is not None]
    if preset is None:
        if block.get("preset") is None:
            for name in given:
                takers = _listed(preset for preset, it in PRESETS.items() if name in it.takes)
                yield name, f"belongs to a preset: {takers}"
        return
    if block.get("base_url") is not None:
        url = _filled(preset.settings.get("url", ""), {"base_url": _usable("base_url", block["base_url"])})
        if block.get("url") not in (None, url):
            yield "base_url", "conflicts with url: keep one of them"
    for name in preset.needs:  # the preset uses `base_url` only to build `url`
        if block.get(name) is None and not (name == "base_url" and block.get("url") is not None):
            yield name, f"is missing: the preset {block['preset']} requires it"
    takes = f"the preset {block['preset']}, which takes {_listed(preset.takes)}"
    yield from ((name, f"does not belong to {takes}") for name in given if name not in preset.takes)


def _preset(block: Mapping[str, Any]) -> Preset | None:
    name = block.get("preset")
    return PRESETS.get(name) if isinstance(name, str) else None


def _usable(name: str, value: Any) -> Any:
    """Return a plain setting for the expansion, or a valid substitute if pydantic will reject it anyway."""
    if value is None or isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value:
        # any text: pydantic reports the setting itself
        return "-"
    if name != "base_url":
        return value
    try:
        return checked_base_url(value)
    except ValueError:
        return PLACEHOLDER_URL


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """Return `template` with each `{name}` replaced, or None if all its members are left out."""
    if isinstance(template, str):
        if whole := _WHOLE.match(template):
            return values[whole[1]]  # the value itself, so that a Reference stays a Reference
        names = _PART.findall(template)
        return None if any(values[name] is None for name in names) else _PART.sub(lambda it: values[it[1]], template)
    if isinstance(template, dict):
        # an optional setting may leave a block without members, which some issuers reject
        kept = {key: found for key, child in template.items() if (found := _filled(child, values)) is not None}
        return kept or None
    return list(template)


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


class Basic(Block):
    username: str
    """The user name.

    Example: bot
    """
    password: SecretText
    """The password.

    Example: ${BOT_PASSWORD}
    """


class HttpJsonCredential(Credential):
    """A custom login: one HTTP request whose JSON or plain text reply holds a token. Example: `{type: http_json, url:
    https://llm.corp.example/login, json: {id: bot, key: "${BOT_KEY}"}, reply: {token: data.token}}`."""

    model_config = ConfigDict(
        json_schema_extra={"required": ["type"], "anyOf": [{"required": ["url"]}, {"required": ["preset"]}]}
    )

    type: Literal["http_json"]
    preset: PresetName | None = None
    """The login of a known issuer, filled in from a few plain settings. `gatepass check` shows the resulting settings,
    marked `# preset NAME`. Your own settings replace those of the preset.

    - `ibm_iam`: IBM Cloud IAM, a form. It requires `apikey`.
    - `baidu`: Baidu AI Cloud. It requires `client_id` and `client_secret`, and sends the token as `?access_token=`.
    - `huawei`: Huawei Cloud IAM v3, JSON. It requires `username`, `password` and `domain`, accepts `project`, and
      sends the token as `X-Auth-Token`.
    - `databricks`: service principals, `BASE_URL/oidc/v1/token`. It requires `base_url`, `client_id` and
      `client_secret`, and accepts `scope`. An account's own endpoint goes into `url`.
    - `sap`: SAP AI Core and others behind XSUAA, `BASE_URL/oauth/token`. It requires `base_url`, `client_id` and
      `client_secret`.
    - `login`: a JSON body with `username` and `password`. It requires `url`, `username` and `password`.

    Example: ibm_iam
    """
    url: Url
    """The URL of the token endpoint. Most presets contain it.

    Example: https://llm.corp.example/login

    Danger: gatepass may print this URL. Put secrets into `query`, `headers` or the body.
    """
    method: Literal["GET", "POST", "PUT", "PATCH"] = "POST"
    """The HTTP method."""
    headers: dict[str, SecretText] = {}
    """Headers to send.

    Example: {X-App: gatepass}
    """
    query: dict[str, SecretText] = {}
    """Query parameters to append to the URL. gatepass never logs them.

    Example: {app_id: "${APP_ID}"}

    Danger: The issuer's own log may contain them.
    """
    json_body: Annotated[Any, Field(alias="json", repr=False)] = None  # keeps its References, to be read again
    """A JSON body of any shape; references inside its texts are resolved.

    Example: {id: bot, key: "${BOT_KEY}"}
    """
    form: dict[str, SecretText] | None = None
    """A form body; exclusive with `json`.

    Example: {grant_type: key, key: "${BOT_KEY}"}
    """
    basic: Basic | None = None
    """A user name and password to send unchanged as `Authorization: Basic` (RFC 7617).

    Example: {username: bot, password: "${BOT_PASSWORD}"}
    """
    reply: HttpReply = HttpReply()
    """Where the token and its lifetime are in the reply.

    Example: {token: data.token, expiry: data.ttl}
    """

    apikey: SecretText | None = None
    """For the preset `ibm_iam`: the API key.

    Example: ${IBM_API_KEY}
    """
    client_id: str | None = None
    """For the presets `baidu`, `databricks` and `sap`: the client id.

    Example: gatepass
    """
    client_secret: SecretText | None = None
    """For the presets `baidu`, `databricks` and `sap`: the client secret.

    Example: ${CLIENT_SECRET}
    """
    username: str | None = None
    """For the presets `huawei` (an IAM user) and `login`: the user name.

    Example: svc-llm
    """
    password: SecretText | None = None
    """For the presets `huawei` and `login`: the password.

    Example: ${SVC_PASSWORD}
    """
    domain: str | None = None
    """For the preset `huawei`: the name of the account that contains the user.

    Example: corp
    """
    project: str | None = None
    """For the preset `huawei`: the region's project that the token is for.

    Example: cn-north-4
    """
    scope: str | None = None
    """For the preset `databricks`: the scope; None: `all-apis`.

    Example: all-apis
    """
    base_url: BaseUrl | None = None
    """For the presets `databricks` (URL of the workspace) and `sap` (`url` of the service key). Set either this or
    `url`.

    Example: https://corp.cloud.databricks.com
    """

    # Before the validation, because a preset fills in required settings.
    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        if found := list(preset_faults(block)):
            raise settings_error(cls.__name__, found)
        return expanded(block)

    def faults(self) -> Iterator[SettingFault]:
        if self.json_body is not None and self.form is not None:
            yield "", "json and form exclude each other"
        elif self.method == "GET" and (self.json_body is not None or self.form is not None):
            yield "", "a GET has no body: use query, or method: POST"
        elif self.basic is not None and "authorization" in map(str.lower, self.headers):
            yield "", "basic and a header Authorization exclude each other"

    @field_serializer("json_body")
    def _hide_texts(self, document: Any) -> Any:
        return None if document is None else with_leaves(document, lambda _: "(hidden)")
