"""Checks across blocks: unknown names, conflicting settings, unsafe access, and warnings about likely mistakes.

Each check yields the path of a setting and a sentence for the operator. Most run on the plain tree before pydantic
validates it, so that all problems are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, keys_in
from gatepass.config.block import HASH, crosses_network_in_plain, is_loopback
from gatepass.config.document import SettingPath, SettingPattern, children, dotted, leaves, lookup, matches
from gatepass.config.model import Config, ServerConfig, with_default_network
from gatepass.config.network import BEARER_PLACEMENT, TokenPlacement
from gatepass.config.references import Reference
from gatepass.config.routes import OF_LIST, kind_by_name
from gatepass.config.upstream import UpstreamConfig
from gatepass.config.use_limits import CALENDAR
from gatepass.config.wording import did_you_mean

LINKS: tuple[tuple[SettingPattern, str], ...] = (
    (("upstreams", "*", "credential"), "credentials"),
    (("mcp", "*", "credential"), "credentials"),
    (("operations", "*", "upstream"), "upstreams"),
    (("models", "*", "upstream"), "upstreams"),
    (("models", "*", "targets", "*", "upstream"), "upstreams"),
    (("access", "keys", "*", "group"), "access.groups"),
)
"""Settings that hold a name, each with the block that must define it."""

WITH_MODELS = ("chat", "completions", "embeddings", "rerank", "responses", "messages")
NO_ROUTE = (
    'no model has a route: with several upstreams add models (`models: {{"*": {{upstream: {first}}}}}`'
    " sends all to one) or operations"
)

_OPERATION = re.compile(
    r"(?<!/)(?:/chat/completions|/completions|/embeddings|/rerank|/responses|/messages|/audio/(?:speech|transcriptions)"
    r"|(?<=/v[0-9])/models)\Z"
)
"""The path of an operation at the end of a URL. `//` before it is excluded: a host may have such a name.
Base URLs of Azure AI end in /models, so that /models matches only after a version."""


def unreachable_settings(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Yield each base URL that includes an operation's path, and `upstreams` if no model has a route."""
    for path, url in matches(tree, ("upstreams", "*", "base_url")):
        if isinstance(url, str) and (found := _OPERATION.search(url.rstrip("/").lower())):
            yield path, f"ends in {found[0]}, which gatepass appends itself: end it before that, most often with /v1"
    upstreams = lookup(tree, ("upstreams",))
    routed = (lookup(tree, ("operations", name, "upstream")) is not None for name in WITH_MODELS)
    has_route = lookup(tree, ("models",)) or any(routed)
    if isinstance(upstreams, dict) and len(upstreams) > 1 and not has_route:
        yield ("upstreams",), NO_ROUTE.format(first=next(iter(upstreams)))


def serves_only_named(config: Config) -> bool:
    """Whether a model that no entry of `models` names is 404 `model_not_found` for each operation."""
    has_route = any(route.upstream for name, route in config.operations.items() if name in WITH_MODELS)
    return bool(config.models) and "*" not in config.models and not has_route


