"""Read a configuration from GATEPASS_ variables: upstreams by operation, a credential, keys and a proxy.

`config.load` reads the variables that override a file too: the address, the control socket and the limits.

References in values are not resolved. An empty variable is unset. A secret may be in a file that `…_FILE` names;
gatepass reads that file again when it changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from gatepass.config.block import checked_url, split_query
from gatepass.config.document import ConfigDocument, ConfigProblem, SettingPath, ValueOrigin, leaves, lookup, with_value
from gatepass.config.model import Limits
from gatepass.config.references import (
    PREFIX,
    SECRET_VARIABLES,
    VARIABLES_BY_TYPE,
    Reference,
    UnresolvedReference,
    own_variables,
)
from gatepass.config.wording import did_you_mean, misspelt
from gatepass.errors import retired


def parsed_proxy(text: str) -> tuple[str, str | None]:
    """Return the URL and the `user:password` of a proxy; raise ValueError, which quotes neither."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")  # curl accepts a proxy without a scheme
    except ValueError:  # its message may quote the password
        raise ValueError("is not a URL: its host or port is malformed") from None
    user, _, host = parts.netloc.rpartition("@")
    rest = parts._replace(netloc=host).geturl()
    if "@" in rest:
        raise ValueError("holds an @ after its host: in a password write / as %2F, ? as %3F and # as %23")
    return checked_url(rest), unquote(user) if user else None  # escaped (RFC 3986, section 3.2.1)


