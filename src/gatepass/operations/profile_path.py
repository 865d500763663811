"""A client's base URL: the profile in it, `/for/NAME/v1/…`, and what a 404 tells of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from gatepass.errors import UnknownPath
from gatepass.operations.table import PREFIXES
from gatepass.types import Headers, header

PREFIX = "/for/"
SHOWN_CHARS = 64
_FOR = re.compile(r"/+for/+(?P<name>[^/]*)/*(?P<rest>.*)", re.DOTALL)


def split_profile(path: str, base_path: str = "") -> tuple[str | None, str]:
    """The profile's name in `path` and the path without it: `/llm/for/dify/v1/models` is `dify` and `/llm/v1/models`.

    None and `path` itself where there is none. Several slashes are as good as one: base URLs that end in one make them.
    """
    if PREFIX not in path:
        return None, path
    single = "/" + path.lstrip("/")
    found = _FOR.match(single, len(base_path)) if single.startswith(base_path) else None
    if found is None:
        return None, path
    return found["name"], f"{base_path}/{found['rest']}"


T = TypeVar("T")


def chosen(profiles: Mapping[str, T], in_path: str | None, of_key: str | None) -> T:
    """The profile of a request: the path's, else the key's, else `plain`. Raises UnknownPath for a path's name that
    is none; a key's is checked with the configuration."""
    name = in_path if in_path is not None else of_key or "plain"
    if name not in profiles:
        known = ", ".join(sorted(profiles))
        raise UnknownPath(
            f"There is no profile {name[:SHOWN_CHARS]!r}. A base URL may end in {PREFIX}NAME/v1: {known}."
        )
    return profiles[name]


_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")


def base_url(headers: Headers, base_path: str = "", profile: str | None = None) -> str:
    """`http://HOST/v1` with the host that the client itself wrote, or its path alone where that is none.

    For words to that client only: a proxy on the way, which may speak TLS, tells by `x-forwarded-proto`, and so may
    anybody.
    """
    path = base_path + (f"{PREFIX}{profile}" if profile else "") + PREFIXES[0]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return path
    scheme = "https" if header(headers, b"x-forwarded-proto") == b"https" else "http"
    return f"{scheme}://{hosts[0].decode('ascii')}{path}"
