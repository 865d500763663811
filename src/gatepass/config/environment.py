"""Read a configuration from GATEPASS_ variables: one upstream, one for embeddings, one credential, keys and a proxy.

References in values are not resolved. An empty variable is unset. A secret may be in a file that `…_FILE` names;
gatepass reads that file again when it changes.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, NoReturn, TypeVar
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
from gatepass.config.model import Config
from gatepass.config.references import PREFIX, VARIABLES_BY_TYPE, Reference, UnresolvedReference, own_variables
from gatepass.config.upstream import UpstreamConfig
from gatepass.config.wording import ALIASES, all_settings, did_you_mean, named
from gatepass.types import Secret

Proxied = TypeVar("Proxied", UpstreamConfig, Credential)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's URL and its `user:password`, if it has one."""

    url: str
    auth: Secret | None = None


def with_environment_proxies(config: Config, environment: Mapping[str, str]) -> Config:
    """Return `config` with the proxies of the environment where `network.from_env` is set; raise ValueError."""
    upstreams = {name: _proxied(hop, hop.base_url, environment) for name, hop in config.upstreams.items()}
    credentials = {name: _proxied(hop, _issuer_url(hop), environment) for name, hop in config.credentials.items()}
    return config.model_copy(update={"upstreams": upstreams, "credentials": credentials})


