"""A stream of tool calls means the same before and behind gatepass, in five ways of an answer.

Valid ones are drawn. What servers send beside the API has one meaning, row by row.
"""

import asyncio
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.broken_tool_streams import ERRORS, LEGACY, NUMBERS, ROWS, drawn_of
from tests.integration.tool_meanings import WAYS, difference, five_ways, report
from tests.integration.tool_streams import ONE_OF, SHARES, Choice, Chunk, Drawn, Entry, draw

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEEDS = range(300)
"""`python -m tests.fuzz --target calls --runs 2000 --seed 0` compares more of them."""
STREAMED = {name: way for name, way in WAYS.items() if way.model != "whole"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ways(tmp_path_factory):
    async with five_ways(tmp_path_factory.mktemp("ways")) as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
async def test_a_valid_stream_means_the_same_behind_gatepass(ways, way):
    made = await report(ways, way, SEEDS)
    assert not made.faults, f"{made}. The shortest one:\n{made.faults[0]}"


UNREAD = {
    *("no index", "index from one", "index out of order", "index with gaps"),  # the package merges or loses calls
    *("ids repeated", "no ids", "empty types"),
    "finish stop",  # gatepass makes `tool_calls` of it
}
"""What the openai package cannot read, or reads as something else, without gatepass."""


async def test_the_seeds_have_each_feature():
    drawn = [draw(seed) for seed in SEEDS]
    assert {name for one in drawn for name in one.features} == {*SHARES, *(name for group in ONE_OF for name in group)}
    assert sum(one.is_clean for one in drawn) > len(SEEDS) / 10


async def test_the_package_reads_a_stream_as_it_was_drawn(ways):
    """The meaning that is expected behind gatepass is that of the stream itself."""
    drawn = [one for one in map(draw, SEEDS) if not one.features & UNREAD]
    answers = await asyncio.gather(*(ways.ask(WAYS["relayed"], one, straight=True) for one in drawn))
    found = [difference(WAYS["relayed"], one.meaning, answer) for one, answer in zip(drawn, answers, strict=True)]
    assert [one for one in found if one] == []
    assert len(drawn) > len(SEEDS) / 2


# --- planted faults -----------------------------------------------------------------------------------------------


def calls_of(chunks: list[Chunk]) -> list[list[Entry]]:
    """Return the entries of the first choice by their calls."""
    calls: dict[int, list[Entry]] = {}
    for choice in (chunk["choices"][0] for chunk in chunks if chunk["choices"]):
        for entry in choice["delta"].get("tool_calls", ()) if choice["index"] == 0 else ():
            calls.setdefault(entry["index"], []).append(entry)
    return [*calls.values()]


def with_text(entries: list[Entry], name: str) -> list[Entry]:
    return [one for one in entries if one["function"].get(name)]


def a_lost_piece_of_a_name(chunks: list[Chunk]) -> Iterator[None]:
    for named in (with_text(one, "name") for one in calls_of(chunks)):
        if len(named) > 1:
            del named[1]["function"]["name"]
            yield


def a_lost_piece_of_arguments(chunks: list[Chunk]) -> Iterator[None]:
    for pieces in (with_text(one, "arguments") for one in calls_of(chunks)):
        if len(pieces) > 1:
            del pieces[1]["function"]["arguments"]
            yield


def exchanged_arguments(chunks: list[Chunk]) -> Iterator[None]:
    for pieces in (with_text(one, "arguments") for one in calls_of(chunks)):
        if len(pieces) > 1:
            first, second = (one["function"] for one in pieces[:2])
            first["arguments"], second["arguments"] = second["arguments"], first["arguments"]
            yield


def a_torn_call(chunks: list[Chunk]) -> Iterator[None]:
    for pieces in (with_text(one, "arguments") for one in calls_of(chunks)):
        if len(pieces) > 1:
            pieces[1] |= {"index": 7, "id": "call_torn"}
            pieces[1]["function"]["name"] = "torn"
            yield


def joined_calls(chunks: list[Chunk]) -> Iterator[None]:
    calls = calls_of(chunks)
    if len(calls) > 1:
        for entry in calls[1]:
            entry |= {"index": calls[0][0]["index"], "id": None}
            entry["function"]["name"] = None
        yield


def exchanged_ids(chunks: list[Chunk]) -> Iterator[None]:
    calls = calls_of(chunks)
    if len(calls) > 1:
        first, second = calls[0][0], calls[1][0]
        first["id"], second["id"] = second["id"], first["id"]
        yield


def a_usage_before_the_last(chunks: list[Chunk]) -> Iterator[None]:
    if chunks[-2].get("usage") and chunks[-2]["usage"] != chunks[-1]["usage"]:
        chunks[-1]["usage"] = chunks[-2]["usage"]
        yield


def a_lost_text(chunks: list[Chunk]) -> Iterator[None]:
    for choice in (chunk["choices"][0] for chunk in chunks if chunk["choices"]):
        if choice["index"] == 0 and choice["delta"].get("content"):
            del choice["delta"]["content"]
            yield


def another_finish_reason(chunks: list[Chunk]) -> Iterator[None]:
    for choice in (chunk["choices"][0] for chunk in chunks if chunk["choices"]):
        if choice["index"] == 0 and choice["finish_reason"] == "tool_calls":
            choice["finish_reason"] = "length"
            yield


FAULTS: tuple[Callable[[list[Chunk]], Iterator[None]], ...] = (
    *(a_lost_piece_of_a_name, a_lost_piece_of_arguments, exchanged_arguments, a_torn_call, joined_calls),
    *(exchanged_ids, a_usage_before_the_last, a_lost_text, another_finish_reason),
)
"""Each changes chunks as a faulty relay does. It yields when it has found a place."""
FAULTY_STREAMS = 5


def faulty(seed: int, fault: Any, *, is_translated: bool) -> Drawn | None:
    """Return the stream of `seed` with a fault, which still means what was drawn; None if it has no place for it."""
    drawn = draw(seed, is_translated=is_translated)
    chunks = [*deepcopy(drawn.chunks)]
    is_plain = not drawn.features & (UNREAD | {"legacy", "early ids", "late ids", "cut ids"})
    return replace(drawn, chunks=tuple(chunks)) if is_plain and next(fault(chunks), 0) is None else None


@pytest.mark.parametrize("way", STREAMED)
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_comparison_finds_each_planted_fault(ways, way, fault):
    """Otherwise no difference would prove nothing. The upstream has the fault, and the rest is as in the first test."""
    made = (faulty(seed, fault, is_translated=WAYS[way].is_translated) for seed in SEEDS)
    streams = [one for one in made if one is not None][:FAULTY_STREAMS]
    assert len(streams) == FAULTY_STREAMS
    answers = await asyncio.gather(*(ways.ask(WAYS[way], one) for one in streams))
    found = [difference(WAYS[way], one.meaning, answer) for one, answer in zip(streams, answers, strict=True)]
    assert all(found), [str(one) for one, words in zip(streams, found, strict=True) if not words]


WHOLE_FAULTS: dict[str, Callable[[Choice], Choice]] = {
    "exchanged calls": lambda choice: replace(choice, calls=choice.calls[::-1]),
    "a lost call": lambda choice: replace(choice, calls=choice.calls[:-1]),
    "a lost piece of each name": lambda choice: replace(
        choice, calls=tuple(replace(call, name=call.name[:-1]) for call in choice.calls)
    ),
    "a cut text": lambda choice: replace(choice, text=choice.text[:-1]),
}


@pytest.mark.parametrize("fault", WHOLE_FAULTS.values(), ids=WHOLE_FAULTS)
async def test_the_comparison_finds_each_fault_of_a_synthesized_stream(ways, fault):
    drawn = [one for one in map(draw, SEEDS) if len(one.choices[0].calls) > 1 and one.choices[0].text]
    for one in drawn[:FAULTY_STREAMS]:
        answer = await ways.ask(WAYS["synthesized"], replace(one, choices=tuple(map(fault, one.choices))))
        assert difference(WAYS["synthesized"], one.meaning, answer), str(one)


# --- beside the API -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROWS)
async def test_calls_beside_the_api_have_one_meaning(ways, name):
    drawn = drawn_of(NUMBERS[name], ROWS[name])
    answers = await asyncio.gather(*(ways.ask(way, drawn) for way in STREAMED.values()))
    found = {one: difference(WAYS[one], drawn.meaning, answer) for one, answer in zip(STREAMED, answers, strict=True)}
    assert found == dict.fromkeys(STREAMED, "")


@pytest.mark.parametrize("name", LEGACY)
async def test_the_name_of_a_function_call_is_read_likewise(ways, name):
    drawn = drawn_of(NUMBERS[name], ROWS[name], is_legacy=True)
    for way in (WAYS["relayed"], WAYS["aggregated"]):
        assert difference(way, drawn.meaning, await ways.ask(way, drawn)) == ""


@pytest.mark.parametrize("way", STREAMED)
@pytest.mark.parametrize("name", ERRORS)
async def test_calls_that_mean_nothing_are_an_error(ways, name, way):
    code, words = ERRORS[name][2]
    answer = await ways.ask(WAYS[way], drawn_of(NUMBERS[name], ERRORS[name]))
    assert f'"code":"{code}"' in answer.body.decode()
    assert words in answer.body.decode()
