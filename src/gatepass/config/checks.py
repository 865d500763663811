"""Faults that no single block can see: names that lead nowhere, settings that clash, access that is too open."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path as FilePath
from typing import Any
from urllib.parse import urlsplit

from gatepass.config.access import BUILT_IN, keys_in
from gatepass.config.block import crosses_network_in_plain, is_loopback
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.document import SettingPath, SettingPattern, dotted, leaves, lookup, matches
from gatepass.config.model import Config, ServerConfig
from gatepass.config.network import BEARER_PLACEMENT, TokenPlacement
from gatepass.config.references import Reference
from gatepass.config.routes import Model, TargetList
from gatepass.config.upstream import UpstreamConfig, no_assistant
from gatepass.config.wording import did_you_mean

PLANNED: Mapping[SettingPattern, str] = {
    ("mcp",): "the MCP relay",
    ("operations", "messages"): "the operation messages",
    ("models", "*", "operations", "messages"): "the operation messages",
    ("access", "keys", "*", "limits"): "limits of a caller",
}
"""Settings that will come."""


def not_built_yet(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Each place of `tree` that wants what is not there yet, with what to tell of it."""
    for pattern, what in PLANNED.items():
        for path, _ in matches(tree, pattern):
            yield path, f"not built yet: {what}; remove it"


LINKS: tuple[tuple[SettingPattern, str], ...] = (
    (("upstreams", "*", "credential"), "credentials"),
    (("operations", "*", "upstream"), "upstreams"),
    (("models", "*", "upstream"), "upstreams"),
    (("models", "*", "targets", "*", "upstream"), "upstreams"),
    (("models", "*", "operations", "*", "upstream"), "upstreams"),
    (("models", "*", "operations", "*", "targets", "*", "upstream"), "upstreams"),
)
"""Where a name is used, and the block that must hold it."""

WITH_MODELS = ("chat", "completions", "embeddings", "rerank", "responses")
"""Operations whose requests name a model."""
NO_WAY = (
    'no model leads anywhere: with several upstreams add models (`models: {{"*": {{upstream: {first}}}}}`'
    " sends all to one) or operations"
)

_OPERATION = re.compile(
    r"(?<!/)(?:/chat/completions|/completions|/embeddings|/rerank|/responses|/audio/(?:speech|transcriptions)"
    r"|(?<=/v[0-9])/models)\Z"
)
"""An operation's path at the end of a URL, where no host is called so. Azure AI has base URLs that end in /models."""
NO_BASE = "ends in {path}, which gatepass puts behind it by itself: let it end before that, most often in /v1"


