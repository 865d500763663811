"""The settings that this minor version removed. `load` ignores them, and warns. docs/upgrade.md lists them."""

from __future__ import annotations

from collections.abc import Mapping

from gatepass.config.document import ConfigDocument, SettingPattern, dotted, lookup, matches

REMOVED: Mapping[str, str] = {
    "log.bodies": "`gatepass capture` keeps whole bodies in memory for a while, and `gatepass show ID` shows them.",
    "credentials.*.sign": "Write a program (`type: exec`) that signs the login. The page Tokens has one for an HMAC.",
    "credentials.*.preset": "Write the request itself: the page Tokens has the recipe of each former preset.",
    "credentials.*.apikey": "It was a part of `preset`.",
    "credentials.*.domain": "It was a part of `preset`.",
    "credentials.*.project": "It was a part of `preset`.",
    "credentials.*.exec_credential": "Set `KUBERNETES_EXEC_INFO` in `env`, as the page Tokens shows.",
    "credentials.*.assertion_type": "Set `client_assertion_type` in `extra`, as the page Tokens shows.",
    "credentials.*.role_session_name": "It is `gatepass`.",
    "credentials.*.inherit": 'Write each variable into `env`: `env: {NAME: "${NAME}"}`.',
    "credentials.*.sts_url": "It is `https://sts.REGION.amazonaws.com/`.",
    "credentials.*.subject_token_type": "Set `subject_token_type` in `extra`, as a URI.",
    "limits.unauthenticated_connections": "It is a quarter of `limits.connections`.",
    "upstreams.*.rejection.login_hosts": "A redirect to another host, or to a path such as `login`, rejects the token.",
    "upstreams.*.rejection.login_page": "A login page always rejects the token.",
    "upstreams.*.repair.one_id": "Chunks keep their ids.",
    "upstreams.*.repair.without_choices": "Members of chunks without choices move into the next chunk with choices.",
    "models.*.suggest": "`context_fallback` sends a request that is too long to another model.",
    "tracing.service_name": "The variable `OTEL_SERVICE_NAME` sets it.",
    "mcp.*.rejection.login_page": "A login page always rejects the token.",
    "mcp.*.rejection.login_hosts": "A redirect to another host, or to a path such as `login`, rejects the token.",
}
"""By pattern: what to do instead."""
REJECTED = frozenset(("credentials.*.preset",))
"""Those that are not ignored: a login without its preset has no request."""


def removal(setting: SettingPattern) -> str | None:
    """Return what became of `setting`; None if it was not removed."""
    text = REMOVED.get(".".join(setting))
    return None if text is None else f"was removed in 0.2.0: {text}"


def drop_removed(document: ConfigDocument) -> None:
    """Drop each setting of REMOVED that is not REJECTED, and warn of it."""
    for setting in (one for one in REMOVED if one not in REJECTED):
        pattern = tuple(setting.split("."))
        for path, _ in list(matches(document.tree, pattern)):
            place = f"{document.origin(path)}: {dotted(path)}"
            document.warnings.append(f"{place}: {removal(pattern)} A later minor version rejects it.")
            del lookup(document.tree, path[:-1])[path[-1]]
