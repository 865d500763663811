"""Draw what the inspector knows as text: the story of one request, and one line for a list. Values in, lines out.

The documents are those of `observability/story.py`. Each text in them may come from a client or an upstream, so
`cleaned` must replace its control characters before. Knowledge that is absent is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, NamedTuple
from unicodedata import east_asian_width

from gatepass.cli.control import span
from gatepass.cli.options import coloured, printable

Story = Mapping[str, Any]
WIDTH = 80
"""The columns of a story."""
BARS = 30
"""The columns of a bar as long as the request."""
SHORTEST_S = 0.00005
"""Shorter phases would be shown as 0.0 ms."""
KIB = 1024
ERROR_STATUS = 400
UNCONNECTED = ("upstream_connect", "upstream_dns", "upstream_tls", "upstream_timeout_connect")


def cleaned(value: Any, keep: str = "") -> Any:
    """Return a JSON value without a control character in any of its texts. Bodies keep their line breaks."""
    if isinstance(value, str):
        return printable(value, keep)
    if isinstance(value, Mapping):
        return {printable(name): cleaned(one, "\n" if name == "bodies" else keep) for name, one in value.items()}
    return [cleaned(one, keep) for one in value] if isinstance(value, list) else value


# --- units


def duration(seconds: float | None) -> str:
    """Return a time with its unit: `0.4 ms`, `210 ms`, `1.20 s`."""
    if seconds is None:
        return "-"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def size(size_bytes: int) -> str:
    """Return a number of bytes with its unit."""
    if size_bytes < 10 * KIB:
        return f"{size_bytes} byte{'s'[: size_bytes != 1]}"
    return f"{size_bytes / KIB:.0f} KiB" if size_bytes < KIB * KIB else f"{size_bytes / KIB / KIB:.1f} MiB"


def columns(text: str) -> int:
    """Return the columns of `text` on a terminal, where Chinese characters take two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, width: int) -> str:
    """Return the beginning of `text` that fits into `width` columns, with `…` if it is cut."""
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[:-1]
    return f"{text}…" if width > 0 else ""


def padded(text: str, width: int) -> str:
    """Return `text` in exactly `width` columns."""
    text = cut(text, width)
    return text + " " * (width - columns(text))


def wrapped(text: str, begin: str = "  ", rest: str | None = None, width: int = WIDTH) -> Iterator[str]:
    """Yield `text` in lines of at most `width` columns. A longer word, such as a URL, is not broken.

    Between two Chinese characters a line may break everywhere.
    """
    line, rest = begin, begin if rest is None else rest
    is_empty = True
    for word in text.split():
        pieces = [*word] if columns(word) > len(word) else [word]
        for number, piece in enumerate(pieces):
            space = "" if is_empty or number else " "
            if not is_empty and columns(line + space + piece) > width:
                yield line
                line, space = rest, ""
            line, is_empty = line + space + piece, False
    if not is_empty:
        yield line


# --- the way of the request


class Hop(NamedTuple):
    """One part that the request passed.

    `failed` is the part of the final error, `left` one that gatepass gave up, `gone` a client that closed first.
    """

    name: str
    state: Literal["passed", "failed", "gone", "left", "unreached", "running"]
    note: str = ""


_MARKS: Mapping[str, tuple[str, str]] = {
    "passed": ("●", "green"),
    "failed": ("✗", "red"),
    "gone": ("✗", "red"),
    "left": ("✗", "yellow"),
    "unreached": ("○", ""),
    "running": ("◌", "cyan"),
}


