"""Draw what the inspector knows as text: the story of one request, and one line for a list. Values in, lines out.

Each text in the documents may come from a client or an upstream, so
`cleaned` must replace its control characters before. Knowledge that is absent is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from textwrap import wrap
from typing import Any, Literal, NamedTuple, TypeVar
from unicodedata import east_asian_width

import msgspec

from gatepass.cli.options import coloured, is_chinese, plural, printable
from gatepass.cli.options import translated as t
from gatepass.documents import Attempt, RequestFacts, Story, Summary
from gatepass.observability.story import SILENT_S, test_command
from gatepass.types import MCP_UPSTREAM, span

Document = TypeVar("Document")
WIDTH = 80
"""The columns of a story."""
SHORTEST_S = 0.00005
"""Shorter times would be shown as 0.0 ms."""
KIB = 1024
ERROR_STATUS = 400


def cleaned(document: Document) -> Document:
    """Return a document without a control character in any of its texts. Bodies keep their line breaks."""
    return msgspec.convert(_cleaned(msgspec.to_builtins(document)), type(document))


def _cleaned(value: Any, keep: str = "") -> Any:
    if isinstance(value, str):
        return printable(value, keep)
    if isinstance(value, Mapping):
        return {printable(name): _cleaned(one, "\n" if name == "bodies" else keep) for name, one in value.items()}
    return [_cleaned(one, keep) for one in value] if isinstance(value, list | tuple) else value


def duration(seconds: float | None) -> str:
    """Return a time with its unit: `0.4 ms`, `210 ms`, `1.20 s`."""
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def size(size_bytes: int) -> str:
    if size_bytes < 10 * KIB:
        return plural(size_bytes, "byte")
    return f"{size_bytes / KIB:.0f} KiB" if size_bytes < KIB * KIB else f"{size_bytes / KIB / KIB:.1f} MiB"


def _span(seconds: float) -> str:
    return " ".join(map(t, span(seconds).split()))


def wrapped(text: str, begin: str = "  ", rest: str | None = None) -> list[str]:
    """Return `text` in lines of WIDTH columns, the first after `begin`, others after `rest`. No word is broken."""
    rest = begin if rest is None else rest
    return wrap(
        text, WIDTH, initial_indent=begin, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


# --- the way of the request


class Hop(NamedTuple):
    """One part that the request passed, once for each attempt that did.

    `failed` is the part of the final error, `left` one that gatepass gave up, `gone` a client that closed first.
    """

    name: str
    state: Literal["passed", "failed", "gone", "left", "unreached", "running"]
    note: str = ""
    facts: Sequence[str] = ()


_MARKS: Mapping[str, tuple[str, str, str]] = {
    "passed": ("●", "", ""),
    "failed": ("✗", "red", "failed here"),
    "gone": ("✗", "red", "closed first"),
    "left": ("✗", "yellow", ""),
    "unreached": ("○", "", ""),
    "running": ("◌", "cyan", ""),
}
_CAUSES: Mapping[str, str] = {
    "new_token": "sent again with a new token, because the upstream rejected the first one",
    "new_connection": "sent again on a new connection, because the reused one was closed",
    "learned_rule": "sent again with a rule learned from the error",
    "next_target": "sent again at the next target",
    "retry": "sent again after a pause, because `retry` of the model allows it",
}


LEFT = {"client_gone": "client gone", "unread": "client did not read"}
"""The outcomes of requests whose client did not receive all of a response without an error."""


def _who(request: RequestFacts) -> str:
    if request.user:
        return f"{request.caller}/{request.user}"
    return f"{request.caller} (JWT)" if request.auth and request.caller else request.caller


def way(story: Story) -> list[Hop]:
    """Return the parts in the order in which the request passed them, with the one that failed."""
    error, attempts = story.error, story.attempts
    failed_hop = "client" if story.outcome in LEFT else "" if error is None else error.hop or ""
    client = ", ".join(filter(None, (_who(story) or story.peer, story.user_agent)))
    changes = {entry for one in attempts for entry in one.adapted}
    inside = [plural(len(changes), "change")] if changes else []
    added_s = story.timings.added_s
    inside += [] if added_s is None else [t("added {s}", s=duration(added_s))]
    hops = [Hop("client", "passed", client), Hop("gatepass", "passed", t(", ").join(inside))]
    for attempt in attempts:
        hops += _of_attempt(attempt, story, failed_hop if attempt is attempts[-1] else "")
    if failed_hop and all(hop.name != failed_hop for hop in hops):
        hops.append(Hop(failed_hop, "passed"))
    if failed_hop:
        at = max(place for place, hop in enumerate(hops) if hop.name == failed_hop)
        is_gone = failed_hop == "client" and story.closed_by == "client"
        hops[at] = hops[at]._replace(state="gone" if is_gone else "failed")
    return hops


def _of_attempt(attempt: Attempt, story: Story, failed_hop: str) -> Iterator[Hop]:
    """Yield the credential and the upstream of an attempt, if they are known. `failed_hop` is that of the last one."""
    token, has_token, is_last = attempt.token, attempt.reached, attempt is story.attempts[-1]
    failed_credential = failed_hop if failed_hop.startswith("credential:") and not has_token else ""
    name = f"credential:{token.credential}" if token else "" if has_token else failed_credential or "credential"
    lacks_subject = failed_credential not in ("", name)
    if lacks_subject:
        yield Hop(failed_credential, "passed", t("no token for the next credential"))
    if name:
        times = [] if token is None or token.age_s is None else [t("{s} old", s=f"{token.age_s:.0f} s")]
        if attempt.outcome == "token_rejected":
            times += [t("rejected")] + [t("no new one")] * (failed_hop == name)
        elif token is not None and token.left_s is not None:
            times.append(t("{s} left", s=f"{token.left_s:.0f} s"))
        note = t("token {facts}", facts=t(", ").join(times) or t("sent")) if has_token else t("no token")
        yield Hop(name, "passed" if has_token else "unreached" if lacks_subject else "left", note)
    outcome = (attempt.outcome or "").replace("_", " " if is_chinese() else "_")
    results = {"{status}": attempt.status, outcome: outcome, "{code}": attempt.code}
    if attempt.code == str(attempt.status):  # an upstream's code may be its status
        del results["{code}"]
    took = "" if attempt.duration_s is None else t(", ") + duration(attempt.duration_s)
    state: Any = "passed" if is_last else "left"
    note = t(" ").join(t(text, status=value, code=value) for text, value in results.items() if value) + took
    if not has_token or attempt.outcome == "nothing_written":
        state, note = "unreached", t("nothing sent") if has_token else t("not reached")
    elif is_last and story.state == "running":
        silent_s = _silent_s(attempt)
        state, note = "running", t("in progress") + (t(", silent for {s}", s=_span(silent_s)) if silent_s else "")
    facts = [*_facts(attempt, story.error.message if story.error else "")]
    yield Hop(f"upstream:{attempt.upstream}", state, note, facts)


def _facts(attempt: Attempt, message: str) -> Iterator[str]:
    """Yield the lines of an attempt below its result. Its reason is left out if the final `message` has it."""
    if attempt.upstream_model:
        yield t("model {name}", name=attempt.upstream_model)
    if attempt.cause:
        yield t(_CAUSES.get(attempt.cause, attempt.cause))
    if times := t(", ").join(_times(attempt)):
        yield times
    if attempt.reason and attempt.reason not in message:
        yield t("reason: {text}", text=attempt.reason)
    if attempt.tried:
        yield t("changes that were tried: {names}", names=", ".join(attempt.tried))
    if parts := attempt.parts:
        failed = [one.code or one.outcome for one in parts if one.outcome not in (None, "complete")]
        sent = t("{n} requests in one call, {failed} failed", n=len(parts), failed=len(failed))
        yield sent + t(": ") * bool(failed) + ", ".join(failed)
    if attempt.upstream_request_id:
        yield t("upstream's id") + t(": ") + attempt.upstream_request_id


def _times(attempt: Attempt) -> Iterator[str]:
    token, began_s = attempt.token, attempt.began_s
    times = {
        t("queue at position {n}", n=attempt.queue_position): attempt.queue_wait_s,
        t("token"): token.wait_s if token else 0.0,
        t("free connection"): attempt.pool_wait_s,
        t("connect"): attempt.connect_s or 0.0,
        t("until head"): attempt.head_s or 0.0,
        t("then a new token"): token.renewal_s if token else 0.0,
    }
    if began_s and began_s >= SHORTEST_S:
        yield t("began at {s}", s=duration(began_s))
    yield from (f"{name} {duration(length_s)}" for name, length_s in times.items() if length_s >= SHORTEST_S)
    if attempt.head_s is not None and attempt.connect_s is None:
        yield t("reused connection")


def _silent_s(attempt: Attempt) -> float:
    """Return for how long a stream has been silent at its end or until now; 0.0 for less than SILENT_S."""
    arrivals = attempt.arrivals
    silent_s = 0.0 if arrivals is None else arrivals.ended_s - arrivals.last_s
    return silent_s if silent_s > SILENT_S else 0.0


def way_lines(story: Story) -> Iterator[str]:
    hops = way(story)
    name_width = max(len(hop.name) for hop in hops)
    for name, state, note, facts in hops:
        mark, colour, end = _MARKS[state]
        line = f"  {mark} {name:<{name_width}}  {note}".rstrip() + (f"  ◀ {t(end)}" if end else "")
        yield coloured(line, colour) if colour else line
        for fact in facts:
            yield from wrapped(fact, "      ")


# --- errors and changes


def error_lines(story: Story) -> Iterator[str]:
    error, attempts = story.error, story.attempts
    if error is None:
        if story.state == "running" or story.outcome in LEFT:
            yield from _unfinished_lines(story)
        return
    action, command = error.action, error.test
    if is_chinese():
        yield f"  {error.sentence_zh}"
    for line in (error.cause or t("No message.")).splitlines():
        yield from wrapped(line)
    if (retry_after_s := error.retry_after_s) is not None:
        yield "  " + t("It asks the client to wait {s}.", s=f"{math.ceil(retry_after_s)} s")
    if action:
        yield from _to_do(error.action_zh if is_chinese() else action)
    if command and command not in action:
        yield "  " + t("Test the hop: ") + command
    replied = attempts[-1].status if attempts and attempts[-1].outcome == "error_reply" else None
    if (replied or ERROR_STATUS) < ERROR_STATUS <= (story.status or 0):
        text = "The upstream hid the error in a {reply}; the client got {status}."
        yield "  " + t(text, reply=replied, status=story.status)
    if error.page:
        yield "  " + t("Page: ") + error.page


def _to_do(action: str) -> list[str]:
    return wrapped(t("What to do: ") + action, "  ", "    ")


def _unfinished_lines(story: Story) -> Iterator[str]:
    """Yield why a request without an error has no whole response: it waits, or a side closed the connection."""
    attempts = story.attempts
    silent_s = _silent_s(attempts[-1]) if attempts else 0.0
    if story.closed_by == "gatepass":
        yield from wrapped(t("gatepass closed the connection, because the client did not read for 300 s."))
    elif silent_s:
        command = test_command(f"upstream:{attempts[-1].upstream}", story.model, story.operation) or "gatepass doctor"
        yield from wrapped(t("The upstream has sent nothing for {s}.", s=_span(silent_s)))
        yield from _to_do(t("Test the upstream with `{command}`, or ask its owner.", command=command))
    elif story.state == "ended":
        yield from wrapped(t("The client closed the connection before it had the whole response."))
        yield from _to_do(t("Compare the client's timeout with the times below."))


_OF_REPLY = ("embeddings", "ragflow", "repair", "reply", "sse", "unwrap")
_OF_REQUEST = (
    *("clamp", "content", "default", "drop", "drop_beta", "extra_body", "model", "rename", "rerank", "role", "roles"),
    *("arguments", "max_output_tokens", "schema", "set", "tool_ids", "tools"),
)
REASONS: Mapping[str, str] = {
    **dict.fromkeys(_OF_REQUEST, "required by the upstream or by a rule"),
    **dict.fromkeys(_OF_REPLY, "the upstream's answer is not what clients expect"),
    "images": "the API accepts images only in messages",
    "split": "the upstream limits the inputs of one request",
    "stream": "the client asked for the other form: a stream or a whole answer",
    "translate": "the upstream serves the request as a chat",
    "untranslated": "the translation has no equivalent",
    "translate=no-usage": "the upstream reported no usage",
}
"""Why a change is made: by its entry, or by the part before the `=`."""


def change_lines(story: Story) -> Iterator[str]:
    """Yield the changes of the last attempt, each with its reason."""
    attempts = story.attempts
    if not attempts:
        return
    learned = set[str]()
    for before, one in pairwise(attempts):
        if one.cause == "learned_rule":
            learned |= set(one.adapted) - set(before.adapted)
    for rule in attempts[-1].adapted:
        reason = REASONS.get(rule, REASONS.get(rule.partition("=")[0], ""))
        is_tried = rule in learned and attempts[-1].outcome == "error_reply"
        text = t(": ").join(filter(None, (rule, t("tried, did not help" if is_tried else reason))))
        more = t(" (learned from the error of this request)") * (rule in learned and not is_tried)
        yield from wrapped(text + more, "  ", "    ")


# --- times, sizes and bodies


def time_lines(story: Story) -> Iterator[str]:
    """Yield the times of the client, of the stream of the last attempt, and the sizes."""
    timings, arrivals = story.timings, [one.arrivals for one in story.attempts if one.arrivals]
    texts = {
        "client sent its body in {s}": timings.body_s,
        "first byte of the answer after {s}": timings.first_byte_s,
        "gatepass added {s}": timings.added_s,
    }
    known = [t(text, s=duration(length_s)) for text, length_s in texts.items() if length_s]
    yield from wrapped(t(", ").join(known))
    if arrivals and (reads := arrivals[-1].reads):
        read = t(", ").join([plural(reads, "read"), *([plural(story.events, "event")] if story.events else [])])
        first, last = (duration(at_s) for at_s in (arrivals[-1].first_s, arrivals[-1].last_s))
        yield "  " + t("{reads} from {first} to {last} of the attempt", reads=read, first=first, last=last)
        if gap := arrivals[-1].longest_gap:
            yield "  " + t("longest gap: {length} at {at}", length=duration(gap.length_s), at=duration(gap.at_s))
    sizes = {"{size} from the client": story.bytes_in, "{size} to the client": story.bytes_out}
    facts = [t(text, size=size(size_bytes)) for text, size_bytes in sizes.items()]
    named = {name.replace("_", " "): str(count) for name, count in (story.usage or {}).items() if count}
    named |= {"closed first by": t(story.closed_by)} if story.closed_by else {}
    named |= {"trace": story.trace_id} if story.trace_id else {}
    facts += [t("the answer is empty")] if story.empty_answer else []
    facts += [t(name) + t(": ") + value for name, value in named.items()]
    yield from wrapped(t(", ").join(facts))


BODY_CHARS = 2_000
"""The characters of each captured body that the text shows."""

_BODY_NAMES = {"request": "request of the client", "sent": "request to the upstream", "reply": "reply"}


def body_lines(story: Story) -> Iterator[str]:
    """Yield the beginning of each captured body. The request to the upstream is there if gatepass changed it."""
    bodies = story.bodies or ()
    for body in bodies:
        is_whole = len(body.text) <= BODY_CHARS
        more = t(" the first {n} characters of {size}, --json has all", n=BODY_CHARS, size=size(body.size_bytes))
        yield f"  {t(_BODY_NAMES[body.name])}{t(': ').rstrip()}{'' if is_whole else more}"
        yield from (f"    {line}" for line in body.text[:BODY_CHARS].rstrip().split("\n"))
    if any(one.cut for one in bodies):
        yield "  " + t("A body was too long to be captured whole.")


# --- the whole story


def story_lines(story: Story, now_s: float) -> Iterator[str]:
    """Yield the text of `gatepass show`. `now_s` is the time since the epoch."""
    yield from _head(story, now_s)
    sections = (
        ("Way", way_lines(story)),
        ("Error" if story.error else "Now" if story.state == "running" else "End", error_lines(story)),
        ("Changes", change_lines(story)),
        ("Times and sizes", time_lines(story)),
        ("Bodies", body_lines(story)),
    )
    for title, lines in sections:
        if shown := [*lines]:
            yield from ("", t(title), *shown)


def _head(story: Story, now_s: float) -> Iterator[str]:
    is_running, error = story.state == "running", story.error
    result = t("{status}", status=story.status) if story.status else t("no response")
    parts = [t("running") if is_running else result]
    if error is not None:
        at_hop = t("{code} at {hop}", code=error.code, hop=error.hop)
        parts = [at_hop] if error.code == str(story.status) else [*parts, at_hop]
    elif story.outcome in LEFT:
        parts.append(t(LEFT[story.outcome]))
    took_s = story.timings.duration_s if not is_running else story.duration_s
    if took_s is not None:
        parts.append(t("for {s}" if is_running else "after {s}", s=duration(took_s)))
    yield coloured(t(" ").join(parts), "cyan" if is_running else "green" if story.outcome == "ok" else "red")
    asked = asked_for(story)
    if asked != "stream":
        asked = f"{story.operation} {asked}".rstrip() if story.operation != "none" else ""
    stream = t("stream") if story.stream and asked != "stream" else ""
    yield from wrapped(t(", ").join(filter(None, (f"{story.method} {story.path}", asked, stream))), "")
    place = t("on {replica}", replica=story.replica) if story.replica else ""
    arrived = datetime.fromisoformat(story.arrived_at)
    age = t("{s} ago", s=_span(max(0.0, now_s - arrived.timestamp())))
    at = f"{arrived.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    yield from wrapped(t(", ").join(filter(None, (at, age, place))), "")
    yield f"id {story.id}"


def asked_for(summary: RequestFacts) -> str:
    """Return the model of a request. Of a message to an MCP server, return its method and the tool that it calls.

    `DELETE` is the end of a session, and `stream` a stream that waits for its events.
    """
    idle = "stream" if summary.operation == "mcp_stream" else ""
    return summary.model or " ".join(filter(None, (summary.mcp_method, summary.mcp_tool))) or idle


# --- lists

COLUMNS = (8, 6, 24, 13, 28, 7)
CHANGE_COLUMNS = 40
HEAD = ("UTC", "STATUS", "ID", "CALLER", "MODEL", "TIME", "UPSTREAM OR ERROR")


def list_line(cells: Sequence[str]) -> str:
    """Return the cells in COLUMNS. All but the id and the last are cut to them."""
    fitted = (
        text.ljust(columns) if head == "ID" else _fitted(text, columns)
        for head, text, columns in zip(HEAD, cells, COLUMNS, strict=False)
    )
    return " ".join([*fitted, cells[-1]]).rstrip()


def _fitted(text: str, columns: int) -> str:
    """Return `text` in as many columns, with `…` where it is cut. Chinese characters take two columns."""
    shown = text[:columns]
    while _width(shown) > columns - (shown != text):
        shown = shown[:-1]
    shown += "…" * (shown != text)
    return shown + " " * (columns - _width(shown))


def _width(text: str) -> int:
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def _in_short(changes: Sequence[str]) -> str:
    """Return the translation, or the first three changes, and how many more there are."""
    shown = [one for one in changes if one.startswith("translate=")][:1] or changes[:3]
    more = len(changes) - len(shown)
    return ",".join(_fitted(one, CHANGE_COLUMNS).rstrip() for one in shown) + (f" +{more}" if more else "")


def summary_line(summary: Summary) -> str:
    """Return one request of `gatepass tail`, coloured if it failed."""
    outcome = summary.outcome
    at = datetime.fromisoformat(summary.arrived_at).astimezone(UTC) + timedelta(seconds=summary.duration_s)
    if outcome == "error":
        # "CODE upstream:NAME": the code says what, the hop says where
        server = summary.upstream or ""
        beside = server if server.startswith(MCP_UPSTREAM) and server not in (summary.hop or "") else ""
        end = " ".join(filter(None, (summary.code or "error", summary.hop, beside)))
    else:
        tries = f"{summary.attempts} tries" if summary.attempts > 1 else ""
        gone = LEFT.get(outcome, "")
        empty = "empty" if summary.empty_answer else ""
        changes = _in_short(summary.adapted)
        end = " ".join(filter(None, (summary.upstream, gone, empty, tries, changes, summary.message)))
    server = summary.path.partition("/mcp/")[2]  # gatepass may have read no message
    asked = asked_for(summary) or (f"mcp/{server}" if server else "")
    took = duration(summary.duration_s).rjust(7)
    line = list_line((f"{at:%H:%M:%S}", str(summary.status or "-"), summary.id, _who(summary), asked, took, end))
    colour = "red" if outcome == "error" else "yellow" if outcome in LEFT else ""
    return coloured(line, colour) if colour else line
