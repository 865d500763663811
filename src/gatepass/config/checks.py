"""Checks across blocks: unknown names, conflicting settings, unsafe access, and warnings about likely mistakes.

Each check yields the path of a setting and a sentence for the operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, AccessKey, CallerSettings, JwtIssuer, profile_name, storing
from gatepass.config.block import crosses_network_in_plain, is_loopback
from gatepass.config.certificates import unusable_files
from gatepass.config.document import SettingPath, dotted
from gatepass.config.model import URLS, Config
from gatepass.config.network import BEARER_PLACEMENT, TokenPlacement
from gatepass.config.routes import OF_LIST, kind_by_name
from gatepass.config.upstream import HopConfig, UpstreamConfig, is_secret_parameter
from gatepass.config.use_limits import CALENDAR, UseLimits
from gatepass.config.wording import did_you_mean

WITH_MODELS = ("chat", "completions", "embeddings", "rerank", "responses", "messages")
NO_ROUTE = (
    'no model has a route: with several upstreams add models (`models: {{"*": {{upstream: {first}}}}}`'
    " sends all to one) or operations"
)

OPERATION_AT_END = re.compile(
    r"(?<!/)(?:/chat/completions|/completions|/embeddings|/rerank|/responses|/messages|/audio/(?:speech|transcriptions)"
    r"|(?<=/v[0-9])/models)\Z"
)
"""The path of an operation at the end of a URL. `//` before it is excluded: a host may have such a name.
Base URLs of Azure AI end in /models, so that /models matches only after a version."""
ENDS_IN_OPERATION = "ends in {path}, which gatepass appends itself: end it before that, most often with /v1"


def unreachable_settings(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield each base URL that includes an operation's path, and `upstreams` if no model has a route."""
    for name, upstream in config.upstreams.items():
        if found := OPERATION_AT_END.search(upstream.base_url.lower()):
            yield ("upstreams", name, "base_url"), ENDS_IN_OPERATION.format(path=found[0])
    if len(config.upstreams) > 1 and not (config.models or _has_operation_route(config)):
        yield ("upstreams",), NO_ROUTE.format(first=next(iter(config.upstreams)))


def serves_only_named(config: Config) -> bool:
    """Whether a model that no entry of `models` names is 404 `model_not_found` for each operation."""
    return bool(config.models) and "*" not in config.models and not _has_operation_route(config)


def _has_operation_route(config: Config) -> bool:
    return any(route.upstream for name, route in config.operations.items() if name in WITH_MODELS)


def unknown_names(config: Config) -> Iterator[tuple[SettingPath, str]]:
    used: list[tuple[SettingPath, str | None, str]] = [
        *(((*path, "credential"), name, "credentials") for path, name in config.used_credentials()),
        *((("operations", name, "upstream"), one.upstream, "upstreams") for name, one in config.operations.items()),
    ]
    for name, model in config.models.items():
        used.append((("models", name, "upstream"), model.upstream, "upstreams"))
        for number, target in enumerate(model.targets or ()):
            used.append((("models", name, "targets", number, "upstream"), target.upstream, "upstreams"))
    for path, settings in settings_of_callers(config):
        used.append(((*path, "group"), settings.group, "access.groups"))
        used += [((*path, "mcp", server), server, "mcp") for server in settings.mcp or ()]
    for path, value, block in used:
        known = [*(config.access.groups if block == "access.groups" else getattr(config, block))]
        if value is not None and value not in known:  # not quoted, because a reference may have given it
            yield path, f"is not a name under {block}{did_you_mean(value, known)}"


def settings_of_callers(config: Config) -> Iterator[tuple[SettingPath, CallerSettings]]:
    """Yield each key, and each row of `access.jwt`, with its path."""
    yield from ((("access", "keys", number), key) for number, key in enumerate(config.access.keys))
    for number, entry in enumerate(config.access.jwt):
        yield from ((("access", "jwt", number, "callers", at), row) for at, row in enumerate(entry.callers))