def way(story: Story) -> list[Hop]:
    """Return the parts in the order in which the request passed them, with the one that failed."""
    error, attempts = story["error"], story["attempts"]
    failed_hop = "client" if story["outcome"] == "client_gone" else "" if error is None else error["hop"] or ""
    client = ", ".join(filter(None, (story["caller"] or story["peer"], story["user_agent"])))
    changes = {entry for one in attempts for entry in one["adapted"]}
    inside = [f"{len(changes)} change{'s'[: len(changes) != 1]}"] if changes else []
    added_s = story["timings"]["added_s"]
    inside += [] if added_s is None else [f"added {duration(added_s)}"]
    hops = [Hop("client", "passed", client), Hop("gatepass", "passed", ", ".join(inside))]
    for number, attempt in enumerate(attempts):
        following = attempts[number + 1] if number + 1 < len(attempts) else None
        if following is not None and following["upstream"] == attempt["upstream"]:
            continue  # the last one at each target
        hops += _target(attempt, failed_hop, is_last=following is None, is_running=story["state"] == "running")
    hops += [Hop(f"upstream:{one['upstream']}", "unreached", "not tried") for one in story.get("not_tried") or ()]
    if failed_hop and all(hop.name != failed_hop for hop in hops):
        hops.append(Hop(failed_hop, "passed"))
    is_gone = failed_hop == "client" and story["closed_by"] == "client"
    return [hop._replace(state="gone" if is_gone else "failed") if hop.name == failed_hop else hop for hop in hops]


def _target(attempt: Story, failed_hop: str, *, is_last: bool, is_running: bool) -> Iterator[Hop]:
    """Yield the credential and the upstream of an attempt, if they are known."""
    token, failed_at_token = attempt["token"], not attempt["reached"]
    name = None if token is None else f"credential:{token['credential']}"
    if name is None and failed_at_token:
        name = failed_hop if is_last and failed_hop.startswith("credential:") else "credential"
    lacks_subject = is_last and failed_at_token and failed_hop.startswith("credential:") and failed_hop != name
    if lacks_subject:
        yield Hop(failed_hop, "passed", "no token for the next credential")
    if name is not None:
        note = "no token" if failed_at_token or token is None else f"token {token_note(token)}"
        yield Hop(name, "unreached" if lacks_subject else "left" if failed_at_token else "passed", note)
    named = f"upstream:{attempt['upstream']}"
    result = " ".join(str(one) for one in (attempt["status"], attempt["code"]) if one is not None)
    if failed_at_token:
        yield Hop(named, "unreached", "not reached")
    elif is_running and is_last:
        yield Hop(named, "running", "in progress")
    else:
        yield Hop(named, "passed" if is_last else "left", result)


def token_note(token: Story) -> str:
    """Describe the token of an attempt: its age, the time that was left, and the wait for it."""
    age_s, left_s, wait_s = token.get("age_s"), token.get("left_s"), token.get("wait_s")
    parts = [] if age_s is None else [f"fetched {age_s:.0f} s before"]
    parts += [] if left_s is None else [f"{left_s:.0f} s left"]
    parts += [f"waited {duration(wait_s)}"] if wait_s else []
    parts += [f"waited {duration(token['renewal_s'])} for a new one"] if token.get("renewal_s") else []
    return ", ".join(parts) or "sent"


def way_lines(hops: Sequence[Hop]) -> Iterator[str]:
    name_width = min(max(columns(hop.name) for hop in hops), 40)
    for number, hop in enumerate(hops):
        mark, colour = _MARKS[hop.state]
        if number:
            yield "  ┊" if hop.state == "unreached" else "  │"
        end = {"failed": "  ◀ failed here", "gone": "  ◀ closed first"}.get(hop.state, "")
        line = f"  {mark} {padded(hop.name, name_width)}  "
        line = (line + cut(hop.note, WIDTH - columns(line) - columns(end))).rstrip() + end
        yield coloured(line, colour) if colour and hop.state != "passed" else line


# --- what to do


def error_lines(story: Story) -> Iterator[str]:
    error, attempts = story["error"], story["attempts"]
    if error is None:
        if story["outcome"] == "client_gone":
            what = "The client closed the connection before it had the whole response."
            action = "Compare the client's timeout with the times below."
            if story["closed_by"] == "gatepass":
                what = "gatepass closed the connection, because the client did not read the response."
                action = "Check the client, and limits.send_stall_s."
            yield from wrapped(what)
            yield from wrapped(action, "  What to do: ", "    ")
        return
    yield from wrapped(error["message"] or "No message.")
    if (retry_after_s := error.get("retry_after_s")) is not None:
        yield f"  It asks the client to wait {retry_after_s:.3g} s."
    action, command = error.get("action") or "", error.get("test") or ""
    if action:
        yield from wrapped(action, "  What to do: ", "    ")
    if command and command not in action:
        yield f"  Test the hop: {command}"
    if attempts and (attempts[-1]["status"] or ERROR_STATUS) < ERROR_STATUS <= (story["status"] or 0):
        yield f"  The upstream hid the error in a {attempts[-1]['status']}; the client got {story['status']}."
    if error["page"]:
        yield f"  Page: {error['page']}"


