"""Completions, streams with the same content, and the meaning of both, for the tests of aggregation and repair."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hypothesis import strategies as st

from gatepass.sse.chunk import EnvelopeDefaults
from tests.unit.sse.streams import DONE, data

Chunk = dict[str, Any]

CREATED_S = 1_790_000_000


def origin() -> EnvelopeDefaults:
    """Ids that count up from the same number in every test."""
    numbers = itertools.count(1)
    return EnvelopeDefaults(lambda prefix: f"{prefix}{next(numbers):024x}", CREATED_S, "asked-for")


# --- the meaning of a stream ---------------------------------------------------------------------


def meaning(document: dict[str, Any]) -> dict[str, Any]:
    """`document` without the differences that mean nothing: null and missing members, empty texts."""
    choices = {choice["index"]: _meant(choice) for choice in document["choices"]}
    return {**_non_empty(document), "object": None, "choices": choices}


def _meant(choice: dict[str, Any]) -> dict[str, Any]:
    if "message" not in choice:
        return _non_empty(choice)
    logprobs = _non_empty(choice.get("logprobs") or {}) or None
    message = {name: value for name, value in _non_empty(choice["message"]).items() if value != ""}
    return {**_non_empty(choice), "message": {"content": "", **message}, "logprobs": logprobs}


def _non_empty(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in (None, [], {})}


# --- documents ------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SOME_TEXT = TEXTS.filter(bool)
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
SCALARS = st.integers(-(2**40), 2**40) | st.booleans() | SOME_TEXT
VALUES = SCALARS | st.lists(SCALARS, min_size=1, max_size=3) | st.dictionaries(NAMES, SCALARS, min_size=1, max_size=3)
EXTRAS = st.dictionaries(NAMES.map("x_".__add__), VALUES, max_size=2)
USAGE = st.builds(
    lambda prompt, completion: {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    },
    st.integers(0, 1000),
    st.integers(0, 1000),
)


@st.composite
def tool_calls(draw: st.DrawFn) -> list[Chunk]:
    ids = draw(st.lists(st.text("abc123", min_size=1, max_size=9).map("call_".__add__), max_size=3, unique=True))
    return [
        {
            "id": identity,
            "type": "function",
            "function": {"name": draw(NAMES), "arguments": json.dumps(draw(EXTRAS))},
            **draw(EXTRAS),
        }
        for identity in ids
    ]


@st.composite
def messages(draw: st.DrawFn, more: st.SearchStrategy[Chunk] = EXTRAS) -> Chunk:
    message: Chunk = {"role": "assistant", "content": draw(TEXTS), **draw(more)}
    for name in ("refusal", "reasoning_content", "reasoning"):
        if draw(st.booleans()):
            message[name] = draw(SOME_TEXT)
    if calls := draw(tool_calls()):
        message |= {"tool_calls": calls, "content": draw(st.none() | SOME_TEXT)}
    return message


LOGPROBS = st.lists(
    st.fixed_dictionaries(
        {"token": SOME_TEXT, "logprob": st.just(-0.25), "bytes": st.none(), "top_logprobs": st.just([])}
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def completions(draw: st.DrawFn, *, clean: bool = False) -> Chunk:
    """A `chat.completion`. `clean`: only what OpenAI itself sends."""
    more = st.just(Chunk()) if clean else EXTRAS
    choices = []
    for index in range(draw(st.integers(1, 3))):
        message = draw(messages(more))
        reason = "tool_calls" if "tool_calls" in message else draw(st.sampled_from(["stop", "length"]))
        logprobs = {"content": draw(LOGPROBS), "refusal": None} if message["content"] and draw(st.booleans()) else None
        choices.append(
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason, **draw(more)}
        )
    return {
        "id": "chatcmpl-" + draw(NAMES),
        "object": "chat.completion",
        "created": draw(st.integers(1, 2**31)),
        "model": draw(NAMES),
        "choices": choices,
        "usage": draw(USAGE),
        **draw(more),
    }


@st.composite
def legacy_completions(draw: st.DrawFn) -> Chunk:
    choices = [
        {
            "text": draw(TEXTS),
            "index": index,
            "logprobs": None,
            "finish_reason": draw(st.sampled_from(["stop", "length"])),
        }
        for index in range(draw(st.integers(1, 3)))
    ]
    head = {"id": "cmpl-1", "object": "text_completion", "created": 7, "model": draw(NAMES)}
    return {**head, "choices": choices, "usage": draw(USAGE), **draw(EXTRAS)}


# --- streams --------------------------------------------------------------------------------------


@st.composite
def clean_streams(draw: st.DrawFn) -> tuple[Chunk, list[Chunk]]:
    """A completion and the chunks in which a flawless upstream would send it, with the usage at the end."""
    document = draw(completions(clean=True))
    head = {"id": document["id"], "object": "chat.completion.chunk", "created": document["created"]}
    head["model"] = document["model"]
    queues = [list(_deltas(draw, choice)) for choice in document["choices"]]
    # openai-python's helper fails unless the choices appear in ascending order, so every upstream does that.
    chunks = [{**head, "choices": [queue.pop(0)]} for queue in queues]
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        chunks.append({**head, "choices": [queue.pop(0)]})
    return document, [*chunks, {**head, "choices": [], "usage": document["usage"]}]


def _deltas(draw: st.DrawFn, choice: Chunk) -> Iterator[Chunk]:
    message = choice["message"]

    def piece(delta: Chunk, reason: str | None = None, logprobs: Chunk | None = None) -> Chunk:
        return {"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    yield piece({"role": "assistant", "content": None if message["content"] is None else ""})
    for name in ("reasoning_content", "reasoning", "refusal"):
        yield from (piece({name: part}) for part in _cut(draw, message.get(name)))
    parts = _cut(draw, message["content"])
    for number, part in enumerate(parts):
        yield piece({"content": part}, logprobs=choice["logprobs"] if number == 0 else None)
    for index, call in enumerate(message.get("tool_calls", ())):
        yield piece({"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]})
        for part in _cut(draw, call["function"]["arguments"]):
            yield piece({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    yield piece({}, choice["finish_reason"])


def _cut(draw: st.DrawFn, text: str | None) -> list[str]:
    if not text:
        return []
    cuts = sorted({0, *draw(st.lists(st.integers(0, len(text)), max_size=3)), len(text)})
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def events(chunks: Iterable[Any]) -> list[bytes]:
    """The chunks as events, `[DONE]` after them."""
    return [*(data(chunk) for chunk in chunks), DONE]


def fed(feed: Callable[[bytes], Any], blocks: list[bytes], draw: st.DrawFn | None = None) -> list[Any]:
    """Give `blocks` to `feed`, one by one or in runs that are drawn; what it returned."""
    if draw is None:
        return [feed(block) for block in blocks]
    cuts = sorted({0, *draw(st.lists(st.integers(0, len(blocks)), max_size=6)), len(blocks)})
    return [feed(b"".join(blocks[start:end])) for start, end in itertools.pairwise(cuts)]
