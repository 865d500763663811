"""What a configuration may not do, however well it is written: doors left open, secrets in plain sight."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gatepass.config.access import keys_in
from gatepass.config.problem import Path, dotted
from gatepass.config.references import Reference
from gatepass.config.server import Server
from gatepass.config.tree import lookup, matches
from gatepass.config.url import crosses_network_in_plain, is_loopback

SHORTEST_KEY_CHARS = 16
UNGUARDED = (
    "is wider than this machine, and there are no keys: run `gatepass keys new` and put the hash under"
    " access.keys (or into GATEPASS_KEY_HASHES), or listen on 127.0.0.1"
)
IN_PLAIN_SIGHT = (
    "would send a secret over plain HTTP to another machine: use https,"
    " or set allow_plain_http: true under {block} in a configuration file"
)
CARRIES_SECRETS = (
    ("upstreams", "base_url"),
    ("credentials", "token_url"),
    ("credentials", "issuer"),
    ("credentials", "url"),
    ("credentials", "base_url"),
)
_VISIBLE = re.compile(r"[!-~]+\Z")


def open_doors(tree: Any) -> Iterator[tuple[Path, str]]:
    """Each place of `tree` that is unsafe, with what to tell of it. Values of a wrong type are not judged here."""
    yield from _unguarded(tree)
    yield from _in_plain_sight(tree)
    yield from _weak_keys(tree)
    yield from _said_twice(tree)


def _unguarded(tree: Any) -> Iterator[tuple[Path, str]]:
    host = lookup(tree, ("server", "host"))
    host = Server().host if host is None else host
    if isinstance(host, str) and not is_loopback(host) and not lookup(tree, ("access", "keys")):
        yield ("server", "host"), UNGUARDED


def _in_plain_sight(tree: Any) -> Iterator[tuple[Path, str]]:
    for block, name in CARRIES_SECRETS:
        for path, url in matches(tree, (block, "*", name)):
            if isinstance(url, str) and _carries_secret(tree, path) and _is_readable(url):
                yield path, IN_PLAIN_SIGHT.format(block=dotted(path[:2]))


def _carries_secret(tree: Any, path: Path) -> bool:
    """Whether what goes to the URL at `path` is secret, and nobody has said that this is fine."""
    block = lookup(tree, path[:-1])
    allowed = block.get("allow_plain_http") is True
    holds_secret = block.get("credential") is not None or bool(block.get("headers"))
    return not allowed and (path[0] == "credentials" or holds_secret)


def _is_readable(url: str) -> bool:
    try:
        return crosses_network_in_plain(url)
    except ValueError:  # no URL at all: the model says so
        return False


def _weak_keys(tree: Any) -> Iterator[tuple[Path, str]]:
    for path, key in matches(tree, ("access", "keys", "*", "key")):
        if isinstance(key, Reference):
            yield from ((path, fault) for text in keys_in(key) or ("",) if (fault := weakness(text)))


def weakness(key: str) -> str | None:
    """Why `key` must not open a door, or None."""
    if len(key) < SHORTEST_KEY_CHARS:
        return f"is shorter than {SHORTEST_KEY_CHARS} characters: take one of `gatepass keys new`"
    if not _VISIBLE.match(key):
        return "holds characters that no header can carry: take one of `gatepass keys new`"
    return None


def _said_twice(tree: Any) -> Iterator[tuple[Path, str]]:
    for member, text in (("name", "is the name of an earlier key"), ("hash", "is the hash of an earlier key")):
        seen: set[str] = set()
        for path, value in matches(tree, ("access", "keys", "*", member)):
            if isinstance(value, str) and value in seen:
                yield path, f"{text}: each key needs its own"
            elif isinstance(value, str):
                seen.add(value)
