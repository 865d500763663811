"""A credential that logs in with a JSON request of its own, and how that request is signed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_validator,
)

from gatepass.config.block import BaseUrl, Block, SecretText, Url, checked_base_url
from gatepass.config.credential.base import Credential, HttpReply, SettingFault, settings_error
from gatepass.types import Secret

PresetName = Literal["ibm_iam", "baidu", "huawei", "databricks", "sap", "login"]
PLAIN = ("apikey", "client_id", "client_secret", "username", "password", "domain", "project", "scope", "base_url")
"""Settings of `http_json` that say nothing but through a preset."""
MERGED = ("headers", "query", "form", "basic", "reply")
"""Blocks in which a file's own members stand beside the preset's; all else of a file replaces the preset's."""
RIVALS = (("json", "form"), ("token", "header"), ("expires_in", "expires_at"))
"""Settings that exclude each other: the file's own drives out the preset's."""
NOWHERE = "https://base-url.invalid"
"""Stands for the URL that a `base_url` or preset which is refused would make: the fault is told once."""

_NAMES = "|".join(PLAIN)
_WHOLE = re.compile(rf"\{{({_NAMES})\}}\Z")
_PART = re.compile(rf"\{{({_NAMES})\}}")


@dataclass(frozen=True, slots=True)
class Preset:
    """`settings` hold `{name}` where a plain setting goes; a member whose setting is not given is left out."""

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
            "reply": {"token": "access_token", "expires_in": "expires_in"},
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
            "reply": {"token": "access_token", "expires_in": "expires_in"},
            "carry": {"query": "access_token"},
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
                            "user": {
                                "name": "{username}",
                                "password": "{password}",
                                "domain": {"name": "{domain}"},
                            }
                        },
                    },
                    "scope": {"project": {"name": "{project}"}},
                }
            },
            "reply": {"header": "X-Subject-Token", "expires_at": "token.expires_at"},
            "carry": {"headers": {"X-Auth-Token": "{token}"}},
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
            "reply": {"token": "access_token", "expires_in": "expires_in"},
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
            "reply": {"token": "access_token", "expires_in": "expires_in"},
        },
    ),
    "login": Preset(
        ("url", "username", "password"),
        {"json": {"username": "{username}", "password": "{password}"}},
    ),
}


def expanded(block: Mapping[str, Any]) -> dict[str, Any]:
    """`block` of a file, in which `preset_faults` finds none, with what its preset fills in."""
    preset = _preset(block)
    if preset is None:
        return dict(block) if block.get("preset") is None else {"url": NOWHERE, **block}
    values = {name: _usable(name, block.get(name) or preset.may.get(name)) for name in PLAIN}
    filled = _without_rivals(_filled(dict(preset.settings), values), block)
    for name, given in block.items():
        made = filled.get(name)
        if name in MERGED and isinstance(made, dict) and isinstance(given, dict):
            filled[name] = {**_without_rivals(made, given), **given}
        elif given is not None or made is None:
            filled[name] = given
    return filled


def preset_faults(block: Mapping[str, Any]) -> Iterator[SettingFault]:
    """What is missing, and what says nothing, in a block with the preset it names, or with none."""
    preset = _preset(block)
    given = [name for name in PLAIN if block.get(name) is not None]
    if preset is None:
        if block.get("preset") is None:
            for name in given:
                takers = _listed(preset for preset, it in PRESETS.items() if name in it.takes)
                yield name, f"belongs to a preset: {takers}"
        return
    if block.get("base_url") is not None:
        made = _filled(preset.settings.get("url", ""), {"base_url": _usable("base_url", block["base_url"])})
        if block.get("url") not in (None, made):
            yield "base_url", "stands beside url: keep one of them"
    for name in preset.needs:  # a file's own `url` stands for the `base_url` that would lead to it
        if block.get(name) is None and not (name == "base_url" and block.get("url") is not None):
            yield name, f"is missing: the preset {block['preset']} signs in with it"
    takes = f"the preset {block['preset']}, which takes {_listed(preset.takes)}"
    yield from ((name, f"says nothing to {takes}") for name in given if name not in preset.takes)


def _preset(block: Mapping[str, Any]) -> Preset | None:
    name = block.get("preset")
    return PRESETS.get(name) if isinstance(name, str) else None


def _usable(name: str, value: Any) -> Any:
    """A plain setting as the expansion may use it: what is refused by itself is not refused twice."""
    if value is None or isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value:
        return "-"
    if name != "base_url":
        return value
    try:
        return checked_base_url(value)
    except ValueError:
        return NOWHERE


