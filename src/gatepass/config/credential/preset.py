"""Logins of well-known issuers: what `preset` fills in. Data: each expands into ordinary settings of `http_json`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gatepass.call import Secret
from gatepass.config.url import checked_base_url

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

Fault = tuple[str, str]
"""A setting, and what is wrong with it."""


def expanded(block: Mapping[str, Any]) -> dict[str, Any]:
    """`block` of a file, in which `preset_faults` finds none, with what its preset fills in."""
    preset = _preset(block)
    if preset is None:
        return dict(block) if block.get("preset") is None else {"url": NOWHERE, **block}
    values = {name: _usable(name, block.get(name) or preset.may.get(name)) for name in PLAIN}
    filled = _without_rivals(_filled(dict(preset.settings), values), block)
    return {**filled, **{name: _merged(name, filled.get(name), given) for name, given in block.items()}}


def preset_faults(block: Mapping[str, Any]) -> Iterator[Fault]:
    """What is missing, and what says nothing, in a block with the preset it names, or with none."""
    preset = _preset(block)
    given = [name for name in PLAIN if block.get(name) is not None]
    if preset is None:
        if block.get("preset") is None:
            yield from ((name, f"belongs to a preset: {_listed(_with(name))}") for name in given)
        return
    if block.get("base_url") is not None and block.get("url") not in (None, _made_url(preset, block)):
        yield "base_url", "stands beside url: keep one of them"
    for name in _missing(preset, block):
        yield name, f"is missing: the preset {block['preset']} signs in with it"
    takes = f"the preset {block['preset']}, which takes {_listed(preset.takes)}"
    yield from ((name, f"says nothing to {takes}") for name in given if name not in preset.takes)


def _made_url(preset: Preset, block: Mapping[str, Any]) -> Any:
    return _filled(preset.settings.get("url", ""), {"base_url": _usable("base_url", block["base_url"])})


def _missing(preset: Preset, block: Mapping[str, Any]) -> Iterator[str]:
    """A file's own `url` stands for the `base_url` that would lead to it."""
    for name in preset.needs:
        if block.get(name) is None and not (name == "base_url" and block.get("url") is not None):
            yield name


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


def _merged(name: str, filled: Any, given: Any) -> Any:
    if name in MERGED and isinstance(filled, dict) and isinstance(given, dict):
        return {**_without_rivals(filled, given), **given}
    return filled if given is None and filled is not None else given


def _with(name: str) -> Iterable[str]:
    return (preset for preset, it in PRESETS.items() if name in it.takes)


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
