"""Render what the inspector keeps: the story of one request, and its summary for lists. Values in, JSON values out.

`mask` hides secrets in texts that came from outside.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, overload
from urllib.parse import quote

import msgspec

from gatepass import errors
from gatepass.config.advice import explained
from gatepass.documents import (
    Attempt,
    AttemptToken,
    Gap,
    RequestError,
    RequestFacts,
    Story,
    StreamArrivals,
    Summary,
    Timings,
)
from gatepass.errors import WITHOUT_VERSION, documentation
from gatepass.observability.observer import AccessRecord, AttemptRecord, RequestRecord
from gatepass.observability.redaction import MASK
from gatepass.types import CLIENT_ERROR, MCP_UPSTREAM, SERVER_ERROR, AttemptFacts, settings_of, url_setting_of

FILTERS = ("caller", "model", "mcp_tool", "upstream", "hop", "outcome", "operation", "code", "kind")
"""The fields of a summary that a filter compares."""
TEXTS = (
    *("id", "model", "mcp_method", "mcp_tool", "caller", "user", "upstream", "code", "path", "message"),
    *("operation", "status", "hop", "state", "outcome", "adapted"),
)
"""The fields in which the filter `text` searches."""
LISTED, MOST_LISTED = 200, 1_000
"""How many requests a list has by default, and at most."""
SILENT_S = 30.0
"""The time without a piece after which a stream is called silent."""
MESSAGE_CHARS = 200
"""The beginning of an error's message that a summary has."""
UPSTREAM_CLOSED = ("cut", "error_reply", "token_rejected", "connection_failed")
"""The outcomes of an attempt that the upstream ended. Of a complete reply see `closed_by`."""
AT_ANOTHER = ("next_target", "retry")
"""The causes of an attempt after one that counts as a request of its upstream."""
CALL_OPERATIONS = ("completions", "embeddings", "rerank", "messages", "responses")
"""The operations besides chat that `gatepass doctor --operation` calls."""
CALL_OPTIONS = {
    "chat": " --call",
    **{name: f" --operation {name} --call" for name in CALL_OPERATIONS},
}
"""The options with which doctor calls each operation that it can call."""
DIGITS = 4

Mask = Callable[[str], str]


