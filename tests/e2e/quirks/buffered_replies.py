"""Rows 29 to 31 once more, of whole answers: valid enough to be misread."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from tests.e2e.quirks.replies import CALLS, USAGE, Asked, Document, Serve, completion, honest, plain
from tests.e2e.quirks.row import PLAIN, Answer, Row
from tests.e2e.quirks.tools import ANSWERED, TOOLS


def whole(vary: Callable[[Document], Document]) -> Serve:
    """An honest stream, and a whole answer as `vary` makes it."""
    return lambda asked: honest(asked) if asked.stream else plain(vary(completion(asked)))


def choice(**others: Any) -> Serve:
    return whole(lambda said: said | {"choices": [said["choices"][0] | others]})


def calls(vary: Callable[[Document], Document]) -> Serve:
    def serve(asked: Asked) -> Any:
        made = [vary(call) for call in completion(asked)["choices"][0]["message"]["tool_calls"]]
        return honest(asked) if asked.stream else plain(completion(asked, tool_calls=made))

    return serve


def without(said: Document, names: Collection[str]) -> Document:
    return {name: value for name, value in said.items() if name not in names}


def with_objects(call: Document) -> Document:
    cities = {arguments: city for (_, arguments), city in zip(CALLS, ("Paris", "Rome"), strict=True)}
    function = call["function"]
    return call | {"function": function | {"arguments": {"city": cities[function["arguments"]]}}}


def bare(said: Document) -> Document:
    [one] = said["choices"]
    one = without(one, ("index", "finish_reason")) | {"message": without(one["message"], ("role",))}
    return without(said, ("created", "id")) | {"object": "", "choices": [one]}


NO_TOTAL = USAGE | {"total_tokens": None}

ROWS = (
    Row(29, "tools-whole-objects", "arguments as an object, in a whole answer", calls(with_objects), ANSWERED,
        body=TOOLS, ways=PLAIN),
    Row(29, "tools-whole-id", "tool calls without an id, in a whole answer",
        calls(lambda call: without(call, ("id",))), ANSWERED, body=TOOLS, ways=PLAIN),
    Row(29, "tools-whole-type", "tool calls without a type, in a whole answer",
        calls(lambda call: without(call, ("type",))), ANSWERED, body=TOOLS, ways=PLAIN),
    Row(29, "tools-whole-null", "`finish: null` after tool calls, in a whole answer",
        choice(finish_reason=None), ANSWERED, body=TOOLS, ways=PLAIN),
    Row(30, "finish-whole-null", "a whole answer with `finish_reason: null`", choice(finish_reason=None), ways=PLAIN),
    Row(30, "finish-whole-empty", 'a whole answer with `finish_reason: ""`', choice(finish_reason=""), ways=PLAIN),
    Row(30, "finish-whole-eos", 'a whole answer with `finish_reason: "eos"`', choice(finish_reason="eos"), ways=PLAIN),
    Row(30, "whole-bare", "a whole answer without id, time, index, role and finish", whole(bare), ways=PLAIN),
    Row(31, "usage-whole-null", "a whole answer with `total_tokens: null`",
        whole(lambda said: said | {"usage": NO_TOTAL}), Answer(total_tokens=USAGE["total_tokens"]), ways=PLAIN),
)  # fmt: skip
