"""The secrets of a credential: read at the moment of use, and known by value to be masked.

What makes a credential the same as another, and a refresh token the same credential's after a restart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gatepass.config.credential.base import Credential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import Reference
from gatepass.tokens.failure import FetchFailure
from gatepass.types import Secret

_PUBLIC = frozenset(
    {
        *("granttype", "responsetype", "clientid", "scope", "audience", "resource", "tokentype"),
        *("user", "username", "account", "tenant", "tenantid", "appid", "realm", "language"),
        *("name", "domain", "project", "region", "service", "method", "methods", "type", "kind", "version", "locale"),
        *("accept", "acceptlanguage", "acceptencoding", "contenttype", "useragent", "xrequestedwith"),
    }
)
"""Members that hold no secret. Their values are ordinary words (`password`, `application/json`)
that must not be masked wherever they occur."""
_SECRETIVE = re.compile(r"secret|passw|pwd|token|key|credential|assertion|auth|sign|cookie|pin$", re.IGNORECASE)
_WORD = re.compile(
    r"password|(authorization|device)_code|client_credentials|refresh_token|urn:ietf:[a-z0-9:_-]+"
    r"|https?://[^/?#@\s]+[^?#@\s]*|(application|text|multipart)/[a-z0-9.+-]+",
    re.IGNORECASE,
)
"""Values that are public in whatever member they stand: grants, addresses, media types."""
LONG_CHARS = 8
"""A text of a body that is shorter is masked only where its name, or a reference, makes it a secret: an ordinary
word would be masked wherever it occurs."""
_SCHEMES = frozenset({"authorization", "proxy-authorization"})


def revealed(secret: Secret, setting: str) -> str:
    """The value now; raises FetchFailure where its file cannot be read or is empty.

    Not definite: a file may be away for the moment in which it is replaced.
    """
    try:
        value = secret.reveal()
    except ValueError as error:
        raise FetchFailure(f"{setting}: {error}", quick=False) from None
    if not value:
        raise FetchFailure(f"{setting} is empty", quick=False)
    return value


def secret_values(secrets: Iterable[Secret]) -> tuple[str | None, ...]:
    """The values now, None for what cannot be read."""
    return tuple(_value(secret) for secret in secrets)


def _value(secret: Secret) -> str | None:
    try:
        return secret.reveal()
    except ValueError:
        return None


def secret_retry_hint(secrets: Iterable[Secret]) -> str:
    """When what is signed in with may be another, behind the words "tried again in 30 s"; "" where that is nothing."""
    found = [secret.changes for secret in secrets]
    if any(found):
        return " or when the file of its secret changes"
    return "; another secret wants a restart, for it stands in no file" if found else ""


def secret_fields(fields: Mapping[str, Secret]) -> Iterator[Secret]:
    """The values of `fields` (headers, query, form) that are to be masked."""
    for name, secret in fields.items():
        if not _is_public(name):
            yield secret
        if name.lower() in _SCHEMES:
            yield secret.derived(lambda text: text.rpartition(" ")[2])


def secret_leaves(document: Any, name: str = "") -> Iterator[Secret]:
    """The strings of a JSON body that are to be masked: references, what is called a secret, and whatever is
    long enough to be one and not plainly public."""
    if isinstance(document, Mapping):
        for key, child in document.items():
            yield from secret_leaves(child, str(key))
    elif isinstance(document, list | tuple):
        for child in document:
            yield from secret_leaves(child, name)
    elif isinstance(document, Reference):
        if not _is_public(name):
            yield Secret(document.read, changes=document.changes)
    elif isinstance(document, str) and not _is_public(name):
        is_long = len(document) >= LONG_CHARS and not _WORD.fullmatch(document)
        yield from [Secret(document)] if is_long or _SECRETIVE.search(name) else []


def _is_public(name: str) -> bool:
    return re.sub(r"[-_ ]", "", name).lower() in _PUBLIC


_WRITTEN_FILES = frozenset({"refresh_token_file"})
"""Files that a source writes itself: what is in them is no part of the recipe."""
_FILES = frozenset({"client_cert", "client_key"})


def credential_fingerprint(settings: Credential) -> str:
    """A digest of all that `settings` say as it stands now, files and references read again.

    Raises ValueError or OSError where a secret or a file cannot be read.
    """
    told = json.dumps(_json_value(settings), sort_keys=True, separators=(",", ":"))
    return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _json_value(value: Any) -> Any:
    """`value` as JSON: what it is now, where it lives elsewhere."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Reference):
        return value.read()
    if isinstance(value, BaseModel):
        members = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _json_value(member) for name, member in members.items()} | {"": _files(members)}
    if isinstance(value, Mapping):
        return {str(key): _json_value(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(member) for member in value]
    return value


def _files(members: Mapping[str, Any]) -> Mapping[str, str]:
    """Digests of the files that a block names: the same path may hold another key on another machine."""
    files = (name for name in members if name not in _WRITTEN_FILES and (name.endswith("_file") or name in _FILES))
    named = {name: path for name in files if isinstance(path := members[name], str)}
    return {name: sha256(Path(path).expanduser().read_bytes()).hexdigest() for name, path in named.items()}


def refresh_token_fingerprint(settings: Oauth2Credential) -> str:
    """Whose refresh tokens these are.

    Where a new login is a fetch like any other, the whole recipe tells it: a field of any name may choose the
    account that is signed in to (`extra.tenant`). Where a person gave the first token, that one is the login, and
    neither wishes nor proof belong to it: a change of those must not bring it back, which has long ended.
    Raises FetchFailure where a secret cannot be read.
    """
    if settings.grant_type == "refresh_token":
        first = settings.refresh_token
        return _digest(account_fingerprint(settings), None if first is None else revealed(first, "refresh_token"))
    try:
        return credential_fingerprint(settings)
    except (ValueError, OSError) as error:
        raise FetchFailure(f"a secret cannot be read: {error}", quick=False) from None


def account_fingerprint(settings: Oauth2Credential) -> str:
    """By which client, and of which issuer, a refresh token may be used."""
    return _digest(settings.endpoint, settings.client_id)


def _digest(*parts: str | None) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()