# --- attempts and changes

_CAUSES: Mapping[str, str] = {
    "new_token": "with a new token, because the upstream rejected the first one",
    "new_connection": "on a new connection, because the reused one was closed",
    "learned_rule": "with a rule learned from the error",
    "next_target": "at the next target",
}


def attempt_lines(story: Story) -> Iterator[str]:
    message = (story["error"] or {}).get("message") or ""
    for attempt in story["attempts"]:
        yield from _attempt(attempt, message)


def _attempt(attempt: Story, message: str) -> Iterator[str]:
    """Describe an attempt. Its reason is left out if `message`, the final error, has it."""
    model = attempt["upstream_model"]
    target = attempt["upstream"] + (f" as {model}" if model else "")
    results = (attempt["status"], attempt["outcome"] or "running", attempt["code"])
    result = " ".join(str(one) for one in results if one is not None)
    took = "" if attempt["duration_s"] is None else f", {duration(attempt['duration_s'])}"
    head = [*wrapped(f"{target}: {result}{took}", f"  {attempt['number']}. ", "     ")]
    yield from (coloured(line, "red") for line in head) if attempt["code"] else head
    if cause := attempt["cause"]:
        yield from wrapped(f"sent again {_CAUSES.get(cause, cause)}", "     ")
    if (token := attempt["token"]) is not None:
        note = "none" if not attempt["reached"] else token_note(token)
        yield from wrapped(f"token of {token['credential']}: {note}", "     ")
    if (connect_s := attempt["connect_s"]) is not None:
        what = "no connection after" if attempt["code"] in UNCONNECTED else "new connection in"
        yield f"     {what} {duration(connect_s)}"
    elif attempt["head_s"] is not None:
        yield "     reused connection"
    if attempt.get("reason") and attempt["reason"] not in message:
        yield from wrapped(f"reason: {attempt['reason']}", "     ")
    if attempt["tried"]:
        yield from wrapped(f"changes that did not help: {', '.join(attempt['tried'])}", "     ")
    if attempt["upstream_request_id"]:
        yield f"     upstream's id: {attempt['upstream_request_id']}"
    if parts := attempt["parts"]:
        failed = [one for one in parts if one["outcome"] not in (None, "complete")]
        yield f"     {len(parts)} requests in one call, {len(failed)} failed"
        for part in failed:
            yield from wrapped(f"failed: {part['outcome']} {part['code'] or ''}", "       ")


def change_lines(story: Story) -> Iterator[str]:
    """Yield the changes of the last attempt as a diff, with the reason if it is known."""
    attempts = story["attempts"]
    if not attempts:
        return
    last = attempts[-1]
    known: set[str] = set()
    for before, one in pairwise(attempts):
        if one["cause"] == "learned_rule":
            known |= set(one["adapted"]) - set(before["adapted"])
    edits: dict[str, list[Story]] = {}
    for edit in last.get("edits") or ():
        edits.setdefault(edit["rule"], []).append(edit)
    for rule in dict.fromkeys((*last["adapted"], *edits)):
        why = " (learned from the error of this request)" if rule in known else ""
        yield from wrapped(f"{rule}{why}", "  ", "    ")
        for edit in edits.get(rule, ()):
            yield from _edit(edit)
    if left_out := last.get("edits_left_out"):
        yield f"    and {left_out} more changes"


