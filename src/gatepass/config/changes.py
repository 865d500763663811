"""The settings that this minor version removed. `load` ignores them, and names them. docs/upgrade.md lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gatepass.config.document import ConfigDocument, ConfigProblem, lookup, matches
from gatepass.config.references import PREFIX

REMOVED_SINCE = "was removed in 0.2.0"
_GONE: Sequence[tuple[str, str]] = (
    (
        "log.bodies",
        "Run `gatepass capture`: it keeps whole bodies in memory for a while, and `gatepass show ID` shows them.",
    ),
    (
        "credentials.*.sign",
        "Write a program (`type: exec`) that signs the login. The page Tokens has one for an HMAC.",
    ),
    ("credentials.*.preset", "Write the request itself: the page Tokens has the recipe of each former preset."),
    (
        "credentials.*.apikey credentials.*.domain credentials.*.project",
        "Remove it together with `preset`, and write its value into the request.",
    ),
    ("credentials.*.exec_credential", "Set `KUBERNETES_EXEC_INFO` in `env`, as the page Tokens shows."),
    ("credentials.*.assertion_type", "Set `client_assertion_type` in `extra`, as the page Tokens shows."),
    ("credentials.*.role_session_name", "Remove it: the session is always named `gatepass`."),
    ("credentials.*.inherit", 'Write each variable into `env`: `env: {NAME: "${NAME}"}`.'),
    ("credentials.*.sts_url", "Remove it: the URL is always `https://sts.REGION.amazonaws.com/`."),
    ("credentials.*.subject_token_type", "Set `subject_token_type` in `extra`, as a URI."),
    (
        "profiles.*.places_usage profiles.*.splits_finish profiles.*.unwraps_keys profiles.*.typed_ids",
        "Set `extends: ragflow`, which has it.",
    ),
    ("profiles.*.rewords_errors", "Set `extends: ragflow`, which has it."),
    ("profiles.*.envelope profiles.*.plain_events", "Set `extends: dify`, which has it."),
    ("profiles.*.whole_numbers", "Set `extends: ragflow` or `extends: dify`, which have it."),
    ("profiles.*.only_chunks", "Set `extends: cline` or `extends: dify`, which have it."),
    ("profiles.*.fills_choices", "Set `extends: cline`, which has it."),
    ("profiles.*.plain_tools", "Set `extends: cherry_studio`, which has it."),
    ("profiles.*.drop_null", "List the members under `drop`, or set `extends: librechat` for a `strict` of null."),
    ("profiles.*.drop_for", "List the members under `rules.drop` of the models of that dialect."),
    ("limits.unauthenticated_connections", "Set `limits.connections`: clients without a key have a quarter of it."),
    ("access.keys.*.max_concurrent", "Write it into the limits of the key: `limits: {max_concurrent: 4}`."),
    ("limits.mcp_streams", "Set `limits.connections`: streams of MCP clients that only wait have a quarter of it."),
    (
        "limits.upload_bytes_per_s",
        "Remove it: a form needs 1 KiB per second on average, and pieces `limits.receive_s`.",
    ),
    (
        "upstreams.*.rejection.login_hosts mcp.*.rejection.login_hosts",
        "Remove it: a redirect to another host, or to a path such as `login`, rejects the token.",
    ),
    (
        "upstreams.*.rejection.login_page mcp.*.rejection.login_page",
        "Remove it: a login page always rejects the token.",
    ),
    ("upstreams.*.repair.one_id", "Remove it: chunks keep their ids."),
    (
        "upstreams.*.repair.without_choices",
        "Remove it: members of chunks without choices move into the next chunk with choices.",
    ),
    ("models.*.suggest", "Set `context_fallback`: it sends a request that is too long to another model."),
    ("tracing.service_name", "Set the variable `OTEL_SERVICE_NAME`."),
)
"""Patterns of settings with blanks between them, and what to do instead."""
REMOVED: Mapping[str, str] = {setting: text for settings, text in _GONE for setting in settings.split()}
VARIABLES: Mapping[str, str] = {
    setting.upper().replace(".", "_"): setting for setting in REMOVED if setting.startswith("limits.")
}
"""The variables of settings that are gone, without the prefix: those under `limits` had one."""
REJECTED = frozenset(("credentials.*.preset", "access.keys.*.max_concurrent"))
"""Those that are not ignored: a login without its preset has no request, and a caller must not lose its limit."""
REMOVED_VALUES: Mapping[str, str] = {
    "client_auth: secret_jwt": f"{REMOVED_SINCE}: Use `basic`, `form` or `private_key_jwt`, or a program (`type: exec`)"
}


def drop_removed(document: ConfigDocument, variables: Iterable[str]) -> None:
    """Drop each setting of REMOVED. Warn of it and of its variable; REJECTED ones are problems."""
    warnings: list[ConfigProblem] = []
    later = "A later minor version rejects it."
    for variable, setting in VARIABLES.items():
        if variable in variables:
            place = f"environment {PREFIX}{variable}: {setting}"
            document.warnings.append(f"{place} {REMOVED_SINCE}: {REMOVED[setting]} {later}")
    for setting, advice in REMOVED.items():
        text = f"{REMOVED_SINCE}: {advice}"
        is_of_base = advice.startswith("Set `extends: ")
        for path, _ in list(matches(document.tree, tuple(setting.split(".")))):
            block = lookup(document.tree, path[:-1])
            del block[path[-1]]
            base = f"`extends: {block.get('extends')}`"
            if setting in REJECTED:
                document.problems.append(ConfigProblem(path, text, document.origin(path), is_removed=True))
            elif is_of_base and base in advice:
                remedy = f"{REMOVED_SINCE}: Remove it: {base} has it. {later}"
                warnings.append(ConfigProblem(path, remedy, document.origin(path)))
            else:
                warnings.append(ConfigProblem(path, f"{text} {later}", document.origin(path)))
    document.warnings += map(str, sorted(warnings, key=lambda warning: warning.origin))