def _filled(made: Any, values: Mapping[str, Any]) -> Any:
    """`made` with its `{name}`s replaced; None where nothing of it is left. A whole text becomes the value
    itself, so that a reference stays one.
    """
    if isinstance(made, str):
        if whole := _WHOLE.match(made):
            return values[whole[1]]
        names = _PART.findall(made)
        return None if any(values[name] is None for name in names) else _PART.sub(lambda it: values[it[1]], made)
    if isinstance(made, dict):
        kept = {key: found for key, child in made.items() if (found := _filled(child, values)) is not None}
        return kept or None
    return list(made)


def _without_rivals(filled: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    driven_out = {rival for pair in RIVALS for rival in pair if any(given.get(name) is not None for name in pair)}
    return {name: value for name, value in filled.items() if name not in driven_out or given.get(name) is not None}


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


SIGNATURE = "signature"
MOMENTS = ("timestamp", "timestamp_ms", "time", "nonce")
"""Values of one request: epoch seconds, epoch milliseconds, ISO 8601 in UTC, and 32 random hexadecimal digits."""
BODIES = ("body", "body_sha256")
ABOUT = ("method", "path", *BODIES)
"""Of the request itself; in `sign.text` alone."""
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_NUMBER = re.compile(r"\{(timestamp|timestamp_ms):number\}\Z")
"""A whole text of a JSON body that becomes a number: there are issuers that take no text for a time."""


class Sign(Block):
    algorithm: Literal["sha256", "sha1", "sha512"] = "sha256"
    """The hash inside the HMAC (RFC 2104)."""
    secret: SecretText
    """The key, best by reference."""
    encoding: Literal["hex", "base64"] = "hex"
    """How the signature is written."""
    text: Annotated[str, Field(min_length=1)]
    """What is signed: `"{app_id}\\n{timestamp}\\n{nonce}"`."""


def names_in(text: str) -> list[str]:
    """The `{name}`s of a template, in order."""
    return _PLACE.findall(text)


def is_place(text: str) -> bool:
    """Whether something else always stands for `text` as a whole, so that it may be shown."""
    place = _NUMBER.match(text) or _PLACE.fullmatch(text)
    return place is not None and place[1] in (*MOMENTS, SIGNATURE)


def with_values(text: str, values: Mapping[str, str]) -> str:
    """`text`, each `{name}` that `values` have replaced; what they put in is not searched again."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), text)


def with_values_in(document: Any, values: Mapping[str, str], reveal: Callable[[Any], str]) -> Any:
    """A JSON document, each text in it `reveal`ed and filled; a whole `{timestamp:number}` becomes a number."""
    if isinstance(document, str):
        text = reveal(document)
        number = _NUMBER.match(text)
        return int(values[number[1]]) if number and number[1] in values else with_values(text, values)
    if isinstance(document, Mapping):
        return {key: with_values_in(child, values, reveal) for key, child in document.items()}
    if isinstance(document, list | tuple):
        return [with_values_in(child, values, reveal) for child in document]
    return document


def unsigned(sign: Sign, members: Iterable[str], signed: Iterable[str], bodies: Iterable[str]) -> Iterator[str]:
    """Why `sign` cannot work: `members` are the names that its text may use beside the built-in ones,
    `signed` all texts of the request, `bodies` those of its body.
    """
    names = names_in(sign.text)
    known = {*MOMENTS, *ABOUT, *members}
    for name in dict.fromkeys(names):
        if name == SIGNATURE:
            yield "holds {signature}, which is made from it"
        elif name not in known:
            listed = ", ".join(f"{{{it}}}" for it in sorted(known))
            yield f"knows no {{{name}}}: no member of query, form, json or headers, and none of {listed}"
    if not any(SIGNATURE in names_in(text) for text in signed):
        yield "is signed for nothing: put {signature} into headers, query, form or json"
    elif any(name in BODIES for name in names) and any(SIGNATURE in names_in(text) for text in bodies):
        yield "signs a body that holds {signature}: let it go into headers or query"


SHOWN = frozenset(("grant_type", "response_type", "scope", "accept", "content-type", "nocatalog"))
"""Members that hold no secret whoever wrote them: `gatepass check` shows what a preset put there."""


class Basic(Block):
    username: str
    """Who signs in."""
    password: SecretText
    """The proof, best by reference."""


def _url_or_preset(schema: dict[str, Any]) -> None:
    schema["required"] = [name for name in schema["required"] if name != "url"]
    schema["anyOf"] = [{"required": ["url"]}, {"required": ["preset"]}]


class HttpJsonCredential(Credential):
    """A login of your own: one HTTP request whose JSON (or plain text) reply holds a token."""

    model_config = ConfigDict(json_schema_extra=_url_or_preset)

    type: Literal["http_json"]
    """Where the token comes from."""
    preset: PresetName | None = None
    """The shape of a known issuer's login, filled in from a few plain settings; what you write yourself stays."""
    url: Url
    """The login's URL."""
    method: Literal["GET", "POST", "PUT", "PATCH"] = "POST"
    """The request's method."""
    headers: dict[str, SecretText] = {}
    """Headers to send."""
    query: dict[str, SecretText] = {}
    """Query parameters to put behind the URL; they appear in no log."""
    json_body: Annotated[Any, Field(alias="json", repr=False)] = None  # keeps its References, to be read again
    """A JSON body; references inside it are resolved."""
    form: dict[str, SecretText] | None = None
    """A form body; exclusive with `json`."""
    basic: Basic | None = None
    """A user and password to send as `Authorization: Basic` (RFC 7617)."""
    sign: Sign | None = None
    """Sign each request by an HMAC."""
    reply: HttpReply = HttpReply()
    """Where the token and its life stand in the reply."""

    apikey: SecretText | None = None
    """Of the preset `ibm_iam`."""
    client_id: str | None = None
    """Of the presets `baidu`, `databricks` and `sap`."""
    client_secret: SecretText | None = None
    """Of the presets `baidu`, `databricks` and `sap`."""
    username: str | None = None
    """Of the presets `huawei` and `login`."""
    password: SecretText | None = None
    """Of the presets `huawei` and `login`."""
    domain: str | None = None
    """Of the preset `huawei`: the account's name."""
    project: str | None = None
    """Of the preset `huawei`: the region's project, such as `cn-north-4`."""
    scope: str | None = None
    """Of the preset `databricks`; None is `all-apis`."""
    base_url: BaseUrl | None = None
    """Of the presets `databricks` (the workspace) and `sap` (the service key's `url`)."""

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, block: Any) -> Any:
        if not isinstance(block, dict):
            return block
        if found := list(preset_faults(block)):
            raise settings_error(cls.__name__, found)
        return expanded(block)

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.json_body is not None and self.form is not None:
            raise ValueError("json and form exclude each other")
        if self.method == "GET" and (self.json_body is not None or self.form is not None):
            raise ValueError("a GET has no body: use query, or method: POST")
        if self.basic is not None and "authorization" in map(str.lower, self.headers):
            raise ValueError("basic and a header Authorization exclude each other")
        return self

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.sign is None:
            return self
        bodies = [*_texts(self.form or {}), *_texts(self.json_body)]
        signed = [*_texts(self.headers), *_texts(self.query), *bodies]
        if found := [("sign.text", text) for text in unsigned(self.sign, self._members(), signed, bodies)]:
            raise settings_error(type(self).__name__, found)
        return self

    def _members(self) -> Iterator[str]:
        """What `sign.text` may call by its name: members whose own text needs no signature."""
        document = self.json_body if isinstance(self.json_body, Mapping) else {}
        for block in (self.query, self.form or {}, document, self.headers):
            for name, value in block.items():
                if all(SIGNATURE not in names_in(text) for text in _texts(value)):
                    yield name

    @field_serializer("headers", "query", "form", mode="wrap")
    def _hidden(self, block: dict[str, Secret] | None, serialize: SerializerFunctionWrapHandler) -> Any:
        if block is None:
            return None
        shown = serialize(block)
        for name, value in block.items():
            for text in _read(value):
                if name.lower() in SHOWN or is_place(text):
                    shown[name] = text
        return shown

    @field_serializer("json_body")
    def _hidden_texts(self, document: Any) -> Any:
        return None if document is None else _without_leaves(document)


def _without_leaves(document: Any) -> Any:
    if isinstance(document, Mapping):
        return {name: _without_leaves(child) for name, child in document.items()}
    if isinstance(document, list | tuple):
        return [_without_leaves(child) for child in document]
    return document if isinstance(document, str) and is_place(document) else "(hidden)"


def _texts(document: Any) -> Iterator[str]:
    """Every text in a block of secrets or a JSON document, as far as it can be read."""
    if isinstance(document, Secret):
        yield from _read(document)
    elif isinstance(document, str):
        yield document
    elif isinstance(document, Mapping):
        for child in document.values():
            yield from _texts(child)
    elif isinstance(document, list | tuple):
        for child in document:
            yield from _texts(child)


def _read(secret: Secret) -> Iterator[str]:
    try:
        yield secret.reveal()
    except ValueError:
        return