def forgotten_limits(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield each limit of the calendar, if there is no store."""
    limited: list[tuple[SettingPath, UseLimits | None]] = [
        *((path, settings.limits) for path, settings in settings_of_callers(config)),
        *((("access", "groups", name), group.limits) for name, group in config.access.groups.items()),
        *((("models", name), model.limits) for name, model in config.models.items()),
        *((("upstreams", name), upstream.limits) for name, upstream in config.upstreams.items()),
    ]
    for path, limits in limited if config.store is None else ():
        for unit in ("requests", "tokens"):
            for span in CALENDAR:
                if getattr(getattr(limits, unit, None), span, None) is not None:
                    yield (*path, "limits", unit, span), "needs `store`, because a restart would forget it"


SHORTEST_KEY_CHARS = 16
UNGUARDED = (
    "is reachable from other machines, and there are no keys: run `gatepass keys new` and put the hash under"
    " access.keys (or into GATEPASS_KEY_HASHES), or listen on 127.0.0.1"
)
KEYS_OVER_PLAIN_HTTP = (
    "would fetch keys over plain HTTP from another machine, where others could replace them: use https, a file, or"
    " set allow_plain_http: true under {block}"
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
_VISIBLE = re.compile(r"[!-~]+\Z")


def unsafe_settings(config: Config) -> Iterator[tuple[SettingPath, str]]:
    if not is_loopback(config.server.host) and not config.access.has_callers:
        yield ("server", "host"), UNGUARDED
    yield from secrets_over_plain_http(config)
    seen: set[str] = set()
    for number, key in enumerate(config.access.keys):
        if key.key is not None:
            faults = filter(None, map(api_key_weakness, key.texts or ("",)))
            yield from ((("access", "keys", number, "key"), fault) for fault in faults)
        if not seen.isdisjoint(key.hashes):
            member = "hash" if key.key is None else "key"
            yield ("access", "keys", number, member), "is the key of an earlier entry: each entry needs its own"
        seen.update(key.hashes)
    first: dict[str, int] = {}
    for number, issuer in ((at, issuer) for at, entry in enumerate(config.access.jwt) for issuer in entry.issuer):
        if (other := first.setdefault(issuer, number)) != number:
            text = f"is in access.jwt[{other}] too: one issuer has one set of keys and one table"
            yield ("access", "jwt", number, "issuer"), text


def secrets_over_plain_http(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield each URL to which a secret, or from which keys, would cross the network in plain text, or to a proxy."""
    for path, hop in config.hops():
        urls = {name: str(getattr(hop, name)) for name in URLS if hasattr(hop, name)}
        if isinstance(hop, JwtIssuer):
            urls = {} if hop.url is None else {"jwks" if hop.jwks else "issuer": hop.url}
        for setting, url in urls.items() if not isinstance(hop, HopConfig) or _sends_secret(hop) else ():
            if not hop.allow_plain_http and crosses_network_in_plain(url, hop.network.proxy):
                text = PLAIN_HTTP_TO_HOST if crosses_network_in_plain(url) else PLAIN_HTTP_TO_PROXY
                text = KEYS_OVER_PLAIN_HTTP if isinstance(hop, JwtIssuer) else text
                yield (*path, setting), text.format(block=dotted(path))


def _sends_secret(hop: HopConfig) -> bool:
    return bool(hop.credential or hop.headers) or any(is_secret_parameter(*one) for one in hop.query.items())


def api_key_weakness(key: str) -> str | None:
    if len(key) < SHORTEST_KEY_CHARS:
        return f"is shorter than {SHORTEST_KEY_CHARS} characters: create one with `gatepass keys new`"
    if not _VISIBLE.match(key):
        return "holds characters that no header can carry: create one with `gatepass keys new`"
    return None


OF_ROW = ("role", "models", "operations", "mcp", "profile", "group", "limits", "weight")
"""The settings of a row of `access.jwt` that its callers have (`auth.caller.Caller`)."""
OF_CALLER = (*OF_ROW, "end_users")
"""The settings of a key that belong to its caller."""
BATCH_OF_ANY_MODEL = "opens batches, which may run any model: remove it, or remove models"
UNCHANGED_BODIES = ("transcriptions", "translations", "files")
"""Operations with multipart forms, which gatepass does not change."""
BY_RAGFLOW = ("chat", *OF_LIST)
"""Operations that RAGFlow supports."""


def placement_of(upstream: UpstreamConfig, config: Config) -> TokenPlacement:
    if upstream.token_placement is not None or upstream.credential is None:
        return upstream.token_placement or BEARER_PLACEMENT
    return config.credentials[upstream.credential].placement


def problems(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield each problem of a valid `config`. The other checks rely on its names."""
    unknown = list(unknown_names(config))
    checks = (unreachable_settings, unsafe_settings, forgotten_limits, different_keys, conflicts, unusable_files)
    yield from unknown or (problem for check in checks for problem in check(config))


def conflicts(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield settings that are valid alone but not together.

    These are: operations that RAGFlow does not support, settings that are never used, keys of one caller that differ,
    and static headers and parameters with the name of one that carries the token.
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
    for path, settings in settings_of_callers(config):
        if settings.models is not None and settings.uses_any_model:
            yield (*path, "operations"), BATCH_OF_ANY_MODEL
    servers = [("mcp", name, server.as_upstream()) for name, server in config.mcp.items()]
    for block_name, name, upstream in (*(("upstreams", *one) for one in config.upstreams.items()), *servers):
        if upstream.credential is not None:
            placement = placement_of(upstream, config)
            if placement.query in upstream.query:
                fault = f"{placement.query} carries the token already (token_placement.query): remove one of them"
                yield (block_name, name, "query", placement.query), fault
            token_headers = {field.lower() for field in placement.templates}
            for field in upstream.headers:
                if field.lower() in token_headers:
                    fault = f"{field} carries the token already: a request has one of each name"
                    yield (block_name, name, "headers", field), fault


def different_keys(config: Config) -> Iterator[tuple[SettingPath, str]]:
    """Yield the settings in which a key differs from the first key of the same caller."""
    first: dict[str, tuple[int, AccessKey]] = {}
    for number, key in enumerate(config.access.keys):
        earlier, other = first.setdefault(key.name, (number, key))
        for setting in OF_CALLER:
            if getattr(key, setting) != getattr(other, setting):
                fault = f"differs from access.keys[{earlier}], which is a key of the same caller {key.name!r}"
                yield ("access", "keys", number, setting), f"{fault}: repeat the value there, or use another name"
    groups = {key.name: key.group for key in config.access.keys}
    for path, row in settings_of_callers(config):
        is_row = not isinstance(row, AccessKey)
        if is_row and groups.setdefault(row.name, row.group) != row.group:
            why = f"differs from that of another caller {row.name!r}, and metrics know both by this name"
            yield (*path, "group"), f"{why}: rename one of them, or write the same group at both"


def second_caller(config: Config) -> Iterator[str]:
    """Yield what a second caller closes to the first one. Clients that a profile names send whole conversations."""
    relays = any(one.protocols is None or "responses" in one.protocols for one in config.upstreams.values())
    callers = [key for key in config.access.keys if key.role != "viewer"]
    is_plain = any(key.operations is None and key.profile in (None, "plain") for key in callers)
    if relays and is_plain and len(names := storing(config.access.keys)) > 1:
        number = [key.name for key in config.access.keys].index(names[1])
        what = "stored responses (previous_response_id, conversation, prompt.id)"
        remedy = "for a key that needs them, list all that it uses in operations, with stored_responses"
        yield f"access.keys[{number}]: with a second caller, {what} are closed to keys without operations: {remedy}"


def issuers_apart(config: Config) -> Iterator[str]:
    """Yield each entry of `access.jwt` whose issuers may have one subject that is two callers."""
    for at, entry in enumerate(config.access.jwt):
        if len(set(map(entry.identity_issuer, entry.issuer))) > 1:
            what = "the same sub of two of its issuers is two callers, each with its own limits and sessions"
            yield f"access.jwt[{at}].issuer: {what}; only v1 and v2 of one Entra tenant are one"


def _idle_rows(setting: str, entry: JwtIssuer) -> Iterator[str]:
    """Yield each claim that no token can have, and each row that an earlier one hides."""
    seen, claims = set[tuple[str, str, str]](), {f"{setting}.require": one for one in entry.require or ()}
    for at, row in enumerate(entry.callers):
        place = f"{setting}.callers[{at}]"
        claims |= {f"{place}.claim": row.claim, f"{place}.name_from": row.name_from or ""}
        kind = "contains" if row.equals is None else "equals"
        values = {(row.claim, kind, one) for one in row.equals or (row.contains or "",)}
        if values <= seen:
            yield f"{place}: is never used: a row before it has the same claim and value"
        seen |= values
    for place, claim in claims.items():
        if found := _URL_CLAIM.match(claim):
            escaped = found[0].replace("\\.", ".").replace(".", "\\.") + claim[found.end() :]
            yield f"{place}: a dot leads into an object, and this looks like the name of one claim: write {escaped}"


_URL_CLAIM = re.compile(r"\w+://[^/]*(?<!\\)\.[^/]*")
"""A URL with a dot in its host, as Auth0 names claims."""


def likely_mistakes(config: Config) -> Iterator[str]:
    # a key without a profile is `plain`, as are many profiles
    profiles = {name for name, profile in BUILT_IN_PROFILES.items() if profile != PLAIN}
    for number, key in enumerate(config.access.keys):
        profile = profile_name(key.name)
        if profile in profiles and key.profile is None and key.role != "viewer":
            what = f"is named like the profile {profile} and does not use it"
            yield f"access.keys[{number}] {what}: set profile: {profile}, or profile: plain"
    for number, entry in enumerate(config.access.jwt):
        yield from _idle_rows(f"access.jwt[{number}]", entry)
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