SHARED = (
    *("UPSTREAM_URL", "EMBEDDINGS_URL", "RERANK_URL", "TOKEN_TYPE", "KEYS", "KEY_HASHES", "PROFILE"),
    *("CA_FILE", "PROXY", "NO_PROXY", "ALLOW_PLAIN_HTTP", "HOST", "PORT", "UI", "CONTROL_SOCKET"),
)
REQUIRED = frozenset(("TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "TOKEN"))
TYPE_BY_VARIABLE = {"TOKEN": "static", "TOKEN_JSON": "http_json", "CLIENT_ID": "oauth2"}
"""Variables of only one type of credential, from which gatepass derives the type."""

TOKEN_VARIABLES = tuple(dict.fromkeys(name for names in VARIABLES_BY_TYPE.values() for name in names))
LIMIT_VARIABLES: Mapping[str, SettingPath] = {
    f"LIMITS_{name.upper()}": ("limits", name) for name in Limits.model_fields
}
"""The variable of each setting under `limits`. It overrides the file."""
NAMES = frozenset((*SHARED, *TOKEN_VARIABLES, *LIMIT_VARIABLES, *(f"{name}_FILE" for name in SECRET_VARIABLES)))
"""Every variable of a configuration without a file, without the prefix. GATEPASS_CONFIG is not among them."""
CLIENT_KEY_VARIABLE = "KEY"
"""The API key that the command of `gatepass show --curl` sends; users may export it for all commands."""

SOURCE = "environment"
CHAT, CREDENTIAL = "chat", "token"
"""The names of the blocks, which a file would choose itself."""
OPERATION_URLS: Mapping[str, str] = {"embeddings": "EMBEDDINGS_URL", "rerank": "RERANK_URL"}
"""The variable of an operation's own upstream, which has the operation's name."""
NO_CLIENTS_KEY = "is used only by the command of `gatepass show --curl`: set the clients' keys with GATEPASS_KEYS"
OF_HASH = ("name", "role", "profile", "expires", "operations")
NOT_OF_HASH = (
    "expects HASH/name=NAME/role=ROLE/profile=PROFILE/expires=TIME/operations=chat+files; everything after HASH is"
    " optional"
)
NO_KEY = "is the profile of clients' keys, but there are no keys"


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


class VariableValue(msgspec.Struct, frozen=True):
    """The value of a variable, and the variable's name. A secret is a Reference; `fault` is why it cannot be read."""

    name: str
    value: str
    file: str | None = None
    fault: str | None = None


def variable_value(values: Mapping[str, str], name: str) -> VariableValue | None:
    """Return the value of the variable `name`, or of the file that `…_FILE` names."""
    if name in SECRET_VARIABLES and (file := values.get(f"{name}_FILE")):
        try:
            return VariableValue(f"{name}_FILE", Reference.to_file(file), file)
        except UnresolvedReference as error:
            return VariableValue(f"{name}_FILE", "", file, str(error))
    value = values.get(name)
    if value is None:
        return None
    return VariableValue(name, Reference.to_variable(f"{PREFIX}{name}", value) if name in SECRET_VARIABLES else value)


class _Reading:
    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.document = ConfigDocument(SOURCE)

    def reject_unknown(self) -> None:
        for name in self._values:
            if name not in NAMES and name not in ("CONFIG", CLIENT_KEY_VARIABLE):
                near = misspelt(name, NAMES)  # without the prefix, which would make all names similar
                hint = f"did you mean {PREFIX}{near}?" if near else "a setting without a variable requires a file"
                said = retired(f"{PREFIX}{name}")
                self._problem((), f"is gone. {said}" if said else f"is not a variable of gatepass; {hint}", name)
        for name in SECRET_VARIABLES:
            if name in self._values and f"{name}_FILE" in self._values:
                self._problem((), f"conflicts with {PREFIX}{name}: keep one of them", f"{name}_FILE")

    def upstreams(self) -> None:
        for upstream, name in ((CHAT, "UPSTREAM_URL"), *OPERATION_URLS.items()):
            if name in self._values:
                url, query = split_query(self._values[name])
                self._set(("upstreams", upstream, "base_url"), url, name)
                for parameter, value in query.items():
                    self._set(("upstreams", upstream, "query", parameter), value, name)
                self._plain_http(("upstreams", upstream))
                if upstream != CHAT:
                    self._set(("operations", upstream), {"upstream": upstream}, name)
        self._set(("models",), {"*": {"upstream": CHAT}}, "UPSTREAM_URL")

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
        self._plain_http(block)
        for upstream in self.document.tree["upstreams"]:
            self._set(("upstreams", upstream, "credential"), CREDENTIAL, origin)

    def keys(self) -> None:
        """Add an entry for each key and hash. The keys of a file share one entry, because their number may change."""
        if (keys := variable_value(self._values, "KEYS")) is not None:
            for entry in self._keys(keys):
                self._entry(entry, keys.name)
        for number, text in enumerate(_listed(self._values.get("KEY_HASHES", "")), 1):
            key_hash, *settings = text.split("/")
            pairs = [setting.partition("=") for setting in settings]
            found: dict[str, Any] = {name: value for name, _, value in pairs if name in OF_HASH}
            if "operations" in found:  # a blank separates hashes
                found["operations"] = found["operations"].split("+")
            if len(found) != len(settings):  # also if a setting is given twice
                self._problem((), NOT_OF_HASH, "KEY_HASHES")
            self._entry({"name": f"hash-{number}", "hash": key_hash, **found}, "KEY_HASHES")
        if "PROFILE" in self._values and not lookup(self.document.tree, ("access", "keys")):
            self._problem((), f"{NO_KEY}: set {PREFIX}KEYS or {PREFIX}KEY_HASHES, or remove it", "PROFILE")

    def _entry(self, entry: dict[str, Any], name: str) -> None:
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
        if stated := self._values.get("TOKEN_TYPE"):
            if stated in VARIABLES_BY_TYPE:
                return stated, "TOKEN_TYPE"
            hint = did_you_mean(stated, list(VARIABLES_BY_TYPE))
            self._problem((), f"{stated!r} is not known here{hint}", "TOKEN_TYPE")
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
            if name in REQUIRED:
                also = f" (or {PREFIX}{name}_FILE)" if name in SECRET_VARIABLES else ""
                self._problem(path, f"is missing: set {PREFIX}{name}{also}")
        elif found.fault is not None:
            self._problem(path, found.fault, found.name)
        elif name == "TOKEN_JSON":
            # each text becomes a Reference, so that it is hidden
            try:
                body = parsed_json(found.value)
                for member, text in list(leaves(body)):
                    if isinstance(text, str):
                        body = with_value(body, member, Reference.to_variable(f"{PREFIX}{found.name}", text))
            except ValueError as error:
                self._problem(path, str(error), found.name)
            else:
                self._set(path, body, found.name)
        else:
            self._set(path, found.value, found.name)

    def _plain_http(self, block: SettingPath) -> None:
        if (allowed := self._values.get("ALLOW_PLAIN_HTTP")) is not None:
            value = {"true": True, "false": False}.get(allowed.lower(), allowed)  # the validation quotes another text
            self._set((*block, "allow_plain_http"), value, "ALLOW_PLAIN_HTTP")

    def _set(self, path: SettingPath, value: Any, name: str) -> None:
        self.document.put(path, value, f"{SOURCE} {PREFIX}{name}")

    def _problem(self, path: SettingPath, text: str, name: str = "") -> None:
        self.document.problems.append(ConfigProblem(path, text, _origin(name) if name else ValueOrigin(SOURCE)))


def put_proxy(document: ConfigDocument, text: str, origin: str) -> None:
    """Set the top-level proxy. Its user and password become a hidden reference, and replace those of the file."""
    try:
        url, user = ("none", None) if text == "none" else parsed_proxy(text)
    except ValueError as error:
        document.problems.append(ConfigProblem(("network", "proxy"), str(error), ValueOrigin(origin)))
        return
    auth = None if user is None else Reference.to_variable(f"{PREFIX}PROXY", user)
    for name, value in (("proxy", url), ("proxy_auth", auth)):
        document.put(("network", name), value, origin)


def _origin(name: str) -> ValueOrigin:
    return ValueOrigin(f"{SOURCE} {PREFIX}{name}")


def _listed(text: str) -> list[str]:
    return re.findall(r"[^\s,]+", text)


def parsed_json(text: str) -> Any:
    """Parse the JSON of a login; raise ValueError with a reason that does not quote `text`."""
    try:
        # json.loads accepts NaN and Infinity, which RFC 8259 (section 6) forbids, and `int` rejects
        return json.loads(text, parse_constant=int)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON: holds NaN, Infinity or a number that is too long, or is too deep") from None