def moment(wall_s: float) -> str:
    """Return seconds since the epoch as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def summary_of(request: RequestRecord, now_s: float, wall_s: float, mask: Mask, *, captured: bool = False) -> Summary:
    """Return the summary of `request`. `now_s` and `wall_s` are the same moment by both clocks."""
    return Summary(attempts=request.access.attempts, **_facts(request, now_s, wall_s, mask, captured=captured))


def _facts(request: RequestRecord, now_s: float, wall_s: float, mask: Mask, *, captured: bool) -> dict[str, Any]:
    """Return the members of RequestFacts. Some have the name and the value of the access line."""
    access, is_ended = request.access, request.duration_s is not None
    names = (name for name in RequestFacts.__struct_fields__ if name in AccessRecord.__struct_fields__)
    facts = {name: _shown(getattr(access, name), mask) for name in names}
    if facts["upstream"] is None and request.attempt is not None:
        facts["upstream"] = request.attempt.upstream  # the log line has it at the end
    return facts | {
        "state": "ended" if is_ended else "running",
        "arrived_at": moment(wall_s - (now_s - request.arrived_s)),
        "ended": None if request.duration_s is None else round(request.arrived_s + request.duration_s, 6),
        "kind": request.kind or None,
        "message": mask(access.reason)[:MESSAGE_CHARS] if access.reason else None,
        "duration_s": _rounded(now_s - request.arrived_s if request.duration_s is None else request.duration_s),
        "first_byte_s": _rounded(request.first_byte_s),
        "bytes_out": max(0, access.bytes_out),
        "tokens_in": None if access.usage is None else access.usage.prompt_tokens,
        "tokens_out": None if access.usage is None else access.usage.completion_tokens,
        "captured": captured,
    }


def matches(summary: Summary, filters: Mapping[str, str]) -> bool:
    """Return whether a summary passes the filters: fields that are equal, and each word of `text` in any of TEXTS."""
    if any(str(getattr(summary, name) or "") != filters[name] for name in FILTERS if name in filters):
        return False
    shown = "\n".join(str(getattr(summary, name) or "") for name in TEXTS).lower()
    return all(word in shown for word in filters.get("text", "").lower().split())


def is_failure(kind: str, status: int | None, case: str = "") -> bool:
    """Return whether an error of an upstream is a failure of it, as the alert GatepassErrorShare counts.

    A 4xx is none, because the client or a limit caused it, unless the token or `base_url` is wrong. A login page
    counts as a rejected token.
    """
    is_rejection = status is not None and CLIENT_ERROR <= status < SERVER_ERROR
    return not is_rejection or kind in (errors.UpstreamAuth.code, errors.UpstreamHtml.code) or case in WITHOUT_VERSION


def was_passed_over(attempt: AttemptRecord, later: AttemptRecord) -> bool:
    """Return whether `later` follows `attempt` because that failed at its upstream."""
    is_next = later.cause in AT_ANOTHER and attempt.outcome != "nothing_written"
    return is_next and is_failure(attempt.kind, attempt.status)


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


def token_wait_of(last: AttemptRecord | None) -> float:
    """Return how long the attempts of a request waited for tokens together."""
    return sum(one.token_wait_s + one.renewal_s for one in attempts_of(last))


def story_of(
    request: RequestRecord, now_s: float, wall_s: float, mask: Mask, replica: str = "", *, captured: bool = False
) -> Story:
    access = request.access
    attempts = [*attempts_of(request.attempt)][::-1]
    token_wait_s = token_wait_of(request.attempt)
    # the wait for a token is the time of the credential
    added_s = None if request.added_s is None else max(0.0, request.added_s - token_wait_s)
    return Story(
        **_facts(request, now_s, wall_s, mask, captured=captured),
        replica=replica,
        method=access.method,
        peer=access.peer,
        user_agent=mask(access.user_agent),
        closed_by=closed_by(request),
        error=_error_of(request, mask),
        attempts=[_attempt(one, request.arrived_s, now_s, mask) for one in attempts],
        timings=Timings(
            body_s=_rounded(request.body_s),
            token_wait_s=_rounded(token_wait_s),
            upstream_s=_rounded(sum(one.upstream_s for one in attempts)),
            added_s=_rounded(added_s),
            first_byte_s=_rounded(request.first_byte_s),
            duration_s=_rounded(request.duration_s),
        ),
        bytes_in=max(0, access.bytes_in),
        usage=msgspec.to_builtins(access.usage),
        upstream_request_id=_shown(access.upstream_request_id, mask),
        trace_id=access.trace_id or None,
    )


def closed_by(request: RequestRecord) -> str | None:
    """Return who ended the request first: client, upstream or gatepass.

    None while it runs, and if no connection to the upstream could be opened.
    """
    access, attempt = request.access, request.attempt
    if not access.outcome:
        return None
    if access.outcome in ("client_gone", "unread"):
        return "client" if access.outcome == "client_gone" else "gatepass"
    outcome = "" if attempt is None else attempt.outcome
    if outcome == "connection_failed" and attempt is not None and attempt.code != "upstream_closed":
        return None
    # a request that fails after a complete reply was stopped by gatepass
    is_upstreams = outcome in UPSTREAM_CLOSED or (outcome == "complete" and access.outcome == "ok")
    return "upstream" if is_upstreams else "gatepass"


def _error_of(request: RequestRecord, mask: Mask) -> RequestError | None:
    access, last = request.access, request.attempt
    if access.code is None:
        return None
    kind, hop = request.kind, access.hop or ""
    credential = "" if last is None or last.token is None else last.token.credential
    names = names_of(hop, access.operation, mask(access.model), credential)
    names |= {name: mask(value) for name, value in request.names.items()}
    return RequestError(
        code=mask(access.code),
        hop=access.hop,
        message=mask(reason := access.reason or ""),
        cause=mask(f"{reason[: len(reason) - request.advice_chars].rstrip()} {request.detail}".rstrip()),
        retry_after_s=_rounded(request.retry_after_s),
        kind=kind,
        case=request.case,
        test=test_command(hop, mask(access.model), access.operation),
        **advice_of(kind, hop, request.case, mask(request.setting), names),
        page=documentation(f"docs/reference/errors.md#{kind}"),
    )


def test_command(hop: str, model: str, operation: str) -> str:
    """Return the command that tests the hop alone, "" if there is none."""
    part, _, name = hop.partition(":")
    if part == "credential":
        return f"gatepass token {shlex.quote(name)}"
    if part == "upstream" and name.startswith(MCP_UPSTREAM):
        return "gatepass doctor"
    if part != "upstream" or not model:
        return ""
    # doctor has no call for the other operations, and would test the model's route of chats
    option = CALL_OPTIONS.get(operation)
    return "gatepass doctor" if option is None else f"gatepass doctor {shlex.quote(model)}{option}"


def advice_of(kind: str, hop: str, case: str, setting: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return what an error means and what to do, as errors.json has it, with the names of its request.

    The Chinese texts have the same names with `_zh`.
    """
    if not case and kind == errors.UpstreamInvalid.code and hop.startswith(f"upstream:{MCP_UPSTREAM}"):
        case = "mcp_invalid"
    values = {**names, "setting": setting} if setting else names
    found = explained(case or kind, values)
    if not found["sentence"]:
        found = explained(kind, values) | {name: text for name, text in found.items() if text}
    return {name: found[name] for name in ("sentence", "action", "sentence_zh", "action_zh")}