def unknown_names(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    blocks = {block: lookup(tree, (block,)) for block in Config.model_fields}
    names = {block: [str(name) for name in found] for block, found in blocks.items() if isinstance(found, dict)}
    groups = lookup(tree, ("access", "groups"))
    names["access.groups"] = [*map(str, groups)] if isinstance(groups, dict) else []
    for pattern, block in LINKS:
        for path, value in matches(tree, pattern):
            if isinstance(value, str) and value not in (known := names.get(block, [])):
                yield path, _unknown(value, block, known)
    for path, servers in matches(tree, ("access", "keys", "*", "mcp")):
        for at, value in children(servers):
            name = at if isinstance(servers, dict) else value
            if isinstance(name, str) and name not in (known := names.get("mcp", [])):
                yield (*path, at), _unknown(name, "mcp", known)


def _unknown(value: str, block: str, names: list[str]) -> str:
    if isinstance(value, Reference):  # its value may be a secret
        return f"{value.template} is not a name under {block}"
    return f"{value!r} is not a name under {block}{did_you_mean(value, names)}"


LIMITED: tuple[SettingPattern, ...] = (
    ("access", "keys", "*"),
    ("access", "groups", "*"),
    *((block, "*") for block in ("models", "upstreams")),
)
"""The blocks whose `limits` may be of the calendar."""


def forgotten_limits(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Yield each limit of the calendar, if there is no store."""
    patterns = [
        (*block, "limits", unit, span) for block in LIMITED for unit in ("requests", "tokens") for span in CALENDAR
    ]
    for path, most in chain.from_iterable(matches(tree, pattern) for pattern in patterns):
        if most is not None and lookup(tree, ("store",)) is None:
            yield path, "needs `store`, because a restart would forget it"


SHORTEST_KEY_CHARS = 16
UNGUARDED = (
    "is reachable from other machines, and there are no keys: run `gatepass keys new` and put the hash under"
    " access.keys (or into GATEPASS_KEY_HASHES), or listen on 127.0.0.1"
)
PLAIN_HTTP_TO_HOST = (
    "would send a secret over plain HTTP to another machine: use https,"
    " or set allow_plain_http: true under {block} (GATEPASS_ALLOW_PLAIN_HTTP=true without a file)"
)
PLAIN_HTTP_TO_PROXY = (
    "would send a secret over plain HTTP to a proxy on another machine, although the host is this machine: remove the"
    " proxy from {block}.network, use https, or set allow_plain_http: true under {block}"
    " (GATEPASS_ALLOW_PLAIN_HTTP=true without a file)"
)
CARRIES_SECRETS = (
    ("upstreams", "base_url"),
    ("mcp", "url"),
    ("credentials", "token_url"),
    ("credentials", "url"),
)
_VISIBLE = re.compile(r"[!-~]+\Z")


def unsafe_settings(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    host = lookup(tree, ("server", "host"))
    host = ServerConfig().host if host is None else host
    if isinstance(host, str) and not is_loopback(host) and not lookup(tree, ("access", "keys")):
        yield ("server", "host"), UNGUARDED
    yield from secrets_over_plain_http(tree)
    for path, key in matches(tree, ("access", "keys", "*", "key")):
        # A key in plain text is rejected in any case (config/access.py).
        if isinstance(key, Reference):
            yield from ((path, fault) for text in keys_in(key) or ("",) if (fault := api_key_weakness(text)))
    seen: set[str] = set()
    for path, value in matches(tree, ("access", "keys", "*", "hash")):
        if not isinstance(value, str) or not re.match(HASH, value):
            continue
        if value in seen:
            yield path, "is the hash of an earlier key: each key needs its own"
        seen.add(value)


def secrets_over_plain_http(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Yield each URL to which a secret would cross the network in plain text, to its host or to a proxy."""
    tree = with_default_network(tree)
    for block_name, name in CARRIES_SECRETS:
        for path, url in matches(tree, (block_name, "*", name)):
            block = lookup(tree, path[:-1])
            sends_secret = block_name == "credentials" or block.get("credential") is not None or block.get("headers")
            if not isinstance(url, str) or not sends_secret or block.get("allow_plain_http") is True:
                continue
            proxy = lookup(tree, (*path[:2], "network", "proxy"))
            if _is_readable(url):
                yield path, PLAIN_HTTP_TO_HOST.format(block=dotted(path[:2]))
            elif isinstance(proxy, str) and _is_readable(url, proxy):
                yield path, PLAIN_HTTP_TO_PROXY.format(block=dotted(path[:2]))


def _is_readable(url: str, proxy: str | None = None) -> bool:
    try:
        return crosses_network_in_plain(url, proxy)
    except ValueError:  # not a URL: pydantic reports it
        return False


def api_key_weakness(key: str) -> str | None:
    """Return why `key` is not accepted as an API key, or None."""
    if len(key) < SHORTEST_KEY_CHARS:
        return f"is shorter than {SHORTEST_KEY_CHARS} characters: create one with `gatepass keys new`"
    if not _VISIBLE.match(key):
        return "holds characters that no header can carry: create one with `gatepass keys new`"
    return None


OF_CALLER = ("role", "models", "operations", "mcp", "profile", "group", "limits", "end_users", "weight")
BATCH_OF_ANY_MODEL = "opens batches, which may run any model: remove it, or remove models"
UNCHANGED_BODIES = ("transcriptions", "translations", "files")
"""Operations with multipart forms, which gatepass does not change."""
BY_RAGFLOW = ("chat", *OF_LIST)
"""Operations that RAGFlow supports."""


def placement_of(upstream: UpstreamConfig, config: Config) -> TokenPlacement:
    if upstream.token_placement is not None or upstream.credential is None:
        return upstream.token_placement or BEARER_PLACEMENT
    return config.credentials[upstream.credential].placement


def conflicts(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield settings that are valid alone but not together.

    These are: operations that RAGFlow does not support, settings that are never used, keys of one caller that differ,
    and static headers with the name of a header that carries the token.
    """
    for operation, route in config.operations.items():
        block: SettingPath = ("operations", operation)
        name, names = route.upstream, route.model_fields_set
        if name is not None and operation not in BY_RAGFLOW and config.upstreams[name].dialect == "ragflow":
            yield (*block, "upstream"), f"{name} is RAGFlow, which supports only chat"
        if operation in UNCHANGED_BODIES and "rules" in names:
            yield (*block, "rules"), f"are never used: gatepass does not change the body of {operation}"
        if operation in OF_LIST:
            unused = "is never used: the list of models has fixed limits and does not name a model"
            yield from (((*block, one), unused) for one in ("rules", "model") if one in names)
    for number, key in enumerate(config.access.keys):
        if key.models is not None and key.uses_any_model:
            yield ("access", "keys", number, "operations"), BATCH_OF_ANY_MODEL
    servers = [("mcp", name, server.as_upstream()) for name, server in config.mcp.items()]
    for block_name, name, upstream in (*(("upstreams", *one) for one in config.upstreams.items()), *servers):
        if upstream.credential is not None:
            token_headers = {field.lower() for field in placement_of(upstream, config).templates}
            for field in upstream.headers:
                if field.lower() in token_headers:
                    fault = f"{field} carries the token already: a request has one of each name"
                    yield (block_name, name, "headers", field), fault


def different_keys(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Yield the settings in which a key differs from the first key of the same caller."""
    first: dict[str, tuple[int, Any]] = {}
    for (*_, number), key in matches(tree, ("access", "keys", "*")):
        if not isinstance(key, dict) or not isinstance(name := key.get("name"), str):
            continue
        meant = {"role": "caller", **{setting: value for setting, value in key.items() if value is not None}}
        if isinstance(servers := key.get("mcp"), list):  # a mapping without lists of tools
            meant["mcp"] = {str(server): None for server in servers}
        earlier, other = first.setdefault(name, (int(number), meant))
        for setting in OF_CALLER:
            one, two = meant.get(setting), other.get(setting)
            # `keys new --write` checks files with references that cannot be resolved here
            is_known = all(isinstance(leaf, Reference) or "${" not in str(leaf) for _, leaf in leaves([one, two]))
            if one != two and is_known:
                fault = f"differs from access.keys[{earlier}], which is a key of the same caller {name!r}"
                yield ("access", "keys", number, setting), f"{fault}: repeat the value there, or use another name"


def likely_mistakes(config: Config) -> Iterator[str]:
    # a key without a profile is `plain`, as are many profiles
    profiles = {name for name, profile in BUILT_IN_PROFILES.items() if profile != PLAIN}
    for number, key in enumerate(config.access.keys):
        profile = next((name for name in (key.name, key.name.lower().replace("-", "_")) if name in profiles), None)
        if profile is not None and key.profile is None and key.calls_models:
            what = f"is named like the profile {profile} and does not use it"
            yield f"access.keys[{number}] {what}: set profile: {profile}, or profile: plain"
    vectors = config.operations.get("embeddings")
    for name, model in config.models.items():
        targets = model.ordered_targets()
        names = dict.fromkeys(target.name or name for target in targets)
        is_embedding = model.capabilities.kind == "embedding" or (vectors is not None and vectors.model == name)
        if len(names) > 1 and (is_embedding or "embedding" in map(kind_by_name, (name, *names))):
            fault = f"models.{name}: has different names of an embedding model ({', '.join(names)}): if these are"
            yield f"{fault} different models, their vectors do not fit into one index, and no error shows it"
        has_weights = any(target.weight != 1.0 for target in targets)
        if has_weights and model.policy == "order":
            fault = "have weights that `policy: order` does not use: set `policy: weighted`"
            yield f"models.{name}.targets: {fault}"
    for name, upstream in config.upstreams.items():
        if upstream.max_in_flight is None and (idle := sorted({"queue", "queue_s"} & upstream.model_fields_set)):
            fault = "has no effect without max_in_flight: set that too, or remove"
            yield f"upstreams.{name}.{idle[0]}: {fault} {' and '.join(idle)}"
    if len(config.upstreams) == 1:  # it serves all models that have no route
        return
    used = {target.upstream for model in config.models.values() for target in model.ordered_targets()}
    used |= {route.upstream for name, route in config.operations.items() if name not in OF_LIST and route.upstream}
    for name in (one for one in config.upstreams if one not in used):
        remedy = f'write `models: {{NAME: {{upstream: {name}}}}}` (with "*" as NAME for all other models), or remove it'
        yield f"upstreams.{name}: no request for a model goes to it: {remedy}"