def _edit(edit: Story) -> Iterator[str]:
    path, before, after, moved_to = edit["path"], edit.get("before"), edit.get("after"), edit.get("moved_to")
    if "after_text" in edit:
        before, after = edit["before_text"], edit["after_text"]
    shown = [one.get("value") if isinstance(one, Mapping) else one for one in (before, after)]
    if moved_to is None and None not in shown:
        yield cut(f"    {path}: {shown[0]} → {shown[1]}", WIDTH)
        return
    if before is not None:
        yield coloured(cut(f"    - {path}: {_value(before)}", WIDTH), "red")
    if after is not None:
        yield coloured(
            cut(f"    + {moved_to or path}: {_value(after)}{f', from {path}' if moved_to else ''}", WIDTH), "green"
        )


def _value(value: Any) -> str:
    """Describe one side of an edit: `array, 117 KiB`."""
    if not isinstance(value, Mapping):
        return str(value)
    if "value" in value:
        return str(value["value"])
    size_bytes = value.get("size_bytes")
    return ", ".join(filter(None, (str(value.get("type") or ""), "" if size_bytes is None else size(size_bytes))))


# --- times


class Phase(NamedTuple):
    """A part of the request's time, in seconds since its arrival."""

    name: str
    began_s: float
    length_s: float


def phases(story: Story) -> Iterator[Phase]:
    """Yield where the time went, in order of time. A phase that is unknown or took no time has no positive length."""
    attempts = story["attempts"]
    yield Phase("client sends the body", 0.0, story["timings"]["body_s"] or 0.0)
    for attempt in attempts:
        label = f"{attempt['number']}. " if len(attempts) > 1 else ""
        token: Story = attempt["token"] or {}
        began_s = at_s = attempt["began_s"] or 0.0
        connect_s = attempt["connect_s"] or 0.0
        waits = {"token": token.get("wait_s"), "free connection": attempt.get("pool_wait_s"), "connect": connect_s}
        for name, wait_s in waits.items():
            yield Phase(f"{label}{name}", at_s, wait_s or 0.0)
            at_s += wait_s or 0.0
        if attempt["head_s"] is None:
            # the waits for a connection are a part of upstream_s
            yield Phase(f"{label}upstream", at_s, (attempt["upstream_s"] or 0.0) - connect_s)
            continue
        until_s, renewal_s = began_s + attempt["head_s"], token.get("renewal_s") or 0.0
        yield Phase(f"{label}upstream, until head", at_s, until_s - at_s)
        yield Phase(f"{label}new token", until_s, renewal_s)
        until_s += renewal_s
        yield Phase(f"{label}upstream, rest", until_s, began_s + (attempt["duration_s"] or 0.0) - until_s)


def time_lines(story: Story) -> Iterator[str]:
    timings = story["timings"]
    total_s = timings["duration_s"] if timings["duration_s"] is not None else story.get("duration_s")
    if not total_s:
        return
    shown = [*(phase for phase in phases(story) if phase.length_s >= SHORTEST_S), Phase("all", 0.0, total_s)]
    name_width = max(columns(phase.name) for phase in shown)
    for phase in shown:
        yield f"  {padded(phase.name, name_width)}  {bar(phase, total_s)}  {duration(phase.length_s)}"
    first_s = timings["first_byte_s"]
    facts = [] if first_s is None else [f"first byte to the client after {duration(first_s)}"]
    facts += [] if timings["added_s"] is None else [f"gatepass added {duration(timings['added_s'])}"]
    if facts:
        yield from wrapped(", ".join(facts))


def bar(phase: Phase, total_s: float) -> str:
    """Return a bar of BARS columns, at least one of them filled."""
    first = min(BARS - 1, int(phase.began_s / total_s * BARS))
    last = min(BARS, max(first + 1, round((phase.began_s + phase.length_s) / total_s * BARS)))
    return " " * first + "█" * (last - first) + " " * (BARS - last)


# --- the stream


def stream_lines(story: Story) -> Iterator[str]:
    """Yield when the pieces of the last attempt's reply arrived."""
    found = [one["arrivals"] for one in story["attempts"] if one.get("arrivals")]
    if not found or not found[-1]["reads"]:
        return
    arrivals = found[-1]
    events = f", {story['events']} events" if story["events"] else ""
    yield f"  {arrivals['reads']} reads{events} from {duration(arrivals['first_s'])} to {duration(arrivals['last_s'])}"
    if gaps := [gap for gap in arrivals["gaps"] if gap["length_s"]]:
        listed = ", ".join(f"{duration(gap['length_s'])} at {duration(gap['at_s'])}" for gap in gaps)
        yield from wrapped(f"longest gaps: {listed}")


