"""The forms of a keep-alive: which form a client receives, and how each form fits into its stream."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.protocols import PROTOCOLS
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair
from gatepass.types import Call, Operation
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import chunk, data, new_stream, text

EMPTY = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
OWN = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 7, "model": "m"}
STOP = data(chunk({}, finish="stop"))


def read(keep_alive: bytes) -> Any:
    assert keep_alive.endswith(b"\n\n")
    return json.loads(keep_alive.removeprefix(b"data: "))


def begun(*events: bytes, **more: Any):
    stream = new_stream(repair=StreamRepair(RepairOptions(include_usage=True), origin()), **more)
    for one in events:
        stream.feed(one)
    return stream


def empty_delta(name: str) -> Callable[[EventStream | None], bytes]:
    call = Call("7", Operation(name, "POST", f"/{name}", name, ""), "", "m", b"{}", ())
    return partial(PROTOCOLS[name].keep_alive, BUILT_IN_PROFILES["dify"], call, 7)


def test_an_empty_chunk_has_the_default_id_before_the_stream_has_one():
    keep_alive = empty_delta("chat")
    assert read(keep_alive(None)) == {**OWN, "choices": [EMPTY]}
    assert keep_alive(None) == keep_alive(None) == keep_alive(begun())


def test_in_a_stream_of_completions_it_is_an_empty_text():
    written = read(empty_delta("completions")(None))
    empty = {"index": 0, "text": "", "logprobs": None, "finish_reason": None}
    assert (written["object"], written["choices"]) == ("text_completion", [empty])


@pytest.mark.parametrize("more", [{}, {"system_fingerprint": "fp", "service_tier": "default"}])
def test_then_it_has_the_id_and_model_of_the_stream(more):
    head = {name: value for name, value in {**chunk({}), **more}.items() if name != "choices"}
    stream = begun(text("a", **more), text("b", **more))
    assert read(empty_delta("chat")(stream)) == {**head, "choices": [EMPTY]}


def test_empty_delta_belongs_to_the_first_unfinished_choice():
    events = [text("a"), STOP, data(chunk({"content": "b"}, index=1)), data(chunk({}, finish="stop", index=1))]
    keep_alives = [empty_delta("chat")(begun(*events[:count], choices=2)) for count in range(1, 5)]
    assert [read(one)["choices"][0]["index"] if one else None for one in keep_alives] == [0, 1, 1, None]
