"""Rows 29 to 32, 46, 47 and 50: streams that are valid enough to be misread."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from tests.e2e.quirks.replies import (
    CALLS,
    DONE,
    FIRST,
    IDS,
    JSON,
    PIECES,
    USAGE,
    Asked,
    Reply,
    chunk,
    chunks,
    completion,
    framed,
    honest,
    opened,
    streaming,
    texts,
    tool_chunks,
    written,
)
from tests.e2e.quirks.row import STREAM, Answer, Failure, Row
from tests.e2e.quirks.tools import ANSWERED, TOOLS

WHOLE_CALLS = [
    {"id": known, "type": "function", "function": {"name": name, "arguments": arguments}}
    for known, (name, arguments) in zip(IDS, CALLS, strict=True)
]


def gemini(asked: Asked) -> list[Any]:
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    return [chunk({"role": "assistant", "tool_calls": [call | signed]}) for call in WHOLE_CALLS] + [
        chunk(finish="stop")
    ]


def same_index(asked: Asked) -> list[Any]:
    made = [opened(), *(chunk({"tool_calls": [{"index": 0} | call]}) for call in WHOLE_CALLS)]
    return [*made, chunk(finish="tool_calls")]


def repeated_names(asked: Asked) -> list[Any]:
    made = [opened()]
    for index, call in enumerate(WHOLE_CALLS):
        function = call["function"]
        assert isinstance(function, dict)
        halves = (function["arguments"][:6], function["arguments"][6:])
        made += [chunk({"tool_calls": [{"index": index} | call | {"function": function | {"arguments": half}}]})
                 for half in halves]  # fmt: skip
    return [*made, chunk(finish="tool_calls")]


def object_arguments(asked: Asked) -> list[Any]:
    calls = [
        {"index": index} | call | {"function": {"name": name, "arguments": {"city": city}}}
        for index, (call, (name, _), city) in enumerate(zip(WHOLE_CALLS, CALLS, ("Paris", "Rome"), strict=True))
    ]
    return [opened(), *(chunk({"tool_calls": [call]}) for call in calls), chunk(finish="tool_calls")]  # fmt: skip


def stop_after_tools(asked: Asked) -> list[Any]:
    return [opened(), *tool_chunks(), chunk(finish="stop")]


def azure(asked: Asked) -> list[Any]:
    blank = {"id": "", "object": "", "created": 0, "model": "", "choices": [],
             "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}  # fmt: skip
    tail = {"index": 0, "finish_reason": None, "content_filter_results": {}, "content_filter_offsets": {"start": 0}}
    return [blank, *chunks(asked), FIRST | {"choices": [tail]}]


def varied(**others: Any) -> list[Any]:
    """An honest stream with one chunk between that has `others` in place of its choices."""
    without = {name: value for name, value in FIRST.items() if name != "choices"}
    return [opened(), texts()[0], without | others, *texts()[1:], chunk(finish="stop")]


def null_delta(asked: Asked) -> list[Any]:
    odd = FIRST | {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}
    return [opened(), *texts(), odd]


def without_delta(asked: Asked) -> list[Any]:
    odd = FIRST | {"choices": [{"index": 0, "finish_reason": "stop"}]}
    return [opened(), *texts(), odd]


def with_role(role: str) -> list[Any]:
    return [*(chunk({"role": role, "content": piece}) for piece in PIECES), chunk({"role": role}, "stop")]


def empty_finish(asked: Asked) -> list[Any]:
    return [chunk({"role": "assistant", "content": ""}, ""), *(chunk({"content": piece}, "") for piece in PIECES),
            chunk(finish="stop")]  # fmt: skip


def usage_everywhere(asked: Asked) -> list[Any]:
    counted = [said | {"usage": USAGE | {"total_tokens": 5 + at, "completion_tokens": at}}
               for at, said in enumerate([opened(), *texts(), chunk(finish="stop")])]  # fmt: skip
    return [*counted, FIRST | {"choices": [], "usage": USAGE}]


def cumulative(asked: Asked) -> list[Any]:
    return [opened(), *texts(accumulate(PIECES)), chunk(finish="stop")]


def finish_beside_content(asked: Asked) -> list[Any]:
    return [opened(), *texts(PIECES[:-1]), chunk({"content": PIECES[-1]}, "stop")]


def data(said: list[bytes], field: bytes = b"data: ", end: bytes = b"\n\n", last: bytes = DONE) -> Iterable[bytes]:
    return [*(field + document + end for document in said), last]


def between(comment: bytes) -> Any:
    return framed(lambda said: [piece for document in said for piece in (comment, b"data: " + document + b"\n\n")]
                  + [comment, DONE])  # fmt: skip


def multiline(said: list[bytes]) -> Iterable[bytes]:
    return [b"data: " + document.replace(b', "choices"', b',\ndata: "choices"') + b"\n\n" for document in said] + [DONE]


def shredded(said: list[bytes]) -> Iterable[bytes]:
    whole = b"".join(data(said))
    return [whole[at : at + 7] for at in range(0, len(whole), 7)]


DONE_INSIDE = "data: [DONE] is how it ends"
LINES_FIRST = b"\n\n\n\n"


def empty_lines(asked: Asked) -> Reply:
    body = LINES_FIRST + written(completion(asked))
    return honest(asked) if asked.stream else Reply(200, JSON, (body,))


def labelled(asked: Asked) -> Reply:
    """The content type of many a small forwarder."""
    if not asked.stream:
        return honest(asked)
    return Reply(200, JSON, tuple(data([written(said) for said in chunks(asked)])))


ROWS = (
    Row(29, "tools-gemini", "tool deltas without index, `finish: stop` (Gemini)", streaming(gemini), ANSWERED,
        body=TOOLS, ways=STREAM),
    Row(29, "tools-same-index", "two tool calls, both with index 0", streaming(same_index), ANSWERED, body=TOOLS,
        ways=STREAM),
    Row(29, "tools-repeated", "id and name in every tool delta", streaming(repeated_names), ANSWERED, body=TOOLS,
        ways=STREAM),
    Row(29, "tools-objects", "arguments as an object", streaming(object_arguments), ANSWERED, body=TOOLS, ways=STREAM),
    Row(29, "tools-stop", "`finish: stop` after tool calls (Ollama)", streaming(stop_after_tools), ANSWERED,
        body=TOOLS, ways=STREAM),
    Row(30, "azure-chunks", "Azure's first and last odd chunks", streaming(azure), ways=STREAM),
    Row(30, "choices-null", "a chunk with `choices: null`", streaming(lambda asked: varied(choices=None)), ways=STREAM),
    Row(30, "choices-missing", "a chunk without choices", streaming(lambda asked: varied()), ways=STREAM),
    Row(30, "delta-null", "`delta: null` beside the finish", streaming(null_delta), ways=STREAM),
    Row(30, "delta-missing", "no delta beside the finish", streaming(without_delta), ways=STREAM),
    Row(30, "role-everywhere", "a role in every chunk", streaming(lambda asked: with_role("assistant")), ways=STREAM),
    Row(30, "role-empty", '`role: ""` (MiniMax)', streaming(lambda asked: with_role("")), ways=STREAM),
    Row(30, "finish-empty", '`finish_reason: ""` (Ollama, SGLang)', streaming(empty_finish), ways=STREAM),
    Row(30, "content-missing-first", "no content in the first chunk (Xinference)",
        streaming(lambda asked: [chunk({"role": "assistant"}), *chunks(asked)[1:]]), ways=STREAM),
    Row(30, "ping", "`event: ping` with `data: {}`", between(b"event: ping\ndata: {}\n\n"), ways=STREAM),
    Row(30, "ping-unnamed", "events that are `{}`", between(b"data: {}\n\n"), ways=STREAM),
    Row(31, "usage-everywhere", "usage in every chunk (vLLM, SGLang, DashScope)", streaming(usage_everywhere),
        Answer(total_tokens=USAGE["total_tokens"]), body={"stream_options": {"include_usage": True}}, ways=STREAM),
    Row(32, "cumulative", "each chunk repeats the text so far", streaming(cumulative), ways=STREAM,
        route="cumulative"),
    Row(46, "comments", "`: keep-alive` between the events (DeepSeek)", between(b": keep-alive\n\n"), ways=STREAM),
    Row(46, "comments-openrouter", "`: OPENROUTER PROCESSING`", between(b": OPENROUTER PROCESSING\n\n"), ways=STREAM),
    Row(46, "data-empty", "empty `data:` events", between(b"data:\n\n"), ways=STREAM),
    Row(46, "data-ping", "`data: : ping` events", between(b"data: : ping\n\n"), ways=STREAM),
    Row(46, "lines-first", "empty lines before the JSON (DeepSeek)", empty_lines, ways=("plain",)),
    Row(47, "no-space", "`data:{` without a space", framed(lambda said: data(said, b"data:", last=b"data:[DONE]\n\n")),
        ways=STREAM),
    Row(47, "crlf", "CRLF line ends", framed(lambda said: data(said, end=b"\r\n\r\n", last=b"data: [DONE]\r\n\r\n")),
        ways=STREAM),
    Row(47, "no-done", "no `[DONE]`", framed(lambda said: data(said, last=b"")), ways=STREAM),
    Row(47, "no-finish", "`[DONE]` without a finish reason", streaming(lambda asked: [opened(), *texts()]),
        ways=STREAM),
    Row(47, "no-finish-tools", "the same with tool calls", streaming(lambda asked: [opened(), *tool_chunks()]),
        ANSWERED, body=TOOLS, ways=STREAM),
    Row(47, "no-finish-cut", "the same, cut in the arguments",
        streaming(lambda asked: [opened(), *tool_chunks()[:-1]]), Failure(), body=TOOLS, ways=STREAM),
    Row(47, "unterminated", "the last event without an empty line",
        framed(lambda said: [*data(said[:-1], last=b""), b"data: " + said[-1]]), ways=STREAM),
    Row(47, "multiline", "data in several lines", framed(multiline), ways=STREAM),
    Row(47, "shredded", "events cut anywhere", framed(shredded), ways=STREAM),
    Row(47, "done-inside", "`[DONE]` in the text",
        streaming(lambda asked: [opened(), *texts((DONE_INSIDE,)), chunk(finish="stop")]), Answer(DONE_INSIDE),
        ways=STREAM),
    Row(47, "json-type", "a stream labelled as JSON",
        labelled, ways=STREAM),
    Row(50, "finish-beside-content", "content and finish in one chunk (vLLM)", streaming(finish_beside_content),
        ways=STREAM),
)  # fmt: skip
