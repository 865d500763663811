"""A configuration from the environment alone: one upstream, one more for embeddings, one credential.

Values are taken as they stand: nothing in them is a reference. An empty variable counts as unset. A
secret may stand in a file that `…_FILE` names; that file is read again when it changes.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from gatepass.config.block import checked_url
from gatepass.config.credential.base import Credential
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.credential.vendor import AwsBedrockCredential, EntraCredential, GoogleCredential
from gatepass.config.document import (
    ConfigDocument,
    ConfigProblem,
    SettingPath,
    ValueOrigin,
    dotted,
    leaves,
    lookup,
    matches,
    with_value,
)
from gatepass.config.file import value_of
from gatepass.config.model import Config
from gatepass.config.references import (
    CLIENT_KEY_VARIABLE,
    NAMES,
    PREFIX,
    REQUIRED,
    SECRETS,
    TOKEN_VARIABLES,
    TYPE_BY_VARIABLE,
    VARIABLES_BY_TYPE,
    Reference,
    UnresolvedReference,
    VariableValue,
    is_moment,
    own_variables,
    variable_value,
)
from gatepass.config.upstream import UpstreamConfig
from gatepass.config.wording import ALIASES, all_settings, did_you_mean, named
from gatepass.types import Secret

Proxied = TypeVar("Proxied", UpstreamConfig, Credential)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's URL, and `user:password` where it wants them."""

    url: str
    auth: Secret | None = None


def with_environment_proxies(config: Config, environment: Mapping[str, str]) -> Config:
    """`config` with the environment's proxy at every hop that asks for it; raises ValueError where it is no URL."""
    upstreams = {name: _proxied(hop, hop.base_url, environment) for name, hop in config.upstreams.items()}
    credentials = {name: _proxied(hop, _issuer_url(hop), environment) for name, hop in config.credentials.items()}
    return config.model_copy(update={"upstreams": upstreams, "credentials": credentials})


