"""What makes a credential the same as another, and a refresh token the same credential's after a restart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gatepass.config.credential.base import Credential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.references import Reference
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.secrets import revealed
from gatepass.types import Secret

_PLACES = frozenset({"refresh_token_file"})
"""Files that a source writes itself: what is in them is no part of the recipe."""
_FILES = frozenset({"client_cert", "client_key"})


def recipe(settings: Credential) -> str:
    """A digest of all that `settings` say as it stands now, files and references read again.

    Raises ValueError or OSError where a secret or a file cannot be read.
    """
    told = json.dumps(_told(settings), sort_keys=True, separators=(",", ":"))
    return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _told(value: Any) -> Any:
    """`value` as JSON: what it is now, where it lives elsewhere."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Reference):
        return value.read()
    if isinstance(value, BaseModel):
        members = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _told(member) for name, member in members.items()} | {"": _files(members)}
    if isinstance(value, Mapping):
        return {str(key): _told(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_told(member) for member in value]
    return value


def _files(members: Mapping[str, Any]) -> Mapping[str, str]:
    """Digests of the files that a block names: the same path may hold another key on another machine."""
    files = (name for name in members if name not in _PLACES and (name.endswith("_file") or name in _FILES))
    named = {name: path for name in files if isinstance(path := members[name], str)}
    return {name: sha256(Path(path).expanduser().read_bytes()).hexdigest() for name, path in named.items()}


def recipe_of(settings: Oauth2Credential) -> str:
    """Whose refresh tokens these are.

    Where a new login is a fetch like any other, the whole recipe tells it: a field of any name may choose the
    account that is signed in to (`extra.tenant`). Where a person gave the first token, that one is the login, and
    neither wishes nor proof belong to it: a change of those must not bring it back, which has long ended.
    Raises FetchFailure where a secret cannot be read.
    """
    if settings.grant_type == "refresh_token":
        first = settings.refresh_token
        return _digest(account_of(settings), None if first is None else revealed(first, "refresh_token"))
    try:
        return recipe(settings)
    except (ValueError, OSError) as error:
        raise FetchFailure(f"a secret cannot be read: {error}", quick=False) from None


def account_of(settings: Oauth2Credential) -> str:
    """By which client, and of which issuer, a refresh token may be used."""
    return _digest(settings.endpoint, settings.client_id)


def _digest(*parts: str | None) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()
