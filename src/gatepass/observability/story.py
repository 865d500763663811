"""Render what the inspector keeps: the story of one request, and its summary for lists. Values in, JSON values out.

`mask` hides secrets in texts that came from outside.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import msgspec

from gatepass import errors
from gatepass.errors import documentation
from gatepass.observability.observer import GAPS, AttemptRecord, RequestRecord
from gatepass.observability.redaction import MASK
from gatepass.types import MCP_UPSTREAM, TOO_LONG, TOO_LONG_TEXT, RuleEdit, settings_of, url_setting_of

NOT_FOUND = 404
SUMMARY_FIELDS = (
    *("id", "operation", "caller", "model", "mcp_method", "mcp_tool"),
    *("upstream", "stream", "status", "outcome", "code", "hop"),
)
ATTEMPT_FIELDS = (
    *("number", "cause", "upstream", "upstream_model", "code", "reason", "status", "retry_after_s", "requests"),
    *("queue_position", "queue_wait_s", "pool_wait_s", "connect_s", "head_s", "upstream_s", "client_wait_s"),
    *("adapted", "tried", "renewed", "repeated_stale", "upstream_request_id"),
)
FILTERS = ("caller", "model", "mcp_tool", "upstream", "hop", "outcome", "operation", "code")
"""The fields of a summary that a filter compares."""
TEXTS = (
    *("id", "model", "mcp_method", "mcp_tool", "caller", "upstream", "code", "path", "message"),
    *("operation", "status", "hop", "state", "outcome", "adapted"),
)
"""The fields in which the filter `text` searches."""
LISTED, MOST_LISTED = 200, 1_000
"""How many requests a list has by default, and at most."""
SILENT_S = 30.0
"""The time without a piece after which a stream is called silent."""
SLOW_S = 5.0
"""The wait for the first byte from which on a request passes the filter `slow`."""
MESSAGE_CHARS = 200
"""The beginning of an error's message that a summary has."""
UPSTREAM_CLOSED = ("cut", "error_reply", "token_rejected", "connection_failed")
"""The outcomes of an attempt that the upstream ended. Of a complete reply see `closed_by`."""
AT_ANOTHER = ("next_target", "retry")
"""The causes of an attempt after one that counts as an error of its upstream."""
MODEL_NAME = "model of the route"
"""The `rule` of the edit that shows the upstream's name of the model."""
CALL_OPERATIONS = ("completions", "embeddings", "rerank", "messages", "responses")
"""The operations besides chat that `gatepass doctor --operation` calls."""
CALL_OPTIONS = {
    "chat": " --call",
    **{name: f" --operation {name} --call" for name in CALL_OPERATIONS},
}
"""The options with which doctor calls each operation that it can call."""
_CASES_WITHOUT_PATH = {"messages": "no_api", "responses": "no_api"}
"""The cases of a missing path for operations that chats can serve."""
DIGITS = 4
_TOO_LARGE = r"larger than|too (?:large|many)|more than \d|limits\.\w"
_NO_REPLY = r"closed the connection before its reply was complete \((?:without an answer|\[Errno )"
_NO_REASON = r" answered \d{3}\b.{0,40} with (?:an empty body\.|a body without )"
_SENTENCES = (
    (_NO_REPLY, False, " If `base_url` begins with http://, the port may speak TLS: begin it with https:// then.", ""),
    (_NO_REASON, True, "Follow the upstream's message.", "Read the upstream's log: its answer has no reason."),
    (_TOO_LARGE, False, "If the message names a limit, check whether a setting raises it. Otherwise check", "Check"),
)
"""Sentences of actions that others replace if the message has the pattern, or if it does not."""
_TIMEOUT = r"\d s \((\S.*?\.timeouts\.[a-z_]+_s)\)"
_NAME_OF_MODEL = r"gatepass sent .*?\b[Ss]et (models\..+?\.name) to "
_UNABLE = (
    r"(?i)\b(?:(?:does|do) ?n[o']t|can(?:no|')t|unable to) (?:support|accept|process|handle|read)"
    r"(?! (?:(?:the|this) )?(?:requested )?(?:model|deployment))"
    r"|not supported (?:by|with|for|in|on) (?:the|this)\b.{0,200}\b(?:model|deployment)"
    r"|\bonly supports?\b|\bsupports? (?:only|at most|up to)\b|模型.{0,200}不支持|不支持(?!.{0,4}模型)"
)
"""Of a model that is known, and lacks an ability."""
_ROUTE_OF_MODEL = r"has no such path: .*?\bit \(models\.(.+)\.(upstream|targets)\) does not support"
_REJECTED = (
    r"(?s:.*)(?:(?P<no_credential>gatepass has no credential for it\.)"
    r"|(?P<variable_key>eplace the key in the environment variable )"
    r"|(?P<header_key>eplace the key in (?:upstreams|mcp)\.)"
    r"|(?P<static_key>eplace the key in credentials\.)"
    r"|(?P<new_token>, and (?:once|twice) more\b)"
    r"|the token of the credential ')"
)
"""The last words of gatepass itself about a rejected credential. The upstream's text before may have the same words."""
_CREDENTIAL = r"(?s:.*)\b(?:key|token) of the credential '([^\s']{1,200})'"
_PLACE_OF_KEY = r"(?s:.*)eplace the key in (?:the environment variable )?(.{1,500}?) by one that this upstream issued"
_REFUSED = r"(?s:.*)\bnext attempt in .*?\. Check (?:the client and the secret in )?(credentials\..+?)\. After a"
"""The last words of a TokenUnavailable whose issuer refused, with the settings to check."""
_REFUSED_SETTINGS = "`credentials.NAME.client_id`, `credentials.NAME.client_secret`, `credentials.NAME.client_auth`"
_COMPARED_SETTINGS = "`credentials.NAME.scope`, `credentials.NAME.audience`, `upstreams.NAME.token_placement`"
_COMPARED = r"(?s:.*)Compare these settings with what this upstream requires: (.{1,500}?)\. `gatepass token "
_PROXY_REFUSES = r"The proxy in front of \S+ refuses\b"
_PROXY_SETTING = r"(?:[\w./-]+\.)?network\.proxy(?:_auth)?\b"
_CA_SETTING = r"[\w./-]+\.network\.ca_file\b"