def environment_proxy(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for `url`: HTTPS_PROXY or HTTP_PROXY by its scheme, else ALL_PROXY, unless NO_PROXY names its host.

    The lower-case spelling wins, as curl and Python have it. Raises ValueError.
    """
    parts = urlsplit(url)
    # public in CPython and documented by its tests alone; typeshed does not know it
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if (hosts := _variable("no_proxy", environment)) and bypass(parts.netloc, {"no": hosts}):
        return None
    found = _variable(f"{parts.scheme}_proxy", environment) or _variable("all_proxy", environment)
    return parsed_proxy(found) if found else None


def parsed_proxy(text: str) -> Proxy:
    """`http://user:password@host:port` taken apart; raises ValueError, which quotes none of it.

    The scheme may be missing, and in the user's name and password %40 stands for an @.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
    except ValueError:
        # its own words may quote the password
        raise ValueError("is not a URL: its host or port is malformed") from None
    user, _, place = parts.netloc.rpartition("@")
    rest = parts._replace(netloc=place).geturl()
    if "@" in rest:
        raise ValueError("holds an @ behind its host: in a password write / as %2F, ? as %3F and # as %23")
    return Proxy(checked_url(rest), Secret(unquote(user)) if user else None)


def _proxied(hop: Proxied, url: str | None, environment: Mapping[str, str]) -> Proxied:
    proxy = environment_proxy(url, environment) if hop.network.from_env and url is not None else None
    if proxy is None:
        return hop
    network = hop.network.model_copy(update={"proxy": proxy.url, "proxy_auth": proxy.auth})
    return hop.model_copy(update={"network": network})


def _issuer_url(credential: Credential) -> str | None:
    """Where its tokens come from; None for a key that is fetched nowhere."""
    match credential:
        case Oauth2Credential():
            return credential.endpoint
        case HttpJsonCredential():
            return credential.url
        case EntraCredential():
            return None if credential.managed_identity else credential.authority_host
        case GoogleCredential():
            return "https://oauth2.googleapis.com/token"
        case AwsBedrockCredential():
            return credential.sts
        case _:
            return None


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


SOURCE = "environment"
CHAT, EMBEDDINGS, CREDENTIAL = "chat", "embeddings", "token"
"""What the blocks are called that a file would name."""
_SEPARATORS = re.compile(r"[\s,]+")
NO_CLIENTS_KEY = "is for `gatepass learned` and opens no door: clients' keys are GATEPASS_KEYS"
NO_KEY = "is the profile of clients' keys, of which there are none"
NEAR = 0.7
WANTS_A_FILE = "wants a file, which --config or GATEPASS_CONFIG names"
OF_BASE_URL = ("BASE_URL", *(word.upper() for word, names in ALIASES.items() if "base_url" in names))
VARIABLE_OF = {
    **dict.fromkeys(("UPSTREAM", *OF_BASE_URL), "UPSTREAM_URL"),
    "HASH": "KEY_HASHES",
    "SERVER_HOST": "HOST",
    "SERVER_PORT": "PORT",
    "ACCESS_KEYS": "KEYS",
}
"""Names in a file, and of others, of what has a variable of another name."""


def read_environment(environment: Mapping[str, str]) -> ConfigDocument:
    """The configuration that the GATEPASS_ variables stand for, with every problem found on the way."""
    reading = _Reading(own_variables(environment))
    reading.refuse_strangers()
    reading.upstreams()
    reading.credential()
    reading.keys()
    if environment.get(PREFIX + CLIENT_KEY_VARIABLE):
        reading.document.warnings.append(f"{PREFIX}{CLIENT_KEY_VARIABLE} {NO_CLIENTS_KEY}")
    return reading.document


def strangers(values: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """Each of the own variables that gatepass does not have, with the nearest name that it has, or the setting of
    that name that a file has."""
    for name in values:
        if name not in NAMES and name not in ("CONFIG", CLIENT_KEY_VARIABLE):
            yield ConfigProblem((), _strange(name), _origin(name))


def _strange(name: str) -> str:
    """Compared without the prefix, which makes all names alike."""
    known = sorted((*NAMES, "CONFIG"))
    spelled = [place for place in all_settings() if len(place) > 1 and "_".join(place) == name.lower()]
    near = [] if spelled else get_close_matches(name, known, n=1, cutoff=NEAR)
    if near := [VARIABLE_OF[name]] if name in VARIABLE_OF else near:
        return f"is not a variable of gatepass; did you mean {PREFIX}{near[0]}?"
    for place in spelled or all_settings():
        if spelled or place[-1] == name.lower():
            return f"is not a variable of gatepass: {dotted(named(place))} {WANTS_A_FILE}"
    return f"is not a variable of gatepass; there is {', '.join(PREFIX + it for it in known)}"


class _Reading:
    """Turns variables into the tree that a file would have held."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.document = ConfigDocument(SOURCE)

    def refuse_strangers(self) -> None:
        """Names that gatepass does not have, and secrets that are given twice."""
        self.document.problems += strangers(self._values)
        for name in SECRETS:
            if name in self._values and f"{name}_FILE" in self._values:
                self._problem((), f"conflicts with {PREFIX}{name}: keep one of them", f"{name}_FILE")

    def upstreams(self) -> None:
        self._upstream(CHAT, "UPSTREAM_URL")
        self._set(("models",), {"*": {"upstream": CHAT}}, "UPSTREAM_URL")
        if "EMBEDDINGS_URL" in self._values:
            self._upstream(EMBEDDINGS, "EMBEDDINGS_URL")
            self._set(("operations",), {"embeddings": {"upstream": EMBEDDINGS}}, "EMBEDDINGS_URL")

    def credential(self) -> None:
        kind, teller = self._type()
        if not kind:
            return
        block: SettingPath = ("credentials", CREDENTIAL)
        self._set((*block, "type"), kind, teller)
        for name, place in VARIABLES_BY_TYPE[kind].items():
            self._member(name, (*block, *place))
        for name in TOKEN_VARIABLES:
            if name not in VARIABLES_BY_TYPE[kind] and (foreign := variable_value(self._values, name)):
                self._problem((), f"has no effect on a credential of type {kind}: remove it", foreign.name)
        self._network(block)
        for upstream in self.document.tree["upstreams"]:
            self._set(("upstreams", upstream, "credential"), CREDENTIAL, teller)

    def keys(self) -> None:
        """One entry for each key and each hash; the keys of a file, which may change in number, share one."""
        keys = variable_value(self._values, "KEYS")
        entries = self._keys(keys) if keys else []
        for entry in entries:
            self._entry(entry, keys.name if keys else "")
        for number, text in enumerate(_listed(self._values.get("KEY_HASHES", "")), 1):
            self._entry({"name": f"hash-{number}", "hash": text}, "KEY_HASHES")
        if "PROFILE" in self._values and not lookup(self.document.tree, ("access", "keys")):
            self._problem((), f"{NO_KEY}: set {PREFIX}KEYS or {PREFIX}KEY_HASHES, or remove it", "PROFILE")

    def _entry(self, entry: dict[str, Any], name: str) -> None:
        """`entry`, under the profile of all keys."""
        entries = lookup(self.document.tree, ("access", "keys")) or []
        self.document.tree = with_value(self.document.tree, ("access", "keys"), [*entries, entry])
        self.document.origins["access", "keys", len(entries)] = _origin(name)
        if profile := self._values.get("PROFILE"):
            self._set(("access", "keys", len(entries), "profile"), profile, "PROFILE")

    def _keys(self, keys: VariableValue) -> list[dict[str, Any]]:
        if keys.fault is not None:
            self._problem(("access", "keys", 0), keys.fault, keys.name)
            return [{"name": "keys-file"}]
        if keys.file is not None:
            return [{"name": "keys-file", "key": Reference.to_file(keys.file, lambda text: text.replace(",", " "))}]
        return [
            {"name": f"key-{number}", "key": Reference.to_variable(f"{PREFIX}KEYS", key)}
            for number, key in enumerate(_listed(keys.value), 1)
        ]

    def _type(self) -> tuple[str, str]:
        """The credential's type and the variable that tells it; "" where there is none, or a problem."""
        if stated := self._values.get("TOKEN_TYPE"):
            if stated in VARIABLES_BY_TYPE:
                return stated, "TOKEN_TYPE"
            self._problem(
                (), f"{stated!r} is not known here{did_you_mean(stated, list(VARIABLES_BY_TYPE))}", "TOKEN_TYPE"
            )
            return "", ""
        telling = {
            kind: found.name for name, kind in TYPE_BY_VARIABLE.items() if (found := variable_value(self._values, name))
        }
        if len(telling) == 1:
            return next(iter(telling.items()))
        if telling:
            names = " and ".join(f"{PREFIX}{name}" for name in telling.values())
            self._problem((), f"{names} belong to different types of credential: keep one of them")
        elif any(name in self._values for name in TOKEN_VARIABLES):
            self._problem((), f"is missing: {' or '.join(VARIABLES_BY_TYPE)}", "TOKEN_TYPE")
        return "", ""

    def _member(self, name: str, path: SettingPath) -> None:
        found = variable_value(self._values, name)
        if found is None:
            if name in REQUIRED and not (name == "TOKEN_URL" and "ISSUER" in self._values):
                also = f" (or {PREFIX}{name}_FILE)" if name in SECRETS else ""
                self._problem(path, f"is missing: set {PREFIX}{name}{also}")
        elif found.fault is not None:
            self._problem(path, found.fault, found.name)
        elif name == "TOKEN_JSON":
            self._login(path, found)
        elif name == "EXPIRES_PATH" and is_moment(found.value):
            self._set((*path[:-1], "expires_at"), found.value, name)
        else:
            self._set(path, found.value, found.name)

    def _login(self, path: SettingPath, found: VariableValue) -> None:
        """A JSON body, each text in it a Reference: none of them can be printed, and a file is read again."""
        try:
            body = value_of(found.value)
            for place, text in list(leaves(body)):
                if isinstance(text, str) and found.file is None:
                    body = with_value(body, place, Reference.to_variable(f"{PREFIX}{found.name}", text))
                elif isinstance(text, str) and found.file is not None:
                    body = with_value(body, place, Reference.to_file(found.file, partial(_text_at, place=place)))
        except ValueError as error:
            self._problem(path, str(error), found.name)
        else:
            self._set(path, body, found.name)

    def _upstream(self, upstream: str, name: str) -> None:
        self._set(("upstreams", upstream, "base_url"), self._values[name], name)
        self._network(("upstreams", upstream))

    def _network(self, block: SettingPath) -> None:
        if "CA_FILE" in self._values:
            self._set((*block, "network", "ca_file"), self._values["CA_FILE"], "CA_FILE")
        if "PROXY" in self._values:
            self._proxy((*block, "network"))

    def _proxy(self, network: SettingPath) -> None:
        """The proxy, and apart from it its user and password, which nothing may print."""
        try:
            proxy = parsed_proxy(self._values["PROXY"])
        except ValueError as error:
            self._problem((*network, "proxy"), str(error), "PROXY")
            return
        self._set((*network, "proxy"), proxy.url, "PROXY")
        if proxy.auth is not None:
            auth = Reference.to_variable(f"{PREFIX}PROXY", proxy.auth.reveal())
            self._set((*network, "proxy_auth"), auth, "PROXY")

    def _set(self, path: SettingPath, value: Any, name: str) -> None:
        self.document.put(path, value, f"{SOURCE} {PREFIX}{name}")

    def _problem(self, path: SettingPath, text: str, name: str = "") -> None:
        self.document.problems.append(ConfigProblem(path, text, _origin(name) if name else ValueOrigin(SOURCE)))


def _origin(name: str) -> ValueOrigin:
    return ValueOrigin(f"{SOURCE} {PREFIX}{name}")


def _listed(text: str) -> list[str]:
    return [part for part in _SEPARATORS.split(text) if part]


def _text_at(whole: str, place: SettingPath) -> str:
    """The text at `place` of a JSON file that may have changed; raises UnresolvedReference where it is gone."""
    try:
        text = lookup(value_of(whole), place)
    except ValueError as error:
        raise UnresolvedReference(f"the login's JSON {error}") from None
    if not isinstance(text, str):
        raise UnresolvedReference("the login's JSON has lost a text that it had")
    return text


PLACE = ("credentials", "*", "variable")
_NAME = re.compile(r"[A-Z_][A-Z0-9_]*\Z")
"""As most are called. What looks otherwise may be the token itself, by mistake, and is not repeated."""


def put_variables(document: ConfigDocument, environment: Mapping[str, str]) -> None:
    """Put the value behind each variable's name that a credential of type `env` gives into `document`."""
    for path, name in list(matches(document.tree, PLACE)):
        if lookup(document.tree, (*path[:-1], "type")) != "env" or not isinstance(name, str):
            continue
        if isinstance(name, Reference):  # its value is nobody's to read
            document.add_problem(path, "expects a variable's name alone, without ${…}")
        elif environment.get(name):
            document.tree = with_value(document.tree, path, Reference.to_variable(name, environment[name]))
        else:
            shown = f" {name}" if _NAME.match(name) else ""
            document.add_problem(path, f"the environment variable{shown} is not set, or is empty")
