"""What makes a credential the same as another: every setting, and the values behind its secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gatepass.call import Secret
from gatepass.config.credential.base import Credential
from gatepass.config.references import Reference

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
    named = {name: path for name, path in members.items() if _is_file(name) and isinstance(path, str)}
    return {name: sha256(Path(path).expanduser().read_bytes()).hexdigest() for name, path in named.items()}


def _is_file(name: str) -> bool:
    return name not in _PLACES and (name.endswith("_file") or name in _FILES)
