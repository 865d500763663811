"""Rows 29 to 31 for whole replies that differ from the standard."""

from collections.abc import Callable, Collection
from typing import Any

from tests.e2e.quirks.replies import CALLS, USAGE, Document, Request, Serve, completion, compliant, json_reply
from tests.e2e.quirks.row import PLAIN, Answer, Row
from tests.e2e.quirks.tools import TOOL_ANSWER, TOOLS


def buffered(vary: Callable[[Document], Document]) -> Serve:
    """Return a standard stream, and a whole reply that `vary` changes."""
    return lambda request: compliant(request) if request.stream else json_reply(vary(completion(request)))


def choice(**others: Any) -> Serve:
    return buffered(lambda completion_body: completion_body | {"choices": [completion_body["choices"][0] | others]})


def calls(vary: Callable[[Document], Document]) -> Serve:
    def serve(request: Request) -> Any:
        tool_calls = [vary(call) for call in completion(request)["choices"][0]["message"]["tool_calls"]]
        return compliant(request) if request.stream else json_reply(completion(request, tool_calls=tool_calls))

    return serve


def without(completion_body: Document, names: Collection[str]) -> Document:
    return {name: value for name, value in completion_body.items() if name not in names}


def with_objects(call: Document) -> Document:
    cities = {arguments: city for (_, arguments), city in zip(CALLS, ("Paris", "Rome"), strict=True)}
    function = call["function"]
    return call | {"function": function | {"arguments": {"city": cities[function["arguments"]]}}}


def bare(completion_body: Document) -> Document:
    [one] = completion_body["choices"]
    one = without(one, ("index", "finish_reason")) | {"message": without(one["message"], ("role",))}
    return without(completion_body, ("created", "id")) | {"object": "", "choices": [one]}


NO_TOTAL = USAGE | {"total_tokens": None}

ROWS = (
    Row(29, "tools-whole-objects", "arguments as an object, in a whole reply", calls(with_objects), TOOL_ANSWER,
        body=TOOLS, modes=PLAIN),
    Row(29, "tools-whole-id", "tool calls without an id, in a whole reply",
        calls(lambda call: without(call, ("id",))), TOOL_ANSWER, body=TOOLS, modes=PLAIN),
    Row(30, "finish-whole-null", "a whole reply with `finish_reason: null`", choice(finish_reason=None), modes=PLAIN),
    Row(30, "whole-bare", "a whole reply without id, time, index, role and finish", buffered(bare), modes=PLAIN),
    Row(31, "usage-whole-null", "a whole reply with `total_tokens: null`",
        buffered(lambda completion_body: completion_body | {"usage": NO_TOTAL}),
        Answer(total_tokens=USAGE["total_tokens"]), modes=PLAIN),
)  # fmt: skip