def dead_ends(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Each place from which no request could get anywhere, with what to do about it."""
    for path, url in matches(tree, ("upstreams", "*", "base_url")):
        if isinstance(url, str) and (found := _OPERATION.search(url.rstrip("/").lower())):
            yield path, NO_BASE.format(path=found[0])
    upstreams = lookup(tree, ("upstreams",))
    leads_anywhere = lookup(tree, ("models",)) or _has_own_upstream(tree)
    if isinstance(upstreams, dict) and len(upstreams) > 1 and not leads_anywhere:
        yield ("upstreams",), NO_WAY.format(first=next(iter(upstreams)))


def _has_own_upstream(tree: Any) -> bool:
    """Whether an operation says where its models go that no entry of `models` names."""
    return any(lookup(tree, ("operations", name, "upstream")) is not None for name in WITH_MODELS)


def dangling(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Each name that stands for nothing, with what to tell of it."""
    for pattern, block in LINKS:
        known = lookup(tree, (block,))
        names = [str(name) for name in known] if isinstance(known, dict) else []
        for path, value in matches(tree, pattern):
            if isinstance(value, str) and value not in names:
                yield path, _unknown(value, block, names)
    yield from _suggested(tree)
    own = lookup(tree, ("profiles",))
    profiles = sorted({*BUILT_IN, *(str(name) for name in own)} if isinstance(own, dict) else BUILT_IN)
    for path, value in matches(tree, ("access", "keys", "*", "profile")):
        if isinstance(value, str) and value not in profiles:
            yield path, _unknown(value, "profiles", profiles)


def _suggested(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Each model that is pointed at and that no request could reach."""
    models = lookup(tree, ("models",))
    names = [str(name) for name in models] if isinstance(models, dict) else []
    if _has_own_upstream(tree):
        return
    for path, value in matches(tree, ("models", "*", "suggest")):
        if isinstance(value, str) and not any(fnmatchcase(value, name) for name in names):
            yield path, _unknown(value, "models", names)


def _unknown(value: str, block: str, names: list[str]) -> str:
    if isinstance(value, Reference):  # its value is nobody's to read
        return f"{value.template} is not a name under {block}"
    return f"{value!r} is not a name under {block}{did_you_mean(value, names)}"


SHORTEST_KEY_CHARS = 16
UNGUARDED = (
    "is wider than this machine, and there are no keys: run `gatepass keys new` and put the hash under"
    " access.keys (or into GATEPASS_KEY_HASHES), or listen on 127.0.0.1"
)
IN_PLAIN_SIGHT = (
    "would send a secret over plain HTTP to another machine: use https,"
    " or set allow_plain_http: true under {block} in a configuration file"
)
IN_PLAIN_TO_PROXY = (
    "would send a secret over plain HTTP to a proxy on another machine, though its own host is this one: take the"
    " proxy out of {block}.network (or name the host in NO_PROXY), use https,"
    " or set allow_plain_http: true under {block} in a configuration file"
)
CARRIES_SECRETS = (
    ("upstreams", "base_url"),
    ("credentials", "token_url"),
    ("credentials", "issuer"),
    ("credentials", "url"),
    ("credentials", "base_url"),
    ("credentials", "sts_url"),
)
_VISIBLE = re.compile(r"[!-~]+\Z")


def open_doors(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Each place of `tree` that is unsafe, with what to tell of it. Values of a wrong type are not judged here."""
    host = lookup(tree, ("server", "host"))
    host = ServerConfig().host if host is None else host
    if isinstance(host, str) and not is_loopback(host) and not lookup(tree, ("access", "keys")):
        yield ("server", "host"), UNGUARDED
    yield from in_plain_sight(tree)
    for path, key in matches(tree, ("access", "keys", "*", "key")):
        if isinstance(key, Reference):
            yield from ((path, fault) for text in keys_in(key) or ("",) if (fault := weakness(text)))
    yield from _said_twice(tree)


def in_plain_sight(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    """Each URL of `tree` to which a secret would cross the network in plain: to its host, or to a proxy before it."""
    for block, name in CARRIES_SECRETS:
        for path, url in matches(tree, (block, "*", name)):
            if not isinstance(url, str) or not _carries_secret(tree, path):
                continue
            proxy = lookup(tree, (*path[:2], "network", "proxy"))
            if _is_readable(url):
                yield path, IN_PLAIN_SIGHT.format(block=dotted(path[:2]))
            elif isinstance(proxy, str) and _is_readable(url, proxy):
                yield path, IN_PLAIN_TO_PROXY.format(block=dotted(path[:2]))


def _carries_secret(tree: Any, path: SettingPath) -> bool:
    """Whether what goes to the URL at `path` is secret, and the configuration does not allow plain HTTP for it."""
    block = lookup(tree, path[:-1])
    allowed = block.get("allow_plain_http") is True
    holds_secret = block.get("credential") is not None or bool(block.get("headers"))
    return not allowed and (path[0] == "credentials" or holds_secret)


def _is_readable(url: str, proxy: str | None = None) -> bool:
    try:
        return crosses_network_in_plain(url, proxy)
    except ValueError:  # no URL at all: the model says so
        return False


SECRET_FILES: tuple[SettingPattern, ...] = (
    ("credentials", "*", "path"),
    ("credentials", "*", "private_key_file"),
    ("credentials", "*", "refresh_token_file"),
    ("credentials", "*", "credentials_file"),
    ("credentials", "*", "profiles_file"),
    ("credentials", "*", "web_identity_token_file"),
    ("credentials", "*", "federated_token_file"),
    ("credentials", "*", "network", "client_key"),
    ("upstreams", "*", "network", "client_key"),
    ("store", "network", "client_key"),
)
"""Settings that name a file with a secret in it, beside every `${file:...}`."""
EXPOSED = (
    "{} {} by every user of this machine (mode {:04o}): make the user that gatepass runs as its owner,"
    " and run `chmod o-rwx` on it"
)


def exposed_secrets(tree: Any) -> Iterator[str]:
    """A warning of each file with a secret that every user of this machine can read or write."""
    files = {file for pattern in SECRET_FILES for _, file in matches(tree, pattern) if isinstance(file, str)}
    references = [value for _, value in leaves(tree) if isinstance(value, Reference)]
    files |= {place.name for value in references for place in value.places if place.kind == "file"}
    for file in sorted(files):
        if warning := exposed(file, holds_secret=True):
            yield warning


def exposed(file: str, *, holds_secret: bool, what: str = "") -> str | None:
    """The warning of a file that every user can write, or can read where that matters; `what` it is besides."""
    try:
        mode = stat.S_IMODE(FilePath(file).stat().st_mode)
    except (OSError, ValueError):  # that it cannot be read is told elsewhere
        return None
    is_read, is_written = holds_secret and mode & stat.S_IROTH, mode & stat.S_IWOTH
    if not is_read and not is_written:
        return None
    able = " and ".join(word for word, can in (("read", is_read), ("written", is_written)) if can)
    return EXPOSED.format(file, f"{what if is_read else ''}can be {able}", mode)


def weakness(key: str) -> str | None:
    """Why `key` must not open a door, or None."""
    if len(key) < SHORTEST_KEY_CHARS:
        return f"is shorter than {SHORTEST_KEY_CHARS} characters: take one of `gatepass keys new`"
    if not _VISIBLE.match(key):
        return "holds characters that no header can carry: take one of `gatepass keys new`"
    return None


def _said_twice(tree: Any) -> Iterator[tuple[SettingPath, str]]:
    for member, text in (("name", "is the name of an earlier key"), ("hash", "is the hash of an earlier key")):
        seen: set[str] = set()
        for path, value in matches(tree, ("access", "keys", "*", member)):
            if isinstance(value, str) and value in seen:
                yield path, f"{text}: each key needs its own"
            elif isinstance(value, str):
                seen.add(value)


TWICE = "{} carries the token already: a request has one of each name"
NEVER = "never counts: operations.{}.upstream comes before `*`; write there what is different"
NOT_AZURE = "is Azure, whose deployments want dialect: azure; with openai it ends in /openai/v1"
UNASKED = (
    "upstreams.{name}: no model and no operation leads there, so no request does: write `models: {{NAME: {{upstream:"
    ' {name}}}}}` ("*" as NAME stands for all that nothing else names), or take it out'
)
ONLY_LISTED = (
    "upstreams.{name}: operations.models alone leads there, so its list of models is all it is asked for; requests"
    " for these go elsewhere or nowhere: write `models: {{NAME: {{upstream: {name}}}}}`, or take it out"
)
PASSED_ON = ("transcriptions", "translations", "files")
"""Operations whose bodies pass through as they come: forms."""
NO_RULES = "never counts: the body of {} passes through as it comes"
NO_LIST = "never counts: a list of models is asked for within bounds of its own, and of no model"
_AZURE = re.compile(r"\.(?:openai|cognitiveservices)\.azure\.(?:com|us|cn)\Z")


def placement_of(upstream: UpstreamConfig, config: Config) -> TokenPlacement:
    """How `upstream` of `config` is shown its credential's tokens."""
    if upstream.carry is not None or upstream.credential is None:
        return upstream.carry or BEARER_PLACEMENT
    return config.credentials[upstream.credential].placement


def clashes(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Each operation that RAGFlow does not know, each name that no assistant of it can have, what could never count
    beside `*` or at all, and each static header that carries the token too, with what to tell of it."""
    for operation, route in config.operations.items():
        if route.upstream is not None:
            yield from _no_chat(operation, ("operations", operation, "upstream"), route.upstream, config)
        yield from _idle(operation, ("operations", operation), route.model_fields_set)
    for name, model in config.models.items():
        yield from _of_model(name, model, config)
    for name, upstream in config.upstreams.items():
        if upstream.credential is not None:
            carried = {field.lower() for field in placement_of(upstream, config).templates}
            for field in upstream.headers:
                if field.lower() in carried:
                    yield ("upstreams", name, "headers", field), TWICE.format(field)


def doubts(config: Config) -> Iterator[str]:
    """What a configuration that can be used says in all likelihood by mistake, as warnings."""
    for name, upstream in config.upstreams.items():
        url = urlsplit(upstream.base_url)
        is_azure = _AZURE.search((url.hostname or "").lower()) is not None
        if is_azure and upstream.dialect == "openai" and not url.path.endswith("/openai/v1"):
            yield f"upstreams.{name}.base_url {NOT_AZURE}"
    yield from _unasked(config)


def _unasked(config: Config) -> Iterator[str]:
    """A warning of each upstream to which no request for a model could go."""
    if len(config.upstreams) == 1:
        return
    asked = {target.upstream for model in config.models.values() for target in model.all_targets()}
    asked |= {route.upstream for name, route in config.operations.items() if name != "models" and route.upstream}
    listed = {route.upstream for name, route in config.operations.items() if name == "models"}
    for name in config.upstreams:
        if name not in asked:
            yield (ONLY_LISTED if name in listed else UNASKED).format(name=name)


def _of_model(name: str, model: Model, config: Config) -> Iterator[tuple[SettingPath, str]]:
    yield from _no_assistants(("models", name), name, model, config)
    for operation, own in model.operations.items():
        block: SettingPath = ("models", name, "operations", operation)
        yield from _idle(operation, block, own.model_fields_set)
        route = config.operations.get(operation)
        if name == "*" and route is not None and route.upstream is not None:
            yield block, NEVER.format(operation)
        for number, target in enumerate(own.ordered_targets()):
            place = (*block, "upstream") if own.targets is None else (*block, "targets", number, "upstream")
            yield from _no_chat(operation, place, target.upstream, config)
        yield from _no_assistants(block, name, own, config)


def _idle(operation: str, block: SettingPath, given: Collection[str]) -> Iterator[tuple[SettingPath, str]]:
    """What is `given` in `block` and could change nothing."""
    if operation in PASSED_ON and "rules" in given:
        yield (*block, "rules"), NO_RULES.format(operation)
    if operation == "models":
        yield from (((*block, name), NO_LIST) for name in ("rules", "model", "timeouts") if name in given)


def _no_chat(operation: str, place: SettingPath, upstream: str, config: Config) -> Iterator[tuple[SettingPath, str]]:
    if operation not in ("chat", "models") and config.upstreams[upstream].dialect == "ragflow":
        yield place, f"{upstream} is RAGFlow, which answers chats and nothing else"


def _no_assistants(
    block: SettingPath, name: str, target_list: TargetList, config: Config
) -> Iterator[tuple[SettingPath, str]]:
    for number, target in enumerate(target_list.ordered_targets()):
        is_pattern = target.name is None and any(sign in name for sign in "*?[")
        if config.upstreams[target.upstream].dialect != "ragflow" or is_pattern:
            continue
        if (fault := no_assistant(target.name if target.name is not None else name)) is not None:
            place = block if target_list.targets is None else (*block, "targets", number)
            yield (*place, "name") if target.name is not None else place, fault


ALONE = (
    "its refresh token is kept nowhere but in the gatepass that runs: another use of it would end that one's login, "
    "which only a new one mends (set refresh_token_file, or a store)"
)


def has_unshared_refresh_token(config: Config, name: str) -> bool:
    """Whether nobody but the gatepass that runs may use the refresh token of the credential `name`.

    Most issuers end it at its use, or all of its kin where it is used twice (RFC 9700 4.14.2), and without a common
    place nobody else learns the next one. Who can sign in otherwise does so and harms nobody.
    """
    settings = config.credentials[name]
    if config.store is not None or not isinstance(settings, Oauth2Credential):
        return False
    return settings.grant_type == "refresh_token" and settings.refresh_token_file is None