# --- the whole story


def story_lines(story: Story, now_s: float) -> Iterator[str]:
    """Yield the text of `gatepass show`. `now_s` is the time since the epoch."""
    yield from _head(story, now_s)
    sections = (
        ("Way", way_lines(way(story))),
        ("Error" if story["error"] else "End", error_lines(story)),
        ("Attempts", attempt_lines(story)),
        ("Changes", change_lines(story)),
        ("Time", time_lines(story)),
        ("Stream", stream_lines(story)),
        ("Sizes", _sizes(story)),
        ("Bodies", body_lines(story)),
        ("Ids", _ids(story)),
    )
    for title, lines in sections:
        if shown := [*lines]:
            yield ""
            yield title
            yield from shown


def _head(story: Story, now_s: float) -> Iterator[str]:
    is_running, error = story["state"] == "running", story["error"]
    result = "running" if is_running else str(story["status"] or "no response")
    if error is not None:
        result += f" {error['code']} at {error['hop']}"
    elif story["outcome"] == "client_gone":
        result += " client gone"
    took_s = story["timings"]["duration_s"] if not is_running else story.get("duration_s")
    took = "" if took_s is None else f"{' for' if is_running else ' after'} {duration(took_s)}"
    colour = "cyan" if is_running else "green" if story["outcome"] == "ok" else "red"
    for line in wrapped(f"{result}{took}", ""):
        yield coloured(line, colour)
    asked = asked_for(story)
    if asked != "stream":
        asked = f"{story['operation']} {asked}".rstrip() if story["operation"] != "none" else ""
    stream = "stream" if story["stream"] and asked != "stream" else ""
    yield from wrapped(", ".join(filter(None, (f"{story['method']} {story['path']}", asked, stream))), "")
    if story.get("replay_of"):
        without = ", ".join(story["replayed_without"])
        yield from wrapped(
            f"replay of {story['replay_of']} by {story['replayed_by']}{without and f' without {without}'}", ""
        )
    place = " ".join(filter(None, (story.get("worker"), f"on {story['replica']}" if story.get("replica") else "")))
    arrived = datetime.fromisoformat(story["arrived_at"])
    age = f"{span(max(0.0, now_s - arrived.timestamp()))} ago"
    yield from wrapped(f"{arrived.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {age}{', ' if place else ''}{place}", "")


def asked_for(summary: Story) -> str:
    """Return the model of a request, the method of a message to an MCP server with the tool that it calls, or `stream`
    for a stream that waits for its events."""
    message = (summary.get("mcp_method"), summary.get("mcp_tool"))  # an older replica has neither
    idle = "stream" if summary["operation"] == "mcp_stream" else ""
    return summary["model"] or " ".join(filter(None, message)) or idle


def _sizes(story: Story) -> Iterator[str]:
    facts = [f"{size(story['bytes_in'])} from the client", f"{size(story['bytes_out'])} to the client"]
    usage: Mapping[str, Any] = story["usage"] or {}
    facts += [f"{name.replace('_', ' ')}: {count}" for name, count in usage.items() if isinstance(count, int) and count]
    if story.get("empty_answer"):
        facts.append("the answer is empty")
    yield from wrapped(", ".join(facts))
    if story["closed_by"]:
        yield f"  closed first by: {story['closed_by']}"


def _ids(story: Story) -> Iterator[str]:
    yield f"  gatepass  {story['id']}"
    found = dict.fromkeys(one["upstream_request_id"] for one in story["attempts"])
    for name in found or dict.fromkeys([story["upstream_request_id"]]):
        if name:
            yield f"  upstream  {name}"


# --- captured bodies

BODY_CHARS = 2_000
"""The characters of each captured body that the text shows."""

_BODY_NAMES = {"request": "request of the client", "sent": "request to the upstream", "reply": "reply"}


