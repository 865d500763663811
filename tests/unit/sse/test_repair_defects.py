"""Every defect, alone and with others: what openai-python's helper reads before and after the repair."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.chunk import StreamSource
from tests.unit.sse.documents import Chunk, clean_streams, events, fed, meaning, origin
from tests.unit.sse.peer import helper_reads
from tests.unit.sse.repair_streams import new_repair
from tests.unit.sse.streams import LIMIT_BYTES, read_error

Defect = Callable[[list[Chunk]], list[Any]]


def choices(chunks):
    return [choice for one in chunks for choice in one["choices"]]


def calls(chunks):
    return [(choice, call) for choice in choices(chunks) for call in choice["delta"].get("tool_calls", ())]


def tools_without_index(chunks):
    for _, call in calls(chunks):
        del call["index"]
    return chunks


def tools_all_of_index_0(chunks):
    for _, call in calls(chunks):
        call["index"] = 0
    return chunks


def tool_ids_and_names_repeated(chunks):
    last: dict[tuple[int, int], Chunk] = {}
    for choice, call in calls(chunks):
        opener = last.setdefault((choice["index"], call["index"]), copy.deepcopy(call))
        call |= {"id": opener["id"], "type": "function"}
        call["function"]["name"] = opener["function"]["name"]
    return chunks


def tools_end_with_stop(chunks):
    for choice in choices(chunks):
        if choice["finish_reason"] == "tool_calls":
            choice["finish_reason"] = "stop"
    return chunks


def role_in_every_delta(chunks):
    for choice in choices(chunks):
        choice["delta"]["role"] = "assistant"
    return chunks


def empty_role_in_every_delta(chunks):
    for choice in choices(chunks):
        choice["delta"].setdefault("role", "")
    return chunks


def empty_finish_reason(chunks):
    for choice in choices(chunks):
        choice["finish_reason"] = choice["finish_reason"] or ""
    return chunks


def null_delta(chunks):
    for choice in choices(chunks):
        choice["delta"] = choice["delta"] or None
    return chunks


def usage_in_every_chunk(chunks):
    return [{**one, "usage": chunks[-1]["usage"]} for one in chunks]


def null_choices(chunks):
    return [part for one in chunks for part in ({**one, "choices": None, "usage": None}, one)]


def pings(chunks):
    ping: Chunk = {}
    return [part for one in chunks for part in (ping, one)]


def azure_filter_first(chunks):
    first = {
        "id": "",
        "object": "",
        "created": 0,
        "model": "",
        "choices": [],
        "prompt_filter_results": [{"prompt_index": 0}],
    }
    return [first, *chunks]


def azure_filter_last(chunks):
    tail = {"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 1}}
    return [*chunks[:-1], {**chunks[-1], "choices": [tail], "usage": None}, chunks[-1]]


def envelope_only_at_first(chunks):
    return [chunks[0], *({**one, "id": "", "model": None, "object": ""} for one in chunks[1:])]


def messages_for_deltas(chunks):
    for choice in choices(chunks):
        choice["message"] = choice.pop("delta")
    return chunks


def wrapped(chunks):
    return [{"code": 0, "msg": "ok", "data": one} for one in chunks]


MISREAD: list[Defect] = [
    *(tools_without_index, tools_all_of_index_0, tool_ids_and_names_repeated, tools_end_with_stop),
    *(role_in_every_delta, null_delta, null_choices, pings, messages_for_deltas, wrapped),
]
"""The helper fails on these, or misreads them."""

OTHERS: list[Defect] = [
    *(envelope_only_at_first, empty_role_in_every_delta, empty_finish_reason, usage_in_every_chunk),
    *(azure_filter_first, azure_filter_last),
]
"""The helper accepts these; langchain-openai, RAGFlow or code that reads `choices[0]` fails."""


def repaired(chunks: list[Any], draw: Any = None) -> bytes:
    repair = new_repair(include_usage=True)
    return b"".join([*fed(repair.feed, events(chunks), draw), repair.finish()])


def read_by_helper(stream: bytes) -> Any:
    try:
        return without_filters(meaning(helper_reads(stream)))
    except (TypeError, AttributeError, IndexError, KeyError, AssertionError, RuntimeError) as error:
        return error


def without_filters(read: Chunk) -> Chunk:
    """Azure's extras survive the repair; the clean stream has none."""
    read.pop("prompt_filter_results", None)
    for choice in read["choices"].values():
        choice.pop("content_filter_offsets", None)
    return read


def named(defect):
    return defect.__name__


def joined(blocks: list[bytes]) -> Any:
    """The meaning of the aggregated stream."""
    aggregator = CompletionAggregator(StreamSource("chat", LIMIT_BYTES, read_error), LIMIT_BYTES, origin())
    fed(aggregator.feed, blocks)
    return without_filters(meaning(json.loads(aggregator.finish())))


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[list[Chunk], list[Any]]:
    """A clean stream, and the same with several defects."""
    _, chunks = draw(clean_streams())
    broken: list[Any] = json.loads(json.dumps(chunks))
    compatible = [one for one in (*MISREAD, *OTHERS) if one is not tools_all_of_index_0]
    chosen = draw(st.lists(st.sampled_from(compatible), max_size=3, unique_by=named))
    for defect in sorted(chosen, key=[*OTHERS, *MISREAD].index):
        try:
            broken = defect(broken)
        except (KeyError, TypeError, AttributeError):  # the one before left nothing that this one could break
            continue
    return chunks, broken


@given(mixtures(), st.data())
def test_any_mixture_of_defects_in_any_stream_is_repaired(mixture, draw):
    chunks, broken = mixture
    assert read_by_helper(repaired(broken, draw.draw)) == meaning(helper_reads(b"".join(events(chunks))))
    assert joined(events(broken)) == joined(events(chunks))
