"""Draw what the inspector knows as text: the story of one request, and one line for a list. Values in, lines out.

Each text in the documents may come from a client or an upstream, so
`cleaned` must replace its control characters before. Knowledge that is absent is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from textwrap import wrap
from typing import Any, Literal, NamedTuple, TypeVar
from unicodedata import east_asian_width

import msgspec
from msgspec import UnsetType

from gatepass.cli.options import coloured, is_chinese, printable
from gatepass.documents import Attempt, Edit, EditedValue, RequestFacts, Story, Summary
from gatepass.observability.story import SILENT_S, test_command
from gatepass.types import counted, settings_of, span

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
        return f"{size_bytes} byte{'s'[: size_bytes != 1]}"
    return f"{size_bytes / KIB:.0f} KiB" if size_bytes < KIB * KIB else f"{size_bytes / KIB / KIB:.1f} MiB"


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
    "failed": ("✗", "red", "  ◀ failed here"),
    "gone": ("✗", "red", "  ◀ closed first"),
    "left": ("✗", "yellow", ""),
    "unreached": ("○", "", ""),
    "running": ("◌", "cyan", ""),
}
_CAUSES: Mapping[str, str] = {
    "new_token": "with a new token, because the upstream rejected the first one",
    "new_connection": "on a new connection, because the reused one was closed",
    "learned_rule": "with a rule learned from the error",
    "next_target": "at the next target",
    "retry": "after a pause, because `retry` of the model allows it",
}


def way(story: Story) -> list[Hop]:
    """Return the parts in the order in which the request passed them, with the one that failed."""
    error, attempts = story.error, story.attempts
    failed_hop = "client" if story.outcome == "client_gone" else "" if error is None else error.hop or ""
    client = ", ".join(filter(None, (story.caller or story.peer, story.user_agent)))
    changes = {entry for one in attempts for entry in one.adapted}
    inside = [f"{len(changes)} change{'s'[: len(changes) != 1]}"] if changes else []
    added_s = story.timings.added_s
    inside += [] if added_s is None else [f"added {duration(added_s)}"]
    hops = [Hop("client", "passed", client), Hop("gatepass", "passed", ", ".join(inside))]
    for attempt in attempts:
        hops += _of_attempt(attempt, story, failed_hop if attempt is attempts[-1] else "")
    if failed_hop and all(hop.name != failed_hop for hop in hops):
        hops.append(Hop(failed_hop, "passed"))
    if failed_hop:
        at = max(place for place, hop in enumerate(hops) if hop.name == failed_hop)
        is_gone = failed_hop == "client" and story.closed_by == "client"
        hops[at] = hops[at]._replace(state="gone" if is_gone else "failed")
    for one in story.not_tried:
        name = "" if one.model == story.model else f" as {one.model}"
        why = "" if one.state == "available" else f": {one.state.replace('_', ' ')}"
        hops.append(Hop(f"upstream:{one.upstream}", "unreached", f"not tried{name}{why}"))
    return hops


def _of_attempt(attempt: Attempt, story: Story, failed_hop: str) -> Iterator[Hop]:
    """Yield the credential and the upstream of an attempt, if they are known. `failed_hop` is that of the last one."""
    token, has_token, is_last = attempt.token, attempt.reached, attempt is story.attempts[-1]
    failed_credential = failed_hop if failed_hop.startswith("credential:") and not has_token else ""
    name = f"credential:{token.credential}" if token else "" if has_token else failed_credential or "credential"
    lacks_subject = failed_credential not in ("", name)
    if lacks_subject:
        yield Hop(failed_credential, "passed", "no token for the next credential")
    if name:
        times = [] if token is None or token.age_s is None else [f"fetched {token.age_s:.0f} s before"]
        if attempt.outcome == "token_rejected":
            times += ["rejected"] + ["no new one"] * (failed_hop == name)
        elif token is not None and token.left_s is not None:
            times.append(f"{token.left_s:.0f} s left")
        note = f"token {', '.join(times) or 'sent'}" if has_token else "no token"
        yield Hop(name, "passed" if has_token else "unreached" if lacks_subject else "left", note)
    results = (attempt.status, attempt.outcome, attempt.code)
    took = "" if attempt.duration_s is None else f", {duration(attempt.duration_s)}"
    state: Any = "passed" if is_last else "left"
    note = " ".join(str(one) for one in results if one) + took
    if not has_token or attempt.outcome == "nothing_written":
        state, note = "unreached", "nothing sent" if has_token else "not reached"
    elif is_last and story.state == "running":
        silent_s = _silent_s(attempt)
        state, note = "running", "in progress" + (f", silent for {span(silent_s)}" if silent_s else "")
    facts = [*_facts(attempt, story.error.message if story.error else "")]
    yield Hop(f"upstream:{attempt.upstream}", state, note, facts)


def _facts(attempt: Attempt, message: str) -> Iterator[str]:
    """Yield the lines of an attempt below its result. Its reason is left out if the final `message` has it."""
    if attempt.upstream_model:
        yield f"model {attempt.upstream_model}"
    if attempt.cause:
        yield f"sent again {_CAUSES.get(attempt.cause, attempt.cause)}"
    if times := ", ".join(_times(attempt)):
        yield times
    if attempt.reason and attempt.reason not in message:
        yield f"reason: {attempt.reason}"
    if attempt.tried:
        yield f"changes that did not help: {', '.join(attempt.tried)}"
    if parts := attempt.parts:
        failed = [one.code or one.outcome for one in parts if one.outcome not in (None, "complete")]
        yield f"{len(parts)} requests in one call, {len(failed)} failed{': ' * bool(failed)}{', '.join(failed)}"
    if attempt.upstream_request_id:
        yield f"upstream's id: {attempt.upstream_request_id}"


def _times(attempt: Attempt) -> Iterator[str]:
    token, began_s, head_s, queue_s = attempt.token, attempt.began_s, attempt.head_s, attempt.queue_wait_s
    phases = {
        f"queue at position {attempt.queue_position}": queue_s,
        "token": token.wait_s if token else 0.0,
        "free connection": attempt.pool_wait_s,
        "connect": attempt.connect_s or 0.0,
    }
    if head_s is None:
        # the waits for a place and a connection are a part of upstream_s
        phases["upstream"] = attempt.upstream_s - queue_s - phases["connect"]
    else:
        phases["until head"] = head_s - sum(phases.values())
        phases["new token"] = token.renewal_s if token else 0.0
        phases["rest"] = (attempt.duration_s or 0.0) - head_s - phases["new token"]
    if began_s and began_s >= SHORTEST_S:
        yield f"began at {duration(began_s)}"
    yield from (f"{name} {duration(length_s)}" for name, length_s in phases.items() if length_s >= SHORTEST_S)
    if head_s is not None and attempt.connect_s is None:
        yield "reused connection"


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
        line = f"  {mark} {name:<{name_width}}  {note}".rstrip() + end
        yield coloured(line, colour) if colour else line
        for fact in facts:
            yield from wrapped(fact, "      ")


# --- errors and changes


def error_lines(story: Story) -> Iterator[str]:
    error, attempts = story.error, story.attempts
    if error is None:
        yield from _unfinished_lines(story)
        return
    action, command, chinese = error.action, error.test, is_chinese()
    message = error.message or "No message."
    if chinese:
        yield f"  {error.sentence_zh}"
    yield from wrapped(message.replace(f" {action}", "") if action else message)  # some messages end with it
    if (retry_after_s := error.retry_after_s) is not None:
        yield f"  It asks the client to wait {retry_after_s:.3g} s."
    if action:
        yield from wrapped(f"处理：{error.action_zh}" if chinese else f"What to do: {action}", "  ", "    ")
    if command and command not in action:
        yield f"  Test the hop: {command}"
    if attempts and (attempts[-1].status or ERROR_STATUS) < ERROR_STATUS <= (story.status or 0):
        yield f"  The upstream hid the error in a {attempts[-1].status}; the client got {story.status}."
    if error.page:
        yield f"  Page: {error.page}"


def _unfinished_lines(story: Story) -> Iterator[str]:
    """Yield why a request without an error has no whole response: it waits, or a side closed the connection."""
    attempts, is_running = story.attempts, story.state == "running"
    if not is_running and story.outcome != "client_gone":
        return
    silent_s = _silent_s(attempts[-1]) if attempts else 0.0
    if is_running and not silent_s:
        return
    upstream = attempts[-1].upstream if attempts else ""
    command = test_command(f"upstream:{upstream}", story.model, story.operation)
    if is_running:
        what = f"The upstream has sent nothing for {span(silent_s)}."
        action = f"Test the upstream{command and f' with `{command}`'}, or ask its owner."
        action += f" gatepass ends the stream after {settings_of(upstream)}.timeouts.idle_s of silence."
    elif story.closed_by == "gatepass":
        what = "gatepass closed the connection, because the client did not read the response."
        action = "Check the client: it may pause for 300 s."
    elif silent_s:
        what = f"The upstream had sent nothing for {span(silent_s)} when the client left."
        action = f"Test it with `{command}`." if command else "Ask its owner."
    else:
        what = "The client closed the connection before it had the whole response."
        action = "Compare the client's timeout with the times below."
    yield from (*wrapped(what), *wrapped(f"What to do: {action}", "  ", "    "))


def change_lines(story: Story) -> Iterator[str]:
    """Yield the changes of the last attempt as a diff, with the reason if it is known."""
    attempts = story.attempts
    if not attempts:
        return
    last, learned, edits = attempts[-1], set[str](), dict[str, list[Edit]]()
    for before, one in pairwise(attempts):
        if one.cause == "learned_rule":
            learned |= set(one.adapted) - set(before.adapted)
    for edit in last.edits:
        edits.setdefault(edit.rule, []).append(edit)
    for rule in dict.fromkeys((*last.adapted, *edits)):
        yield from wrapped(rule + " (learned from the error of this request)" * (rule in learned), "  ", "    ")
        for edit in edits.get(rule, ()):
            path, moved_to = edit.path, edit.moved_to
            was, now = _side(edit.before_text, edit.before), _side(edit.after_text, edit.after)
            if was and now:
                yield f"    {path}: {was} → {f'{moved_to}: ' if moved_to else ''}{now}"
            else:
                yield coloured(f"    - {path}: {was}", "red") if was else coloured(f"    + {path}: {now}", "green")
    if left_out := last.edits_left_out:
        yield f"    and {counted(left_out, 'more change')}"


def _side(text: str | UnsetType, value: EditedValue | None) -> str:
    """Describe one side of an edit, such as `array, 117 KiB` or `true`; "" if it has no value there."""
    if text or value is None:
        return text or ""
    return value.value or f"{value.type}, {size(value.size_bytes)}"


# --- times, sizes and bodies


def time_lines(story: Story) -> Iterator[str]:
    """Yield the times of the client, of the stream of the last attempt, and the sizes."""
    timings, arrivals = story.timings, [one.arrivals for one in story.attempts if one.arrivals]
    texts = {
        "client sent its body in {}": timings.body_s,
        "first byte to the client after {}": timings.first_byte_s,
        "gatepass added {}": timings.added_s,
    }
    known = [text.format(duration(length_s)) for text, length_s in texts.items() if length_s]
    yield from wrapped(", ".join(known))
    if arrivals and (reads := arrivals[-1].reads):
        count = story.events
        events = f", {count} event{'s'[: count != 1]}" if count else ""
        first, last = (duration(at_s) for at_s in (arrivals[-1].first_s, arrivals[-1].last_s))
        yield f"  {reads} read{'s'[: reads != 1]}{events} from {first} to {last} of the attempt"
        gaps = [f"{duration(gap.length_s)} at {duration(gap.at_s)}" for gap in arrivals[-1].gaps if gap.length_s]
        if gaps:
            yield from wrapped(f"longest gaps: {', '.join(gaps)}")
    facts = [f"{size(story.bytes_in)} from the client", f"{size(story.bytes_out)} to the client"]
    facts += [f"{name.replace('_', ' ')}: {count}" for name, count in (story.usage or {}).items() if count]
    facts += ["the answer is empty"] if story.empty_answer else []
    facts += [f"closed first by: {story.closed_by}"] if story.closed_by else []
    facts += [f"trace: {story.trace_id}"] if story.trace_id else []
    yield from wrapped(", ".join(facts))


BODY_CHARS = 2_000
"""The characters of each captured body that the text shows."""

_BODY_NAMES = {"request": "request of the client", "sent": "request to the upstream", "reply": "reply"}


def body_lines(story: Story) -> Iterator[str]:
    """Yield the beginning of each captured body. The request to the upstream is there if gatepass changed it."""
    bodies = story.bodies or ()
    for body in bodies:
        is_whole = len(body.text) <= BODY_CHARS and body.next is None
        more = f" the first {BODY_CHARS} characters of {size(body.size_bytes)}, --json has all"
        yield f"  {_BODY_NAMES[body.name]}:{'' if is_whole else more}"
        yield from (f"    {line}" for line in body.text[:BODY_CHARS].rstrip().split("\n"))
    if any(one.cut for one in bodies):
        yield "  A body was too long to be captured whole."


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
            yield from ("", title, *shown)


def _head(story: Story, now_s: float) -> Iterator[str]:
    is_running, error = story.state == "running", story.error
    result = "running" if is_running else str(story.status or "no response")
    if error is not None:
        result += f" {error.code} at {error.hop}"
    elif story.outcome == "client_gone":
        result += " client gone"
    took_s = story.timings.duration_s if not is_running else story.duration_s
    took = "" if took_s is None else f"{' for' if is_running else ' after'} {duration(took_s)}"
    yield coloured(f"{result}{took}", "cyan" if is_running else "green" if story.outcome == "ok" else "red")
    asked = asked_for(story)
    if asked != "stream":
        asked = f"{story.operation} {asked}".rstrip() if story.operation != "none" else ""
    stream = "stream" if story.stream and asked != "stream" else ""
    yield from wrapped(", ".join(filter(None, (f"{story.method} {story.path}", asked, stream))), "")
    place = f"on {story.replica}" if story.replica else ""
    arrived = datetime.fromisoformat(story.arrived_at)
    age = f"{span(max(0.0, now_s - arrived.timestamp()))} ago"
    yield from wrapped(f"{arrived.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {age}{', ' if place else ''}{place}", "")
    yield f"id {story.id}"


def asked_for(summary: RequestFacts) -> str:
    """Return the model of a request. Of a message to an MCP server, return its method and the tool that it calls.

    `DELETE` is the end of a session, and `stream` a stream that waits for its events.
    """
    idle = "stream" if summary.operation == "mcp_stream" else ""
    return summary.model or " ".join(filter(None, (summary.mcp_method, summary.mcp_tool))) or idle


# --- lists

COLUMNS = (8, 6, 24, 13, 18, 7)
UNTRANSLATED = "untranslated="
"""How the entries of `adapted` begin that a list counts. Their names are in `gatepass show` and the log."""
HEAD = ("UTC", "STATUS", "ID", "CALLER", "MODEL", "TIME", "UPSTREAM OR ERROR")


def list_line(cells: Sequence[str]) -> str:
    """Return the cells in columns of at least these widths. Chinese characters take two columns; no cell is cut."""
    taken = (sum(2 if east_asian_width(char) in "WF" else 1 for char in text) for text in cells)
    spaces = [" " * (most - width) for width, most in zip(taken, COLUMNS, strict=False)]
    return " ".join([*(text + space for text, space in zip(cells, spaces, strict=False)), cells[-1]]).rstrip()


def summary_line(summary: Summary) -> str:
    """Return one request of `gatepass tail`, coloured if it failed."""
    outcome = summary.outcome
    at = datetime.fromisoformat(summary.arrived_at).astimezone(UTC) + timedelta(seconds=summary.duration_s)
    if outcome == "error":
        # "CODE upstream:NAME": the code says what, the hop says where
        end = f"{summary.code or 'error'} {summary.hop or ''}"
    else:
        tries = f"{summary.attempts} tries" if summary.attempts > 1 else ""
        gone = "client gone" if outcome == "client_gone" else ""
        adapted = ",".join(one for one in summary.adapted if not one.startswith(UNTRANSLATED))
        if left_out := sum(one.startswith(UNTRANSLATED) for one in summary.adapted):
            adapted += f",{UNTRANSLATED}{left_out}"  # with `translate` before it
        empty = "empty" if summary.empty_answer else ""
        end = " ".join(filter(None, (summary.upstream, gone, empty, tries, adapted, summary.message)))
    server = summary.path.partition("/mcp/")[2]  # gatepass may have read no message
    asked = asked_for(summary) or (f"mcp/{server}" if server else "")
    took = duration(summary.duration_s).rjust(7)
    line = list_line((f"{at:%H:%M:%S}", str(summary.status or "-"), summary.id, summary.caller, asked, took, end))
    colour = "red" if outcome == "error" else "yellow" if outcome == "client_gone" else ""
    return coloured(line, colour) if colour else line