def body_lines(story: Story) -> Iterator[str]:
    """Yield the beginning of each captured body. The request to the upstream is there if gatepass changed it."""
    bodies: Sequence[Story] = story.get("bodies") or ()
    for name, title in _BODY_NAMES.items():
        found = [one for one in bodies if one["name"] == name]
        for number, body in enumerate(found, 1):
            text, is_whole = body["text"], len(body["text"]) <= BODY_CHARS and body["next"] is None
            more = (
                "" if is_whole else f" the first {BODY_CHARS} characters of {size(body['size_bytes'])}, --json has all"
            )
            yield f"  {title}{f' {number}' if len(found) > 1 else ''}:{more}"
            yield from (f"    {line}" for line in text[:BODY_CHARS].rstrip().split("\n"))
    if any(one["cut"] for one in bodies):
        yield "  A body was too long to be captured whole."


# --- lists

COLUMNS = (8, 6, 24, 10, 16, 7)
LIST_WIDTH = 100
HEAD = ("UTC", "STATUS", "ID", "CALLER", "MODEL", "TIME", "UPSTREAM OR ERROR")


def widened(wide: Sequence[int], summaries: Iterable[Story]) -> Sequence[int]:
    """Return the widths of columns in which each of `summaries` fits, at least `wide`."""
    rows = [[columns(text) for text in _cells(one)[:-1]] for one in summaries]
    return [*map(max, zip(wide, *rows, strict=True))]


def list_line(
    cells: Sequence[str], width: int | None = LIST_WIDTH, wide: Sequence[int] = COLUMNS, *, keeps_end: bool = False
) -> str:
    """Return the cells in aligned columns of the widths `wide`. An id is never cut. The last cell gets the rest of
    `width`, or is not cut if `keeps_end`. Without a width, no cell is cut."""
    at_end = cells[-1]
    front = [
        text if (number == 2 or width is None) and columns(text) > most else padded(text, most)
        for number, (text, most) in enumerate(zip(cells[:-1], wide, strict=True))
    ]
    line = " ".join(front) + " "
    return (line + (at_end if width is None or keeps_end else cut(at_end, width - columns(line)))).rstrip()


def summary_line(summary: Story, width: int | None = LIST_WIDTH, wide: Sequence[int] = COLUMNS) -> str:
    """Return one request of `gatepass tail`, coloured if it failed."""
    outcome = summary["outcome"]
    # the hop at the end of an error decides what to do, so that a narrow terminal wraps it
    line = list_line(_cells(summary), width, wide, keeps_end=outcome == "error")
    colour = "red" if outcome == "error" else "yellow" if outcome == "client_gone" else ""
    return coloured(line, colour or "cyan") if colour or summary["state"] == "running" else line


def _cells(summary: Story) -> tuple[str, ...]:
    state, outcome = summary["state"], summary["outcome"]
    at = datetime.fromisoformat(summary["arrived_at"]).astimezone(UTC)
    if state == "ended":
        at += timedelta(seconds=summary["duration_s"])
    status = "..." if state == "running" else str(summary["status"] or "-")
    if outcome == "error":
        # "CODE upstream:NAME": the code says what, the hop says where
        end = f"{summary['code'] or 'error'} {summary['hop'] or ''}"
    else:
        tries = f"{summary['attempts']} tries" if summary["attempts"] > 1 else ""
        gone = "client gone" if outcome == "client_gone" else ""
        end = " ".join(filter(None, (summary["upstream"] or "", gone, tries, ",".join(summary["adapted"]))))
    server = summary["path"].partition("/mcp/")[2]  # gatepass may have read no message
    asked = asked_for(summary) or (f"mcp/{server}" if server else "")
    took = duration(summary["duration_s"]).rjust(7)
    return f"{at:%H:%M:%S}", status, summary["id"], summary["caller"], asked, took, end


def candidate_lines(stories: Iterable[Story]) -> Iterator[str]:
    """Yield the requests that one id may mean."""
    yield list_line(HEAD)
    yield from (summary_line({**one, "attempts": len(one["attempts"])}) for one in stories)
