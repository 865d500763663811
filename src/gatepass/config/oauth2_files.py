"""The files and keys of an `oauth2` credential, tried at load: a start that cannot work says so at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from gatepass.config.credential.extra import checked_extra
from gatepass.config.credential.oauth2 import method_of
from gatepass.config.problem import Path
from gatepass.config.references import UnresolvedReference, read_file
from gatepass.config.signing_key import (
    EXTRA,
    LIBRARY,
    SigningKey,
    check_belongs,
    check_secret,
    signing_key,
    thumbprint,
)
from gatepass.config.tree import matches

UNWRITABLE = "stands in a directory that gatepass cannot write to: each new refresh token replaces the file"
NO_DIRECTORY = "stands in a directory that does not exist"


def unusable_oauth2_files(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each key, certificate and kept token with which no token could be had, and why.

    What is of a wrong type or in the wrong place is left to the model.
    """
    for path, block in matches(tree, ("credentials", "*")):
        if isinstance(block, Mapping) and block.get("type") == "oauth2":
            yield from (((*path, setting), text) for setting, text in _faults(block))


def _faults(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    method = method_of(block.get("client_auth"))
    if method == "private_key_jwt":
        missing = list(_tried("client_auth", checked_extra, LIBRARY, EXTRA, method))
        yield from missing or _key_faults(block)
    if method == "secret_jwt" and isinstance(secret := block.get("client_secret"), str):
        yield from _tried("client_secret", check_secret, secret)
    if isinstance(file := block.get("refresh_token_file"), str):
        yield from _tried("refresh_token_file", _check_kept, file)


def _key_faults(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    setting = "private_key_file" if block.get("private_key") is None else "private_key"
    key: SigningKey | None = None
    try:
        if (pem := _text(block, setting)) is not None:
            key = signing_key(pem)
    except ValueError as error:
        yield setting, str(error)
    if key is not None and isinstance(wanted := block.get("algorithm"), str | None):
        yield from _tried("algorithm", key.algorithm, wanted)
    yield from _tried("certificate_file", _check_certificate, block, key)


def _text(block: Mapping[str, Any], setting: str) -> str | None:
    """What stands at `setting`, or in its file; raises ValueError where that cannot be read."""
    value = block.get(setting)
    if not isinstance(value, str):
        return None
    return _read(value) if setting.endswith("_file") else value


def _read(file: str) -> str:
    try:
        return read_file(file)
    except UnresolvedReference as error:
        raise ValueError(str(error).removeprefix(f"the file {file} ")) from None


def _check_certificate(block: Mapping[str, Any], key: SigningKey | None) -> None:
    if (pem := _text(block, "certificate_file")) is not None:
        thumbprint(pem)
        if key is not None:
            check_belongs(pem, key)


def _check_kept(file: str) -> None:
    place = FilePath(os.path.realpath(file))
    if not place.parent.is_dir():
        raise ValueError(NO_DIRECTORY)
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise ValueError(UNWRITABLE)
    if place.exists():
        _read(file)


def _tried(setting: str, check: Callable[..., object], *arguments: Any) -> Iterator[tuple[str, str]]:
    try:
        check(*arguments)
    except ValueError as error:
        yield setting, str(error)
