"""Rows 29 to 32, 46, 47 and 50: streams that differ from the standard."""

from itertools import accumulate
from typing import Any

from tests.e2e.quirks.replies import (
    CALLS,
    DONE,
    FIRST,
    JSON,
    PIECES,
    USAGE,
    Reply,
    Request,
    Serve,
    chunk,
    chunks,
    completion,
    encoded,
    first_chunk,
    framed,
    streaming,
    text_chunks,
    tool_calls,
    tool_chunks,
)
from tests.e2e.quirks.row import STREAM, Answer, Failure, Row
from tests.e2e.quirks.tools import TOOL_ANSWER, TOOLS


def gemini(request: Request) -> list[Any]:
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    made = [chunk({"role": "assistant", "tool_calls": [call | signed]}) for call in tool_calls()]
    return [*made, chunk(finish="stop")]


def same_index(request: Request) -> list[Any]:
    made = [first_chunk(), *(chunk({"tool_calls": [{"index": 0} | call]}) for call in tool_calls())]
    return [*made, chunk(finish="tool_calls")]


def repeated_names(request: Request) -> list[Any]:
    made = [first_chunk()]
    for index, call in enumerate(tool_calls()):
        function = call["function"]
        halves = (function["arguments"][:6], function["arguments"][6:])
        made += [chunk({"tool_calls": [{"index": index} | call | {"function": function | {"arguments": half}}]})
                 for half in halves]  # fmt: skip
    return [*made, chunk(finish="tool_calls")]


def object_arguments(request: Request) -> list[Any]:
    calls = [
        {"index": index} | call | {"function": {"name": name, "arguments": {"city": city}}}
        for index, (call, (name, _), city) in enumerate(zip(tool_calls(), CALLS, ("Paris", "Rome"), strict=True))
    ]
    return [first_chunk(), *(chunk({"tool_calls": [call]}) for call in calls), chunk(finish="tool_calls")]  # fmt: skip


def stop_after_tools(request: Request) -> list[Any]:
    return [first_chunk(), *tool_chunks(), chunk(finish="stop")]