def environment_proxy(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for `url`: HTTPS_PROXY or HTTP_PROXY, else ALL_PROXY, unless NO_PROXY names the host.

    The lower-case variable wins, as in curl and Python. Raises ValueError.
    """
    parts = urlsplit(url)
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # CPython has it, typeshed does not
    if (hosts := _variable("no_proxy", environment)) and bypass(parts.netloc, {"no": hosts}):
        return None
    found = _variable(f"{parts.scheme}_proxy", environment) or _variable("all_proxy", environment)
    return parsed_proxy(found) if found else None


def parsed_proxy(text: str) -> Proxy:
    """Parse `http://user:password@host:port`, with or without a scheme. Raise ValueError, which quotes none of it.

    The user name and password are percent-decoded.
    """
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")  # curl accepts a proxy without a scheme
    except ValueError:  # its message may quote the password
        raise ValueError("is not a URL: its host or port is malformed") from None
    user, _, host = parts.netloc.rpartition("@")
    rest = parts._replace(netloc=host).geturl()
    if "@" in rest:
        raise ValueError("holds an @ after its host: in a password write / as %2F, ? as %3F and # as %23")
    return Proxy(checked_url(rest), Secret(unquote(user)) if user else None)  # escaped (RFC 3986, section 3.2.1)


def _proxied(hop: Proxied, url: str | None, environment: Mapping[str, str]) -> Proxied:
    proxy = environment_proxy(url, environment) if hop.network.from_env and url is not None else None
    if proxy is None:
        return hop
    network = hop.network.model_copy(update={"proxy": proxy.url, "proxy_auth": proxy.auth})
    return hop.model_copy(update={"network": network})


def _issuer_url(credential: Credential) -> str | None:
    """Return the URL of the token endpoint or issuer; None for a credential without one."""
    match credential:
        case Oauth2Credential():
            return credential.endpoint
        case HttpJsonCredential():
            return credential.url
        case EntraCredential():
            # a proxy would pass on the identity of its own machine
            return None if credential.managed_identity else credential.authority_host
        case GoogleCredential():
            return "https://oauth2.googleapis.com/token"  # google-auth's default
        case AwsBedrockCredential():
            return credential.sts
        case _:
            return None


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


SHARED = (
    "UPSTREAM_URL",
    "EMBEDDINGS_URL",
    "TOKEN_TYPE",
    "KEYS",
    "KEY_HASHES",
    "PROFILE",
    "CA_FILE",
    "PROXY",
    "ALLOW_PLAIN_HTTP",
    "HOST",
    "PORT",
    "CONTROL_SOCKET",
)
REQUIRED = frozenset(("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "TOKEN"))
SECRETS = ("CLIENT_SECRET", "TOKEN", "TOKEN_JSON", "KEYS")
"""Variables that also exist as …_FILE."""
TYPE_BY_VARIABLE = {"TOKEN": "static", "TOKEN_JSON": "http_json", "CLIENT_ID": "oauth2"}
"""Variables of only one type of credential, from which gatepass derives the type."""

TOKEN_VARIABLES = tuple(dict.fromkeys(name for names in VARIABLES_BY_TYPE.values() for name in names))
NAMES = frozenset((*SHARED, *TOKEN_VARIABLES, *(f"{name}_FILE" for name in SECRETS)))
"""Every variable of a configuration without a file, without the prefix. GATEPASS_CONFIG is not among them."""
CLIENT_KEY_VARIABLE = "KEY"
"""The API key that `gatepass doctor --url` sends to a running gatepass; users may export it for all commands."""
_MOMENT = re.compile(r"(^exp|expires?(at|on|time|date)|expir(ation|y)(at|on|time|date)?|until)$")

SOURCE = "environment"
CHAT, EMBEDDINGS, CREDENTIAL = "chat", "embeddings", "token"
"""The names of the blocks, which a file would choose itself."""
_SEPARATORS = re.compile(r"[\s,]+")
NO_CLIENTS_KEY = "is used only by `gatepass doctor --url`: set the clients' keys with GATEPASS_KEYS"
OF_HASH = ("name", "role", "profile", "expires")
NOT_OF_HASH = "expects HASH/name=NAME/role=ROLE/profile=PROFILE/expires=TIME; everything after HASH is optional"
NO_KEY = "is the profile of clients' keys, but there are no keys"
NEAR = 0.7
WANTS_A_FILE = "requires a file, which --config or GATEPASS_CONFIG names"
OF_BASE_URL = ("BASE_URL", *(word.upper() for word, names in ALIASES.items() if "base_url" in names))
VARIABLE_OF = {
    **dict.fromkeys(("UPSTREAM", *OF_BASE_URL), "UPSTREAM_URL"),
    "HASH": "KEY_HASHES",
    "SERVER_HOST": "HOST",
    "SERVER_PORT": "PORT",
    "ACCESS_KEYS": "KEYS",
}
"""Names of settings, and of other products, for which gatepass has a variable of another name."""


def read_environment(environment: Mapping[str, str]) -> ConfigDocument:
    """Return the configuration of the GATEPASS_ variables, with every problem."""
    reading = _Reading(own_variables(environment))
    reading.reject_unknown()
    reading.upstreams()
    reading.credential()
    reading.keys()
    if environment.get(PREFIX + CLIENT_KEY_VARIABLE):
        reading.document.warnings.append(f"{PREFIX}{CLIENT_KEY_VARIABLE} {NO_CLIENTS_KEY}")
    return reading.document


def unknown_variables(values: Mapping[str, str]) -> Iterator[ConfigProblem]:
    """Yield a problem for each GATEPASS_ variable that does not exist, with the nearest variable or setting."""
    for name in values:
        if name not in NAMES and name not in ("CONFIG", CLIENT_KEY_VARIABLE):
            yield ConfigProblem((), _unknown_variable(name), _origin(name))


def _unknown_variable(name: str) -> str:
    known = sorted((*NAMES, "CONFIG"))
    exact = [setting for setting in all_settings() if len(setting) > 1 and "_".join(setting) == name.lower()]
    # compared without the prefix, which would make all names similar
    near = [] if exact else get_close_matches(name, known, n=1, cutoff=NEAR)
    if near := [VARIABLE_OF[name]] if name in VARIABLE_OF else near:
        return f"is not a variable of gatepass; did you mean {PREFIX}{near[0]}?"
    for setting in exact or all_settings():
        if exact or setting[-1] == name.lower():
            return f"is not a variable of gatepass: {dotted(named(setting))} {WANTS_A_FILE}"
    return f"is not a variable of gatepass; there is {', '.join(PREFIX + it for it in known)}"


def is_moment(path: str) -> bool:
    """Whether the last name of a dotted path is a point in time (`data.expireAt`), not a lifetime (`expires_in`).

    These are the absolute names that issuers use: `exp`, and names that end in expires_on, expires_at, expiration,
    expire_time, expiry, until and similar. Case, hyphens and underscores do not matter.
    """
    last = path.rpartition(".")[2]
    return bool(_MOMENT.search(re.sub(r"[_-]", "", last).lower()))


@dataclass(frozen=True, slots=True)
class VariableValue:
    """The value of a variable, and the variable's name. A secret is a Reference; `fault` is why it cannot be read."""

    name: str
    value: str
    file: str | None = None
    fault: str | None = None


def variable_value(values: Mapping[str, str], name: str) -> VariableValue | None:
    """Return the value of the variable `name`, or of the file that `…_FILE` names."""
    if name in SECRETS and (file := values.get(f"{name}_FILE")):
        try:
            return VariableValue(f"{name}_FILE", Reference.to_file(file), file)
        except UnresolvedReference as error:
            return VariableValue(f"{name}_FILE", "", file, str(error))
    value = values.get(name)
    if value is None:
        return None
    return VariableValue(name, Reference.to_variable(f"{PREFIX}{name}", value) if name in SECRETS else value)


class _Reading:
    """Builds the tree of a configuration from variables."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.document = ConfigDocument(SOURCE)

    def reject_unknown(self) -> None:
        """Report unknown variables, and secrets that are set both as a value and as a file."""
        self.document.problems += unknown_variables(self._values)
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
        kind, origin = self._type()
        if not kind:
            return
        block: SettingPath = ("credentials", CREDENTIAL)
        self._set((*block, "type"), kind, origin)
        for name, path in VARIABLES_BY_TYPE[kind].items():
            self._member(name, (*block, *path))
        for name in TOKEN_VARIABLES:
            if name not in VARIABLES_BY_TYPE[kind] and (foreign := variable_value(self._values, name)):
                self._problem((), f"has no effect on a credential of type {kind}: remove it", foreign.name)
        self._network(block)
        for upstream in self.document.tree["upstreams"]:
            self._set(("upstreams", upstream, "credential"), CREDENTIAL, origin)

    def keys(self) -> None:
        """Add an entry for each key and hash. Keys of a file share one entry, because their number may change."""
        keys = variable_value(self._values, "KEYS")
        entries = self._keys(keys) if keys else []
        for entry in entries:
            self._entry(entry, keys.name if keys else "")
        for number, text in enumerate(_listed(self._values.get("KEY_HASHES", "")), 1):
            key_hash, *settings = text.split("/")
            pairs = [setting.partition("=") for setting in settings]
            found = {name: value for name, _, value in pairs if name in OF_HASH}
            if len(found) != len(settings):  # also if a setting is given twice
                self._problem((), NOT_OF_HASH, "KEY_HASHES")
            self._entry({"name": f"hash-{number}", "hash": key_hash, **found}, "KEY_HASHES")
        if "PROFILE" in self._values and not lookup(self.document.tree, ("access", "keys")):
            self._problem((), f"{NO_KEY}: set {PREFIX}KEYS or {PREFIX}KEY_HASHES, or remove it", "PROFILE")

    def _entry(self, entry: dict[str, Any], name: str) -> None:
        """Add `entry` to access.keys, with the profile of all keys if it has none."""
        entries = lookup(self.document.tree, ("access", "keys")) or []
        self.document.tree = with_value(self.document.tree, ("access", "keys"), [*entries, entry])
        self.document.origins["access", "keys", len(entries)] = _origin(name)
        if "profile" not in entry and (profile := self._values.get("PROFILE")):
            self._set(("access", "keys", len(entries), "profile"), profile, "PROFILE")

    def _keys(self, keys: VariableValue) -> list[dict[str, Any]]:
        if keys.fault is not None:
            self._problem(("access", "keys", 0), keys.fault, keys.name)
            return [{"name": "keys-file"}]
        if keys.file is not None:
            # A key file separates keys by white space only; the file of this variable may use commas, as the variable.
            return [{"name": "keys-file", "key": Reference.to_file(keys.file, lambda text: text.replace(",", " "))}]
        return [
            {"name": f"key-{number}", "key": Reference.to_variable(f"{PREFIX}KEYS", key)}
            for number, key in enumerate(_listed(keys.value), 1)
        ]

    def _type(self) -> tuple[str, str]:
        """Return the credential's type and the variable that determines it, or empty texts."""
        if stated := self._values.get("TOKEN_TYPE"):
            if stated in VARIABLES_BY_TYPE:
                return stated, "TOKEN_TYPE"
            self._problem(
                (), f"{stated!r} is not known here{did_you_mean(stated, list(VARIABLES_BY_TYPE))}", "TOKEN_TYPE"
            )
            return "", ""
        variables = {
            kind: found.name for name, kind in TYPE_BY_VARIABLE.items() if (found := variable_value(self._values, name))
        }
        if len(variables) == 1:
            return next(iter(variables.items()))
        if variables:
            names = " and ".join(f"{PREFIX}{name}" for name in variables.values())
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
        """Set a JSON body. Each text becomes a Reference, so that it is hidden and a file is read again."""
        try:
            body = parsed_json(found.value)
            for member, text in list(leaves(body)):
                if isinstance(text, str) and found.file is None:
                    body = with_value(body, member, Reference.to_variable(f"{PREFIX}{found.name}", text))
                elif isinstance(text, str) and found.file is not None:
                    body = with_value(body, member, Reference.to_file(found.file, partial(_text_at, path=member)))
        except ValueError as error:
            self._problem(path, str(error), found.name)
        else:
            self._set(path, body, found.name)

    def _upstream(self, upstream: str, name: str) -> None:
        self._set(("upstreams", upstream, "base_url"), self._values[name], name)
        self._network(("upstreams", upstream))

    def _network(self, block: SettingPath) -> None:
        if (allowed := self._values.get("ALLOW_PLAIN_HTTP")) is not None:
            value = {"true": True, "false": False}.get(allowed.lower(), allowed)  # the validation quotes another text
            self._set((*block, "allow_plain_http"), value, "ALLOW_PLAIN_HTTP")
        if "CA_FILE" in self._values:
            self._set((*block, "network", "ca_file"), self._values["CA_FILE"], "CA_FILE")
        if "PROXY" in self._values:
            self._proxy((*block, "network"))

    def _proxy(self, network: SettingPath) -> None:
        """Set the proxy without its user and password, which become a hidden reference."""
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


def _text_at(json_text: str, path: SettingPath) -> str:
    """Return the text at `path` of a JSON file that may have changed; raise UnresolvedReference if it is missing."""
    try:
        text = lookup(parsed_json(json_text), path)
    except ValueError as error:
        raise UnresolvedReference(f"the login's JSON {error}") from None
    if not isinstance(text, str):
        raise UnresolvedReference("a text of the login's JSON is missing since the file changed")
    return text


def _refused(word: str) -> NoReturn:
    raise ValueError(word)  # json.loads accepts NaN and Infinity, which RFC 8259 (section 6) forbids


def parsed_json(text: str) -> Any:
    """Parse the JSON of a login; raise ValueError with a reason that does not quote `text`."""
    try:
        return json.loads(text, parse_constant=_refused)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON: holds NaN, Infinity or a number that is too long, or is too deep") from None


_VARIABLE_SETTING = ("credentials", "*", "variable")
_NAME = re.compile(r"[A-Z_][A-Z0-9_]*\Z")
"""The usual form of a variable's name. Another text may be the token itself, so that no message quotes it."""


def put_variables(document: ConfigDocument, environment: Mapping[str, str]) -> None:
    """Replace the variable's name in each credential of type `env` by a reference to its value."""
    for path, name in list(matches(document.tree, _VARIABLE_SETTING)):
        if lookup(document.tree, (*path[:-1], "type")) != "env" or not isinstance(name, str):
            continue
        if isinstance(name, Reference):  # its value may be a secret
            document.add_problem(path, "expects a variable's name alone, without ${…}")
        elif environment.get(name):
            document.tree = with_value(document.tree, path, Reference.to_variable(name, environment[name]))
        else:
            shown = f" {name}" if _NAME.match(name) else ""
            document.add_problem(path, f"the environment variable{shown} is not set, or is empty")