def names_of(hop: str, operation: str, model: str, credential: str = "") -> dict[str, str]:
    """Return the values of placeholders of errors.json that a request gives. One that is not known is left out."""
    part, _, name = hop.partition(":")
    names: dict[str, str] = {}
    if credential := name if part == "credential" else credential:
        names["credential"] = credential
    if part == "upstream":
        url, is_mcp = url_setting_of(name), name.startswith(MCP_UPSTREAM)
        placed = f"credentials.{credential or 'NAME'}" if is_mcp else settings_of(name)
        names |= {"upstream": settings_of(name), "upstream_name": name, "url": url, "server_url": url}
        names["token_placement"] = f"{placed}.token_placement"
    if operation:
        names["operation"] = operation
    if model:
        names |= {"model": model, "quoted_model": shlex.quote(model)}
        if operation and operation not in CALL_OPTIONS:
            names["names_listed"] = ""
    return names


def _attempt(record: AttemptRecord, arrived_s: float, now_s: float, mask: Mask) -> Attempt:
    ended_s = record.began_s + record.duration_s if record.outcome else now_s
    return Attempt(
        **{name: _shown(getattr(record, name), mask) for name in AttemptFacts.__struct_fields__},
        upstream=mask(record.upstream),
        upstream_model=_shown(record.upstream_model, mask),
        outcome=record.outcome or None,
        reached=record.kind != errors.TokenUnavailable.code or record.status is not None,
        began_s=_rounded(record.began_s - arrived_s),
        duration_s=_rounded(record.duration_s) if record.outcome else None,
        token=_token(record),
        arrivals=_arrivals(record, ended_s),
        parts=[_attempt(part, arrived_s, now_s, mask) for one in record.parts for part in [*attempts_of(one)][::-1]],
    )


def _token(record: AttemptRecord) -> AttemptToken | None:
    """Return the times of the token that was sent. None if the upstream has no credential, or none was asked."""
    token = record.token
    if token is None:
        return None
    age_s = left_s = None
    if token.sent_s is not None and token.lifetime_s is not None:
        age_s = token.sent_s - token.requested_s
        left_s = token.lifetime_s - age_s
    return AttemptToken(
        credential=token.credential,
        age_s=_rounded(age_s),
        left_s=_rounded(left_s),
        wait_s=_rounded(record.token_wait_s),
        renewal_s=_rounded(record.renewal_s),
    )


def _arrivals(record: AttemptRecord, ended_s: float) -> StreamArrivals | None:
    """Return the reads of a stream until `ended_s`. Unless it was complete, the silence at its end is a gap too."""
    if (arrivals := record.arrivals) is None:
        return None
    began_s, length_s, at_s = record.began_s, arrivals.gap_s, arrivals.gap_at_s
    if record.outcome != "complete" and ended_s - arrivals.last_s > length_s:
        length_s, at_s = ended_s - arrivals.last_s, arrivals.last_s
    return StreamArrivals(
        reads=arrivals.reads,
        first_s=_rounded(arrivals.first_s - began_s),
        last_s=_rounded(arrivals.last_s - began_s),
        ended_s=_rounded(ended_s - began_s),
        longest_gap=Gap(_rounded(at_s - began_s), _rounded(length_s)) if length_s else None,
    )


def _shown(value: Any, mask: Mask) -> Any:
    """Return a member of a record as JSON: texts masked, times rounded."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, tuple):
        return [mask(one) for one in value]
    return _rounded(value) if isinstance(value, float) else value


@overload
def _rounded(seconds: float) -> float: ...
@overload
def _rounded(seconds: float | None) -> float | None: ...
def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, DIGITS)


DATA_BYTES = 100_000
"""The longest body in an argument of curl. Linux accepts 128 KiB."""
NO_CURL = (
    "A curl command requires the whole captured body, as printable text of up to 100,000 bytes. Capture the request"
    " first: gatepass capture."
)


def curl_command(story: Story, root_url: str) -> str | None:
    """Return the command that sends the request of `story` again, or None (NO_CURL).

    `root_url` is the URL of gatepass's root, without a slash at its end. The command reads the key from
    `$GATEPASS_KEY`.
    """
    body = next((one.text for one in story.bodies or () if one.name == "request" and not one.cut), None)
    if body is None or not all(char.isprintable() or char in "\n\t" for char in body):
        return None
    quoted = shlex.quote(body)
    if len(quoted.encode()) > DATA_BYTES:
        return None
    url = shlex.quote(root_url + "".join(char if char.isprintable() else quote(char) for char in story.path))
    parts = [
        f"curl -sS -N -X {story.method} {url}",
        '-H "authorization: Bearer $GATEPASS_KEY"',
        "-H 'content-type: application/json'",
        f"--data-raw {quoted}",
    ]
    comment = f"# {MASK} in the body stands for a secret.\n" if MASK in body else ""
    return comment + " \\\n  ".join(parts)
