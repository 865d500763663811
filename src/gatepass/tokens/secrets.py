"""Read a credential's secrets at the moment of use, list the values to mask, and compute fingerprints.

A fingerprint identifies a credential between processes.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gatepass.config.block import SECRET_NAME
from gatepass.config.credential.base import Credential
from gatepass.config.document import leaves
from gatepass.config.references import Reference, open_regular
from gatepass.json_body import decoded
from gatepass.observability.redaction import Redactor
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.lifetime import claims_of
from gatepass.types import Secret

_PUBLIC = frozenset(
    {
        *("granttype", "responsetype", "clientid", "scope", "audience", "resource", "tokentype"),
        *("requestedtokentype", "subjecttokentype", "clientassertiontype"),
        *("user", "username", "account", "tenant", "tenantid", "appid", "realm", "language"),
        *("name", "domain", "project", "region", "service", "method", "methods", "type", "kind", "version", "locale"),
        *("accept", "acceptlanguage", "acceptencoding", "contenttype", "useragent", "xrequestedwith"),
    }
)
"""Members whose values are ordinary words (`password`, `application/json`) that must not be masked everywhere."""
_WORD = (
    r"(?i)password|(authorization|device)_code|client_credentials|refresh_token|urn:ietf:[a-z0-9:_-]+"
    r"|https?://[^/?#@\s]+[^?#@\s]*|(application|text|multipart)/[a-z0-9.+-]+"
)
"""Values that are public in any member: grants, addresses, media types."""
LONG_CHARS = 8
"""A shorter text of a body is masked only if its name or a reference marks it as a secret."""
_SCHEMES = frozenset({"authorization", "proxy-authorization"})
_PRESENTED_FILES = frozenset({"assertion_file", "subject_file"})
"""Files with a token that is rotated. Its issuer and subject are part of the fingerprint if it is a JWT."""
LARGEST_FILE_BYTES = 16 * 1024 * 1024
"""What is read of a named file. A bundle of all public CAs has 250 KB."""


def revealed(secret: Secret, setting: str) -> str:
    """Return the current value; raise FetchFailure, which is not definite, if its file cannot be read or is empty."""
    try:
        value = secret.reveal()
    except ValueError as error:
        raise FetchFailure(f"{setting}: {error}") from None
    if not value:
        raise FetchFailure(f"{setting} is empty")
    return value


def basic_credentials(user: str, password: str) -> str:
    """Return the Basic credentials (RFC 7617 2) of two texts as they stand."""
    return b64encode(f"{user}:{password}".encode()).decode()


def all_revealed(fields: Mapping[str, Secret], setting: str) -> dict[str, str]:
    """Return the current values of the secrets below `setting`, as `revealed` does."""
    return {name: revealed(secret, f"{setting}.{name}") for name, secret in fields.items()}


def secret_values(secrets: Iterable[Secret]) -> tuple[str | None, ...]:
    """Return the current values, with None for each that cannot be read."""
    values: list[str | None] = []
    for secret in secrets:
        try:
            values.append(secret.reveal())
        except ValueError:
            values.append(None)
    return tuple(values)


def mask_of(secrets: Iterable[Secret]) -> Callable[[str], str]:
    redactor = Redactor()
    for value in secret_values(secrets):
        redactor.learn(value or "")
    return redactor.mask


def secret_retry_hint(secrets: Iterable[Secret]) -> str:
    """Return when another secret can take effect, to follow "next attempt in 30 s"; empty without a secret."""
    found = [*secrets]
    if any(secret.changes for secret in found):
        return " or when the file of its secret changes"
    if any(secret.reference for secret in found):
        return ". A new secret requires a restart, because it is in an environment variable"
    return ". A new secret in the configuration file requires `gatepass reload`" if found else ""


def secret_fields(fields: Mapping[str, Secret]) -> Iterator[Secret]:
    for name, secret in fields.items():
        if not is_public(name):
            yield secret
        if name.lower() in _SCHEMES:  # an error may echo the credentials without their scheme
            yield secret.derived(lambda text: text.rpartition(" ")[2])


def secret_leaves(document: Any) -> Iterator[Secret]:
    """Return the strings of a JSON body to mask: references, members with a secret's name, and texts of LONG_CHARS."""
    for path, leaf in leaves(document):
        name = next((part for part in reversed(path) if isinstance(part, str)), "")  # of the member around a list
        if not isinstance(leaf, str) or is_public(name):
            continue
        if isinstance(leaf, Reference):
            yield Secret(leaf.read, changes=leaf.changes, reference=leaf.template)
        elif (len(leaf) >= LONG_CHARS and not re.fullmatch(_WORD, leaf)) or SECRET_NAME.search(name):
            yield Secret(leaf)


def is_public(name: str) -> bool:
    return re.sub(r"[-_ ]", "", name).lower() in _PUBLIC


def credential_fingerprint(settings: Credential) -> str:
    """Return a digest of `settings`; raise ValueError or OSError. Files and references are read again."""
    value = _json_value(settings)
    # Sorted, because two replicas may write the same settings in another order.
    document = json.dumps(value, sort_keys=True, separators=(",", ":"))
    # A variable may hold bytes that are not UTF-8. Python decodes them as surrogates.
    return sha256(document.encode("utf-8", "surrogatepass")).hexdigest()


def _json_value(value: Any) -> Any:
    """Return `value` as JSON, with secrets and references replaced by their current values."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Reference):
        return value.read()
    if isinstance(value, BaseModel):
        # Without defaults, so that the next version, which has further settings, shares the tokens of this one.
        members = {
            name: getattr(value, name)
            for name, field in type(value).model_fields.items()
            if getattr(value, name) != field.get_default(call_default_factory=True)
        }
        # The same path may contain another key on another machine.
        digests = {}
        for name, path in members.items():
            if isinstance(path, str) and (name.endswith("_file") or name in ("client_cert", "client_key")):
                with open_regular(str(Path(path).expanduser())) as file:
                    content = file.read(LARGEST_FILE_BYTES)
                claims = (claims_of(decoded(content).strip()) if name in _PRESENTED_FILES else None) or {}
                owner = [claims.get(claim) for claim in ("iss", "sub")]
                digests[name] = sha256(content if None in owner else json.dumps(owner).encode()).hexdigest()
        # No setting has an empty name.
        return {name: _json_value(member) for name, member in members.items()} | {"": digests}
    if isinstance(value, Mapping):
        return {str(key): _json_value(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(member) for member in value]
    return value
