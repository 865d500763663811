"""Streams of tool calls as servers send them beside the API, each with the calls that it means."""

from dataclasses import replace
from typing import Any

from tests.integration.tool_streams import Call, Choice, Drawn


def e(name: str | None = None, arguments: str | None = None, identity: str | None = None, **more: Any) -> Any:
    """Return an entry at index 0, or at another `index`: None for no index. Of the other members None is absent."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    entry = {"index": 0, **({} if identity is None else {"id": identity}), "function": function, **more}
    return {key: value for key, value in entry.items() if key != "index" or value is not None}


A, B = '{"a": 1}', '{"b": 2}'
NULLS = {"id": None, "type": None}

Row = tuple[str, list[Any], Any]
"""The tools of the request; what each chunk of the stream has (an entry, a list of entries or a text); the calls that
are meant, each with an id if the upstream gives one."""

NEXT_CALL: dict[str, Row] = {
    "all at index 0 without ids": ("f g", [e("f", A), e("g", B)], [("f", A), ("g", B)]),
    "the same tool at index 0": ("f", [e("f", A), e("f", B), e("f", A)], [("f", A), ("f", B), ("f", A)]),
    "the same tool without index": ("f", [e("f", A, index=None), e("f", B, index=None)], [("f", A), ("f", B)]),
    "the same tool, all in one chunk": ("f", [[e("f", A, index=None), e("f", B, index=None)]], [("f", A), ("f", B)]),
    "the same tool, no tools in the request": ("", [e("f", A), e("f", B)], [("f", A), ("f", B)]),
    "arguments in pieces before it": ("f g", [e("f", '{"a":'), e(None, " 1}"), e("g", B)], [("f", A), ("g", B)]),
    "whole arguments of no members": ("f g", [e("f", "{}"), e("g", B)], [("f", "{}"), ("g", B)]),
    "a name that would continue the first": ("s s_web", [e("s", A), e("s_web", B)], [("s", A), ("s_web", B)]),
    "a new id at index 0": ("f", [e("f", A, "c1"), e("f", B, "c2")], [("f", A, "c1"), ("f", B, "c2")]),
    "a new id, and the arguments follow": (
        "f g",
        [e("f", "", "c1"), e(None, A), e("g", "", "c2"), e(None, B)],
        [("f", A, "c1"), ("g", B, "c2")],
    ),
    "another tool, and no arguments": ("f g", [e("f"), e("g", B)], [("f", "{}"), ("g", B)]),
    "another tool without index": ("f g", [e("f", index=None), e("g", B, index=None)], [("f", "{}"), ("g", B)]),
    "three tools, and no arguments": ("f g h", [e("f", ""), e("g", ""), e("h", "")], [*((n, "{}") for n in "fgh")]),
}
PIECES: dict[str, Row] = {
    "of a tool": ("search", [e("sea", "", "c1"), e("rch"), e(None, A)], [("search", A, "c1")]),
    "three": ("search_web", [e("sea"), e("rch_"), e("web", A)], [("search_web", A)]),
    "a tool first, then a longer one": (
        "search search_web",
        [e("search", ""), e("_web"), e(None, A)],
        [("search_web", A)],
    ),
    "a tool, and not the longer one": ("search search_web", [e("search", "", "c1"), e(None, A)], [("search", A, "c1")]),
    "a tool that another begins with, to the end": (
        "search search_web",
        [e("search", "", "c1")],
        [("search", "{}", "c1")],
    ),
    "equal halves of a tool": ("gogo", [e("go"), e("go", A)], [("gogo", A)]),
    "equal halves of the begin of a tool": ("gogogo", [e("go"), e("go"), e("go", A)], [("gogogo", A)]),
    "behind a part of the arguments": ("search", [e("sea", '{"a"'), e("rch", ": 1}")], [("search", A)]),
    "of a tool that the request has not": (
        "search",
        [e("made", "", "c1"), e("_up"), e(None, A)],
        [("made_up", A, "c1")],
    ),
    "no tools in the request": ("", [e("sea", "", "c1"), e("rch"), e(None, A)], [("search", A, "c1")]),
    "behind a tool": ("search", [e("search", "", "c1"), e("_engine"), e(None, A)], [("search_engine", A, "c1")]),
    "that end before the tool's": ("search", [e("sea", A, "c1")], [("sea", A, "c1")]),
    "of two calls in turns": (
        "search fetch",
        [e("sea"), e("fe", index=1), e("rch", A), e("tch", B, index=1)],
        [("search", A), ("fetch", B)],
    ),
    "of the first call, after the second is whole": (
        "search fetch",
        [e("sea", "", "c1"), e("fetch", B, "c2", index=1), e("rch", A)],
        [("search", A, "c1"), ("fetch", B, "c2")],
    ),
    "a text between them": ("search", [e("sea", "", "c1"), "so", e("rch"), e(None, A)], [("search", A, "c1")]),
    "that go on behind a part of the arguments": (
        "search",
        [e("sea", '{"a"'), e("rch", ": "), e(None, "1}")],
        [("search", A)],
    ),
}
REPETITIONS: dict[str, Row] = {
    "with each piece of the arguments": ("f", [e("f", '{"a"'), e("f", ": "), e("f", "1}")], [("f", A)]),
    "with its id": ("f", [e("f", '{"a"', "c1"), e("f", ": 1}", "c1")], [("f", A, "c1")]),
    "before the arguments": ("f", [e("f", "", "c1"), e("f", ""), e(None, A)], [("f", A, "c1")]),
    "of a tool that the request has not": ("f", [e("made", ""), e("made", ""), e(None, A)], [("made", A)]),
    "no tools in the request": ("", [e("f", '{"a"'), e("f", ": 1}")], [("f", A)]),
    "of a tool that another begins with": ("s s_web", [e("s", '{"a"'), e("s", ": 1}")], [("s", A)]),
}
SNAPSHOTS: dict[str, Row] = {
    "two": ("search", [e("sea", "", "c1"), e("search"), e(None, A)], [("search", A, "c1")]),
    "of each letter": ("find", [e("f"), e("fi"), e("fin"), e("find", A)], [("find", A)]),
    "from a tool to a longer one": ("search search_web", [e("search"), e("search_web", A)], [("search_web", A)]),
    "behind a part of the arguments": ("search", [e("sea", '{"a"'), e("search", ": 1}")], [("search", A)]),
}
MARKS: dict[str, Row] = {
    "behind a tool": ("f", [e("f<|channel|>commentary", A, "c1")], [("f", A, "c1")]),
    "in pieces": ("f", [e("f<|channel|>", "", "c1"), e("commentary"), e(None, A)], [("f", A, "c1")]),
    "behind a tool that another begins with": ("s s_web", [e("s<|channel|>json", A)], [("s", A)]),
    "behind no tool": ("f", [e("x<|channel|>commentary", A, "c1")], [("x<|channel|>commentary", A, "c1")]),
}
IDS: dict[str, Row] = {
    "known, at another index": ("f", [e("f", '{"a"', "c1"), e(None, ": 1}", "c1", index=1)], [("f", A, "c1")]),
    "in turns at index 0": (
        "f g",
        [e("f", "", "c1"), e("g", "", "c2"), e(None, A, "c1"), e(None, B, "c2")],
        [("f", A, "c1"), ("g", B, "c2")],
    ),
    "after the name": ("f", [e("f"), e(None, A, "c1")], [("f", A, "c1")]),
    "after a name that another begins with": ("s s_web", [e("s"), e(None, A, "c1")], [("s", A, "c1")]),
    "before the name": ("f", [e(None, "", "c1"), e("f"), e(None, A)], [("f", A, "c1")]),
    "another with each piece": (
        "f",
        [e("f", '{"a"', "c1"), e(None, ": ", "c2"), e(None, "1}", "c3")],
        [("f", A, "c1")],
    ),
    "null": (
        "f",
        [e("f", "", "c1", type="function"), e(None, '{"a"', **NULLS), e(None, ": 1}", **NULLS)],
        [("f", A, "c1")],
    ),
    "empty": (
        "f",
        [e("f", "", "c1", type="function"), e("", '{"a"', "", type=""), e("", ": 1}", "")],
        [("f", A, "c1")],
    ),
    "entries that are none": ("f", [[None, e("f", '{"a"', "c1"), "x"], [7, e(None, ": 1}")]], [("f", A, "c1")]),
}
CUT = ("upstream_closed", "The upstream ended its answer inside the arguments of a tool call.")
ERRORS: dict[str, Row] = {
    "a call that another one cuts": ("f g", [e("f", '{"a":'), e("g", B)], CUT),
    "a call that a new id cuts": ("f g", [e("f", '{"a":', "c1"), e("g", B, "c2")], CUT),
    "several values in one call": ("f", [e("f", A, "c1"), e(None, B)], ("upstream_invalid", "several")),
    "no call": ("f", [], ("upstream_invalid", "tool_calls")),
    "a text and no call": ("f", ["so"], ("upstream_invalid", "tool_calls")),
}
"""Instead of the calls: the code of the error, and words of it."""

KINDS = {
    "next call": NEXT_CALL,
    "pieces": PIECES,
    "repetition": REPETITIONS,
    "snapshots": SNAPSHOTS,
    "marks": MARKS,
    "ids": IDS,
}
ROWS: dict[str, Row] = {f"{kind}: {name}": row for kind, rows in KINDS.items() for name, row in rows.items()}
NUMBERS = {name: number for number, name in enumerate([*ROWS, *ERRORS])}
LEGACY = (
    *("pieces: of a tool", "pieces: no tools in the request", "repetition: before the arguments"),
    *("repetition: with each piece of the arguments", "snapshots: two", "marks: in pieces"),
)


def drawn_of(number: int, row: Row, *, is_legacy: bool = False) -> Drawn:
    """Return a stream of these entries, which means the row's calls."""
    tools, entries, meant = row
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": "up"}
    deltas: list[Any] = [{"role": "assistant", "content": ""}]
    for one in entries:
        if isinstance(one, str):
            deltas.append({"content": one})
        elif is_legacy:
            deltas.append({"function_call": one["function"]})
        else:
            deltas.append({"tool_calls": one if isinstance(one, list) else [one]})
    finish = "function_call" if is_legacy else "tool_calls"
    ends = [*((one, None) for one in deltas), ({}, finish)]
    chunks = tuple({**head, "choices": [{"index": 0, "delta": one, "finish_reason": end}]} for one, end in ends)
    calls = tuple(Call(*one, *[None] * (3 - len(one))) for one in meant) if isinstance(meant, list) else ()
    if is_legacy:
        calls = tuple(replace(one, id=None) for one in calls)
    text = "".join(one for one in entries if isinstance(one, str))
    return Drawn(number, tuple(tools.split()), (Choice(text, calls, finish, is_legacy),), None, frozenset(), chunks)