def azure(request: Request) -> list[Any]:
    blank = {"id": "", "object": "", "created": 0, "model": "", "choices": [],
             "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}  # fmt: skip
    tail = {"index": 0, "finish_reason": None, "content_filter_results": {}, "content_filter_offsets": {"start": 0}}
    return [blank, *chunks(request), FIRST | {"choices": [tail]}]


def null_choices(request: Request) -> list[Any]:
    return [first_chunk(), FIRST | {"choices": None}, *text_chunks(), chunk(finish="stop")]


def null_delta(request: Request) -> list[Any]:
    odd = FIRST | {"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}
    return [first_chunk(), *text_chunks(), odd]


def empty_role(request: Request) -> list[Any]:
    return [*(chunk({"role": "", "content": piece}) for piece in PIECES), chunk({"role": ""}, "stop")]


def empty_finish(request: Request) -> list[Any]:
    return [chunk({"role": "assistant", "content": ""}, ""), *(chunk({"content": piece}, "") for piece in PIECES),
            chunk(finish="stop")]  # fmt: skip


def usage_everywhere(request: Request) -> list[Any]:
    counted = [chunk_body | {"usage": USAGE | {"total_tokens": 5 + at, "completion_tokens": at}}
               for at, chunk_body in enumerate([first_chunk(), *text_chunks(), chunk(finish="stop")])]  # fmt: skip
    return [*counted, FIRST | {"choices": [], "usage": USAGE}]


def cumulative(request: Request) -> list[Any]:
    return [first_chunk(), *text_chunks(accumulate(PIECES)), chunk(finish="stop")]


def finish_beside_content(request: Request) -> list[Any]:
    return [first_chunk(), *text_chunks(PIECES[:-1]), chunk({"content": PIECES[-1]}, "stop")]


def data(documents: list[bytes], last: bytes = DONE) -> list[bytes]:
    return [*(b"data: " + document + b"\n\n" for document in documents), last]


def between(comment: bytes) -> Serve:
    return framed(lambda documents: [part for event in data(documents) for part in (comment, event)])


def multiline(documents: list[bytes]) -> list[bytes]:
    return data([document.replace(b', "choices"', b',\ndata: "choices"') for document in documents])


def empty_lines(request: Request) -> Reply:
    return Reply(200, JSON, (b"\n\n\n\n" + encoded(completion(request)),))


def labelled(request: Request) -> Reply:
    """Label a stream as JSON, as some small forwarders do."""
    return Reply(200, JSON, tuple(data([encoded(document) for document in chunks(request)])))


ROWS = (
    Row(29, "tools-gemini", "tool deltas without index, `finish: stop` (Gemini)", streaming(gemini), TOOL_ANSWER,
        body=TOOLS, modes=STREAM),
    Row(29, "tools-same-index", "two tool calls, both with index 0", streaming(same_index), TOOL_ANSWER, body=TOOLS,
        modes=STREAM),
    Row(29, "tools-repeated", "id and name in every tool delta", streaming(repeated_names), TOOL_ANSWER, body=TOOLS,
        modes=STREAM),
    Row(29, "tools-objects", "arguments as an object", streaming(object_arguments), TOOL_ANSWER, body=TOOLS,
        modes=STREAM),
    Row(29, "tools-stop", "`finish: stop` after tool calls (Ollama)", streaming(stop_after_tools), TOOL_ANSWER,
        body=TOOLS, modes=STREAM),
    Row(30, "azure-chunks", "Azure's first and last odd chunks", streaming(azure), modes=STREAM),
    Row(30, "choices-null", "a chunk with `choices: null`", streaming(null_choices), modes=STREAM),
    Row(30, "delta-null", "`delta: null` with the finish reason", streaming(null_delta), modes=STREAM),
    Row(30, "role-empty", '`role: ""` (MiniMax)', streaming(empty_role), modes=STREAM),
    Row(30, "finish-empty", '`finish_reason: ""` (Ollama, SGLang)', streaming(empty_finish), modes=STREAM),
    Row(30, "ping-unnamed", "events that are `{}`", between(b"data: {}\n\n"), modes=STREAM),
    Row(31, "usage-everywhere", "usage in every chunk (vLLM, SGLang, DashScope)", streaming(usage_everywhere),
        Answer(total_tokens=USAGE["total_tokens"]), body={"stream_options": {"include_usage": True}}, modes=STREAM),
    Row(32, "cumulative", "each chunk repeats the text so far", streaming(cumulative), modes=STREAM,
        route="cumulative"),
    Row(46, "comments", "`: keep-alive` between the events (DeepSeek)", between(b": keep-alive\n\n"), modes=STREAM),
    Row(46, "data-ping", "`data: : ping` events", between(b"data: : ping\n\n"), modes=STREAM),
    Row(46, "lines-first", "empty lines before the JSON (DeepSeek)", empty_lines, modes=("plain",)),
    Row(47, "no-done", "no `[DONE]`", framed(lambda documents: data(documents, last=b"")), modes=STREAM),
    Row(47, "no-finish-cut", "`[DONE]` in the arguments of a tool call",
        streaming(lambda request: [first_chunk(), *tool_chunks()[:-1]]), Failure(), body=TOOLS, modes=STREAM),
    Row(47, "unterminated", "the last event without an empty line",
        framed(lambda documents: [*data(documents[:-1], last=b""), b"data: " + documents[-1]]), modes=STREAM),
    Row(47, "multiline", "data in several lines", framed(multiline), modes=STREAM),
    Row(47, "json-type", "a stream labelled as JSON", labelled, modes=STREAM),
    Row(50, "finish-beside-content", "content and finish in one chunk (vLLM)", streaming(finish_beside_content),
        modes=STREAM),
)  # fmt: skip