Mask = Callable[[str], str]


def moment(wall_s: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def summary_of(request: RequestRecord, now_s: float, wall_s: float, mask: Mask) -> dict[str, Any]:
    """Return the summary of `request`. `now_s` and `wall_s` are the same moment by both clocks.

    `ended` is a moment of `Clock.now`: it orders requests and never jumps.
    """
    access, arrived = request.access, wall_s - (now_s - request.arrived_s)
    is_ended = request.duration_s is not None
    shown = {name: _shown(getattr(access, name), mask) for name in SUMMARY_FIELDS}
    if shown["upstream"] is None and request.attempt is not None:
        shown["upstream"] = request.attempt.upstream  # the log line has it at the end
    return {
        **shown,
        "path": mask(access.path),
        "state": "ended" if is_ended else "running",
        "arrived_at": moment(arrived),
        "ended": None if request.duration_s is None else round(request.arrived_s + request.duration_s, 6),
        "attempts": access.attempts,
        "message": _shown(access.reason, mask)[:MESSAGE_CHARS] if access.reason else None,
        "adapted": _shown(access.adapted, mask),
        "duration_s": _rounded(request.duration_s if is_ended else now_s - request.arrived_s),
        "first_byte_s": _rounded(request.first_byte_s),
        "bytes_out": max(0, access.bytes_out),
        "tokens_in": None if access.usage is None else access.usage.prompt_tokens,
        "tokens_out": None if access.usage is None else access.usage.completion_tokens,
        "events": access.events,
        "empty_answer": access.empty_answer,
        "captured": False,
    }


def matches(summary: Mapping[str, Any], filters: Mapping[str, str]) -> bool:
    """Return whether a summary passes the filters: fields that are equal, and each word of `text` in any of TEXTS.

    With `slow` it has waited SLOW_S for its first byte, with `changed` a rule changed it. `kind` is its code, or
    gatepass's own code of an upstream's error, `upstream_error`.
    """
    if any(str(summary[name] or "") != filters[name] for name in FILTERS if name in filters):
        return False
    code = summary["code"] or ""  # a request that succeeded has no code, and no stable one either
    if "kind" in filters and filters["kind"] not in (code, code and errors.stable_code(code, summary["hop"] or "")):
        return False
    if "changed" in filters and not summary["adapted"]:
        return False
    waited_s = summary["duration_s"] if summary["first_byte_s"] is None else summary["first_byte_s"]
    if "slow" in filters and (waited_s or 0.0) < SLOW_S:
        return False
    shown = "\n".join(str(summary[name] or "") for name in TEXTS).lower()
    return all(word in shown for word in filters.get("text", "").lower().split())


def is_unknown_name(last: AttemptRecord, code: str, hop: str, status: int, message: str) -> bool:
    """Return whether the error of the last attempt is a 404 for a model that only the client named."""
    if status != NOT_FOUND or not issubclass(errors.kind_of(code, hop), errors.UpstreamErrorReply) or last.names_model:
        return False
    # with a wrong URL in the configuration the upstream lacks the path
    is_clients = last.upstream_model in (None, last.model)
    return is_clients and case_of(code, hop, status, message) not in ("no_path", "mcp_no_path")


def failed_at(request: RequestRecord, upstream: str) -> bool:
    """Return whether `Metrics` counts `request` as an error of `upstream`."""
    access, attempts = request.access, [*attempts_of(request.attempt)]
    if not attempts or not attempts[0].requests:
        return False
    last, code, hop = attempts[0], access.code or "", access.hop or ""
    if hop == f"upstream:{upstream}" == f"upstream:{last.upstream}" and access.outcome == "error":
        return not is_unknown_name(last, code, hop, access.status or 0, access.reason or "")
    return any(later.cause in AT_ANOTHER and one.upstream == upstream for later, one in pairwise(attempts))


def has_id(request: RequestRecord, wanted: str) -> bool:
    """Return whether `wanted` is the request's id, or one of the ids of the upstream's replies."""
    return request.access.id == wanted or any(
        wanted in (one.upstream_request_id or "").split(",") for one in attempts_of(request.attempt)
    )


def attempts_of(last: AttemptRecord | None) -> Iterator[AttemptRecord]:
    """Yield the attempts of a request, the last one first."""
    while last is not None:
        yield last
        last = last.after


def story_of(request: RequestRecord, now_s: float, wall_s: float, mask: Mask) -> dict[str, Any]:
    """Return the whole story of `request`. Times are seconds since it arrived."""
    access = request.access
    attempts = [*attempts_of(request.attempt)][::-1]
    asked = {(one.upstream, one.upstream_model or one.model) for one in attempts}
    token_wait_s = sum(one.token_wait_s for one in attempts)
    # the wait for a token is the time of the credential
    added_s = None if request.added_s is None else max(0.0, request.added_s - token_wait_s)
    return {
        **summary_of(request, now_s, wall_s, mask),
        "method": access.method,
        "peer": access.peer,
        "user_agent": mask(access.user_agent),
        "closed_by": closed_by(request),
        "error": _error_of(request, mask),
        "attempts": [_attempt(one, request.arrived_s, now_s, mask) for one in attempts],
        "not_tried": [
            msgspec.to_builtins(one)
            for one in (attempts[-1].not_tried if attempts else ())
            if (one.upstream, one.model) not in asked
        ],
        "timings": {
            "body_s": _rounded(request.body_s),
            "token_wait_s": _rounded(token_wait_s),
            "upstream_s": _rounded(sum(one.upstream_s for one in attempts)),
            "added_s": _rounded(added_s),
            "first_byte_s": _rounded(request.first_byte_s),
            "duration_s": _rounded(request.duration_s),
        },
        "bytes_in": max(0, access.bytes_in),
        "usage": msgspec.to_builtins(access.usage),
        "upstream_request_id": _shown(access.upstream_request_id, mask),
        "trace_id": access.trace_id or None,
    }


def closed_by(request: RequestRecord) -> str | None:
    """Return who ended the request first: client, upstream or gatepass.

    None while it runs, and if no connection to the upstream could be opened.
    """
    access, attempt = request.access, request.attempt
    if not access.outcome:
        return None
    if access.outcome == "client_gone":
        return "gatepass" if request.gave_up else "client"
    outcome = "" if attempt is None else attempt.outcome
    if outcome == "connection_failed" and attempt is not None and attempt.code != "upstream_closed":
        return None
    # a request that fails after a complete reply was stopped by gatepass
    is_upstreams = outcome in UPSTREAM_CLOSED or (outcome == "complete" and access.outcome == "ok")
    return "upstream" if is_upstreams else "gatepass"


def _error_of(request: RequestRecord, mask: Mask) -> dict[str, Any] | None:
    access, last = request.access, request.attempt
    if access.code is None:
        return None
    kind, hop, message = errors.stable_code(access.code, access.hop or ""), access.hop or "", mask(access.reason or "")
    case = case_of(access.code, hop, access.status or 0, access.reason or "", access.operation, access.adapted)
    credential = "" if last is None or last.token is None else last.token.credential
    names = names_of(hop, access.operation, mask(access.model), credential, message)
    return {
        "code": mask(access.code),
        "hop": access.hop,
        "message": message,
        "retry_after_s": _rounded(request.retry_after_s),
        "kind": kind,
        "case": case,
        "names": names,
        "test": test_command(hop, mask(access.model), access.operation),
        "action": action_of(access.code, hop, case, names),
        "page": documentation(f"docs/reference/errors.md#{kind}"),
    }


def test_command(hop: str, model: str, operation: str) -> str:
    """Return the command that tests the hop alone, "" if there is none."""
    part, _, name = hop.partition(":")
    if part == "credential":
        return f"gatepass token {shlex.quote(name)}"
    if part == "upstream" and name.startswith(MCP_UPSTREAM):
        return "gatepass doctor"
    if part != "upstream" or not model:
        return ""
    # doctor has no call for the other operations, and tests the way to the upstream
    option = CALL_OPTIONS.get(operation, "")
    return f"gatepass doctor {shlex.quote(model)}{option}"


def case_of(code: str, hop: str, status: int, message: str, operation: str = "", adapted: Collection[str] = ()) -> str:
    """Return the case of an error in errors.json; "" if the action of its code applies.

    `adapted` has the changes of the request: a chat may have served it.
    """
    kind, is_mcp = errors.stable_code(code, hop), hop.startswith(f"upstream:{MCP_UPSTREAM}")
    if kind == errors.UpstreamInvalid.code:
        large = ("long_lines" if "long lines" in message else "too_large") if re.search(_TOO_LARGE, message) else ""
        return "mcp_invalid" if is_mcp else large
    # the words of the message are those for a login page
    if kind == errors.UpstreamHtml.code and status >= 500 and "instead of JSON" not in message:
        return "page_504" if status == 504 else "page_5xx"
    if kind == errors.UpstreamConnect.code and re.match(_PROXY_REFUSES, message):
        return "proxy_refuses"
    if kind == errors.InvalidImage.code and "ragflow.images" in message:
        return "ragflow_images"
    if kind == errors.TokenUnavailable.code and re.match(_REFUSED, message):
        return "refused"
    if kind not in (errors.UpstreamErrorReply.code, errors.UpstreamAuth.code):
        return ""
    if found := re.match(_REJECTED, message):
        return found.lastgroup or ""
    if "has no such path" in message:  # gatepass adds this to the upstream's text
        case = "mcp_no_path" if is_mcp else _CASES_WITHOUT_PATH.get(operation, "no_path")
        return "no_chat" if case == "no_api" and any(one.startswith("translate=") for one in adapted) else case
    if not is_mcp and (code.lower() in TOO_LONG or TOO_LONG_TEXT.search(message)):
        return "too_long"
    if kind == errors.UpstreamErrorReply.code and status >= 500 and "model" not in message.lower():
        return "5xx"
    return "429" if status == 429 else ""


def action_of(code: str, hop: str, case: str, names: Mapping[str, str]) -> str:
    """Return the action of an error, with the `case` and `names` of its request."""
    known = errors.explanations()
    text = known[case or errors.stable_code(code, hop)].en.action
    if "upstreams.NAME.timeouts" in names:  # the path of the setting that ended the request
        text = text.partition(" If `timeouts` is set under")[0]
    if "models.NAME.name" not in names:
        text = text.partition(" If it does not know the model")[0]
    if "models.NAME.upstream" not in names:
        text = text.partition(" If the model is listed under")[0]
    for placeholder, name in names.items():
        text = text.replace(placeholder, name)
    return re.sub(r" `gatepass doctor MODEL --call`[^.]*\.", "", text)  # the model is not known


def names_of(hop: str, operation: str, model: str, credential: str, message: str) -> dict[str, str]:
    """Return what replaces the placeholders of an action, in any language, one after the other.

    `credential` is that of the last attempt, and each value is "" if it is not known. `message` is the error's: if it
    blames the proxy, the action names the setting of the proxy.
    """
    part, _, name = hop.partition(":")
    names = {"check --route NAME": f"check --route {shlex.quote(model or 'MODEL')}"}
    if route := re.search(_ROUTE_OF_MODEL, message):  # then `operations.NAME.upstream` is not used
        value = "OTHER" if route[2] == "upstream" else "[{upstream: OTHER}]"
        example = '{models: {"*": {upstream: NAME}}, operations: {rerank: {upstream: OTHER}}}'
        names["operations.NAME.upstream"] = f"models.{route[1]}.{route[2]}"
        names[example] = f"{{models: {{{route[1]}: {{{route[2]}: {value}}}}}}}"
    if "has no such path: it" in message:  # base_url has its version
        command = "docker compose -f … up -d --force-recreate gatepass"
        base = f"If every operation fails, correct `base_url`, then run `gatepass reload`, in Compose `{command}`. "
        names |= {f"{base}If only this one fails, set": "Set", base: ""}
    names |= {
        placeholder: ", ".join(f"`{setting}`" for setting in found[1].split(", "))
        for pattern, placeholder in ((_COMPARED, _COMPARED_SETTINGS), (_REFUSED, _REFUSED_SETTINGS))
        if (found := re.match(pattern, message))
    }
    if part == "upstream":
        url_setting = url_setting_of(name)
        names |= {
            sentence: text
            for pattern, is_there, sentence, text in _SENTENCES
            if (re.search(pattern, message) is not None) is is_there
        }
        if name.startswith(MCP_UPSTREAM):
            names["gatepass doctor MODEL --call"] = test_command(hop, model, operation)
            names["mcp.NAME.url"] = url_setting
        proxy = None if url_setting in message else re.search(_PROXY_SETTING, message)
        names |= {
            "`base_url`": f"`{proxy[0] if proxy else url_setting}`",
            "{upstream: NAME}": f"{{upstream: {name}}}",
            "upstreams.NAME.credential": f"{settings_of(name)}.credential",
            "upstreams.NAME.protocols": f"{settings_of(name)}.protocols",
        }
        if proxy and proxy[0].startswith(settings_of(name)):  # its own proxy, for which no_proxy has no effect
            own = f"{settings_of(name)}.network.proxy"
            names |= {"`network.proxy_auth`": f"`{own}_auth`", "`network.no_proxy: [HOST]`": f"`{own}: none`"}
        if found := re.search(_CA_SETTING, message):
            names["`network.ca_file`"] = f"`{found[0]}`"
        if found := re.match(_PLACE_OF_KEY, message):
            names |= dict.fromkeys(("credentials.NAME.token", "upstreams.NAME.headers.FIELD", "VARIABLE"), found[1])
        if limit := re.search(_TIMEOUT, message):
            names |= {"upstreams.NAME.timeouts": limit[1], "`timeouts.connect_s`": f"`{limit[1]}`"}
        if found := re.match(_CREDENTIAL, message):
            credential = found[1]
        names["upstreams.NAME.headers"] = f"{settings_of(name)}.headers"
        placed = "credentials.NAME" if name.startswith(MCP_UPSTREAM) else f"upstreams.{name}"
        names["upstreams.NAME.token_placement"] = f"{placed}.token_placement"
    if credential := name if part == "credential" else credential:
        names["gatepass token NAME"] = f"gatepass token {shlex.quote(credential)}"
        names["credentials.NAME"] = f"credentials.{credential}"
    if operation:
        names |= {"operations.NAME": f"operations.{operation}", "{rerank:": f"{{{operation}:"}
    if model:
        names["`gatepass doctor MODEL`"] = f"`gatepass doctor {shlex.quote(model)}`"
        names["doctor MODEL --call"] = f"doctor {shlex.quote(model)}{CALL_OPTIONS.get(operation, ' --call')}"
        # the message for a path that is missing has the setting of a listed model
        if (
            re.search(rf"model|deployment|模型|部署|{re.escape(model)}", message, re.IGNORECASE)
            and not re.search(_UNABLE, message)
            and "has no such path" not in message
        ):
            found = re.search(_NAME_OF_MODEL, message)  # then the message has one advice, and so has the action
            both = {f"models.NAME.{one}": f"models.{model}.{one}" for one in ("name", "upstream")}
            names |= both if found is None else {"models.NAME.name": found[1]}
            if found is not None and "for the client's model name" in found[0]:  # the configuration chose the name
                names["correct the name in the client, or "] = ""
    return names


def _attempt(record: AttemptRecord, arrived_s: float, now_s: float, mask: Mask) -> dict[str, Any]:
    ended_s = record.began_s + record.duration_s if record.outcome else now_s
    return {
        **{name: _shown(getattr(record, name), mask) for name in ATTEMPT_FIELDS},
        "outcome": record.outcome or None,
        "reached": record.code != errors.TokenUnavailable.code or record.status is not None,
        "began_s": _rounded(record.began_s - arrived_s),
        "duration_s": _rounded(record.duration_s) if record.outcome else None,
        "token": _token(record),
        "edits": [*_edits(record, mask)],
        "edits_left_out": record.edits.left_out,
        "arrivals": _arrivals(record, ended_s),
        "parts": [_attempt(part, arrived_s, now_s, mask) for one in record.parts for part in [*attempts_of(one)][::-1]],
    }


def _token(record: AttemptRecord) -> dict[str, Any] | None:
    """Return the times of the token that was sent. None if the upstream has no credential, or none was asked."""
    token = record.token
    if token is None:
        return None
    renewal_s = 0.0
    if record.outcome == "token_rejected" and record.head_s is not None:
        renewal_s = min(record.token_wait_s, max(0.0, record.duration_s - record.head_s))
    age_s = left_s = None
    if token.sent_s is not None and token.lifetime_s is not None:
        age_s = token.sent_s - token.requested_s
        left_s = token.lifetime_s - age_s
    return {
        "credential": token.credential,
        "age_s": _rounded(age_s),
        "left_s": _rounded(left_s),
        "wait_s": _rounded(record.token_wait_s - renewal_s),
        # a key that does not expire was only read again
        "renewal_s": 0.0 if token.sent_s is not None and token.lifetime_s is None else _rounded(renewal_s),
    }


def _arrivals(record: AttemptRecord, ended_s: float) -> dict[str, Any] | None:
    """Return the reads of a stream until `ended_s`. Unless it was complete, the silence at its end is a gap too."""
    if record.arrivals is None:
        return None
    timeline, began_s = record.arrivals.timeline(), record.began_s
    gaps = timeline.gaps
    if record.outcome != "complete" and (silence_s := ended_s - timeline.last_s) > 0:
        gaps = sorted((*gaps, (silence_s, timeline.last_s)), reverse=True)[:GAPS]
    return {
        "reads": sum(timeline.counts),
        "first_s": _rounded(timeline.first_s - began_s),
        "last_s": _rounded(timeline.last_s - began_s),
        "ended_s": _rounded(ended_s - began_s),
        "width_s": timeline.width_s,
        "counts": timeline.counts,
        "gaps": [{"at_s": _rounded(at_s - began_s), "length_s": _rounded(length_s)} for length_s, at_s in gaps],
    }


def _edits(record: AttemptRecord, mask: Mask) -> Iterator[dict[str, Any]]:
    """Yield the change of the model's name, which the route makes, and those of rules."""
    before, after = record.model, record.upstream_model
    if after is not None and after != before:
        before_bytes, after_bytes = (len(msgspec.json.encode(name)) for name in (before, after))
        edit = RuleEdit(MODEL_NAME, "model", '"', before_bytes, '"', after_bytes)
        yield {**_edit(edit, mask), "before_text": before, "after_text": after}
    yield from (_edit(one, mask) for one in record.edits.listed)


KINDS: Mapping[str, str] = MappingProxyType(
    {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}
)


def _edit(edit: RuleEdit, mask: Mask) -> dict[str, Any]:
    def value(plain: str, size_bytes: int) -> dict[str, Any] | None:
        if not plain:
            return None
        kind = KINDS.get(plain[:1], "number")
        is_shown = kind in ("boolean", "number", "null") and len(plain) == size_bytes
        return {"type": kind, "size_bytes": size_bytes, **({"value": mask(plain)} if is_shown else {})}

    return {
        "rule": mask(edit.rule),
        "path": mask(edit.path),
        "before": value(edit.before, edit.before_bytes),
        "after": value(edit.after, edit.after_bytes),
        "moved_to": mask(edit.moved_to) or None,
    }


def _shown(value: Any, mask: Mask) -> Any:
    """Return a member of a record as JSON: texts masked, times rounded."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, tuple):
        return [mask(one) for one in value]
    return _rounded(value) if isinstance(value, float) else value


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, DIGITS)


DELETE = 0x7F
"""The control character that `json.dumps` does not escape."""
DATA_OPTION_BYTES = 100_000
"""The longest body in an argument of curl. Linux accepts 128 KiB."""


def curl_command(story: Mapping[str, Any], root_url: str) -> str:
    """Return the command that sends the request of `story` again, perhaps after a line with a comment.

    `root_url` is the URL of gatepass's root, without a slash at its end. The command reads the key from
    `$GATEPASS_KEY`. Without a whole captured body in the story it reads the body from the file body.json.
    """
    whole = (one["text"] for one in story.get("bodies") or () if is_whole(one) and one["name"] == "request")
    body = next(whole, None)
    comment, before, data = "", "", []
    if body is not None:
        if MASK in body:
            comment = f"# {MASK} in the body stands for a secret.\n"
        quoted = shlex.quote("".join(map(_escaped, body)))
        if len(quoted.encode()) > DATA_OPTION_BYTES:
            before, data = f"printf %s {quoted} | ", ["--data-binary @-"]
        else:
            data = [f"--data-raw {quoted}"]
    elif story["method"] == "POST":
        if not story.get("captured"):
            reason = "The body was not captured (see `gatepass capture`)"
        elif "bodies" not in story:
            reason = "Only admins see the captured body"
        else:
            is_long = any(one["name"] == "request" and one["next"] for one in story["bodies"])
            reason = "The body is longer than what is shown" if is_long else "The body was not captured whole"
        comment = f"# {reason}: write it to body.json.\n"
        data = ["-d @body.json"]
    url, method = (
        shlex.quote("".join(char if char.isprintable() else quote(char, errors="replace") for char in text))
        for text in (f"{root_url}{story['path']}", story["method"])
    )
    parts = [f"{before}curl -sS -N -X {method} {url}", '-H "authorization: Bearer $GATEPASS_KEY"']
    parts += ["-H 'content-type: application/json'"] if data else []
    if str(story.get("operation", "")).startswith("mcp"):
        parts.append("-H 'accept: application/json, text/event-stream'")
        comment += "# The record has no MCP-Protocol-Version and no Mcp-Session-Id: add those of the client.\n"
        named = {"mcp-method": story.get("mcp_method"), "mcp-name": story.get("mcp_tool")}
        for name, text in named.items() if story["method"] == "POST" else ():
            # other texts are encoded in the header, and a server rejects one that differs from the body
            if text and text.isascii() and text.isprintable() and MASK not in text and text == text.strip():
                parts.append(f"-H {shlex.quote(f'{name}: {text}')}")
    return comment + " \\\n  ".join([*parts, *data])


def is_whole(body: Mapping[str, Any]) -> bool:
    """Return whether the text of a body in a story is all of it."""
    return body["next"] is None and not body["cut"]


def _escaped(char: str) -> str:
    """Return a character of a JSON text as the terminal may show it: a control character as JSON escapes it."""
    if char.isprintable() or char == "\n":
        return char
    return " " if char in "\r\t" else json.dumps(char)[1:-1] if ord(char) != DELETE else "\\u007f"
