"""Decide what a configuration that may be half written must not change: what keys may do, and who receives requests.

`widened` is pure. It prefers to report a harmless change, because the operator can run `gatepass reload`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from gatepass.auth.model_access import may_use
from gatepass.config.access import Access, AccessKey, resolved
from gatepass.config.credential.base import Credential
from gatepass.config.load import is_same
from gatepass.config.mcp import McpServer
from gatepass.config.model import Config
from gatepass.config.routes import is_glob
from gatepass.config.upstream import UpstreamConfig
from gatepass.errors import ModelNotFound
from gatepass.proxy.routing import RouteTable

Narrows = Callable[[Any, Any], bool]

NARROWER: Mapping[str, Narrows] = MappingProxyType(
    {
        "models": lambda old, new: new is not None and (old is None or set(new) <= set(old)),
        "operations": lambda old, new: None not in (old, new) and set(new) <= set(old),
        "role": lambda old, new: old == "admin" != new,
        "expires": lambda old, new: new is not None and (old is None or new <= old),
        "max_concurrent": lambda old, new: new is not None and (old is None or new <= old),
    }
)
"""Whether a new value of a key's setting allows less. Every change of another setting of a key may allow more.

`operations` that appear may open stored objects."""

TUNING: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        UpstreamConfig: frozenset(
            (
                *("rejection", "timeouts", "rerank_shape", "max_connections"),
                *("learn", "learn_also", "repair", "repeat_stale"),
            )
        ),
        McpServer: frozenset(("rejection", "repeat", "timeouts", "body_bytes")),
        Credential: frozenset(("timeout_s", "default_ttl_s", "max_ttl_s")),
    }
)
"""Settings of an upstream, an MCP server or a credential that change neither a destination nor what is sent there."""

UNNAMED = "\0"
"""A model that no entry of `models` names."""


def widened(before: Config, after: Config) -> list[str]:
    """Return the settings with which `after` may let a key do more, or send requests or secrets elsewhere."""
    found = [
        *_keys(before.access, after.access),
        *_origins(before, after),
        *_hops("upstreams", before.upstreams, after.upstreams, UpstreamConfig),
        *_hops("mcp", before.mcp, after.mcp, McpServer),
        *_hops("credentials", before.credentials, after.credentials, Credential),
        *_routes(before, after),
    ]
    return list(dict.fromkeys(found))


def _keys(before: Access, after: Access) -> Iterator[str]:
    if after.metrics_open and not before.metrics_open:
        yield "access.metrics_open"
    if not before.keys:
        return  # every caller had access
    known = {_identity(key): key for key in before.keys}
    for key in after.keys:
        name, old = f"access.keys[{key.name}]", known.get(_identity(key))
        if old is None:
            yield name
            continue
        for field in type(key).model_fields:
            values = getattr(old, field), getattr(key, field)
            if not is_same(*values) and not (field in NARROWER and NARROWER[field](*values)):
                yield f"{name}.{field}"
    # the last caller has what the others used together
    if (before.shares_objects and not after.shares_objects) or not after.keys:
        yield "access.keys"


def _identity(key: AccessKey) -> str:
    return key.hash or (key.key.reference if key.key is not None else "")


def _origins(before: Config, after: Config) -> Iterator[str]:
    known = resolved(before.profiles)
    for name, profile in resolved(after.profiles).items():
        if not set(profile.cors_origins) <= set(known[name].cors_origins if name in known else ()):
            yield f"profiles.{name}.cors_origins"


def _hops(block: str, before: Mapping[str, Any], after: Mapping[str, Any], base: type) -> Iterator[str]:
    for name, hop in after.items():
        old = before.get(name)
        if old is None or type(hop) is not type(old):
            yield f"{block}.{name}"
            continue
        for field in type(old).model_fields:
            if field not in TUNING[base] and not is_same(getattr(old, field), getattr(hop, field)):
                yield f"{block}.{name}.{field}"


def _routes(before: Config, after: Config) -> Iterator[str]:
    """Yield the models whose requests would go to another upstream, or that a limited key could not use before."""
    limited = [key for key in after.access.keys if key.models is not None]
    patterns = [pattern for key in limited for pattern in key.models or ()]
    operations = dict.fromkeys(("", *map(str, (*before.operations, *after.operations))))
    old, new = RouteTable(before), RouteTable(after)
    for name in dict.fromkeys((*before.models, *after.models, *patterns, UNNAMED, "")):
        is_limited = _concerns(name, limited, patterns)
        for operation in operations:
            known = _targets(old, operation, old.default_model(operation) if name == "" else name)
            found = _targets(new, operation, new.default_model(operation) if name == "" else name)
            upstreams = {upstream for upstream, _ in known}
            is_moved = bool(known) and any(upstream not in upstreams for upstream, _ in found)
            if is_moved or (is_limited and not found <= known):
                yield "operations" if name in ("", UNNAMED) else f"models.{name}"


def _concerns(name: str, limited: Iterable[AccessKey], patterns: Iterable[str]) -> bool:
    """Return whether a key with `models` may use `name`, or a name that the pattern `name` matches."""
    if name == UNNAMED:
        return any(map(is_glob, patterns))
    return any(name == "" or is_glob(name) or may_use(key, name) for key in limited)


def _targets(routes: RouteTable, operation: str, model: str) -> set[tuple[str, str]]:
    try:
        return {(target.upstream, target.model or model) for target in routes.resolve(operation, model)}
    except ModelNotFound:
        return set()
