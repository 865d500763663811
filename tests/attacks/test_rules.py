"""Hostile bodies for what changes a request: rules, dialects, the questions of rerankers."""

import asyncio
import gc
import time
from collections.abc import Coroutine, Sequence
from functools import partial

import pytest

from gatepass.draft import Rule
from gatepass.errors import GatepassError
from gatepass.normalize.embeddings_request import SplitInputs, split
from gatepass.normalize.messages import (
    fill_empty_content,
    join_text_parts,
    merge_roles,
    shorten_tool_ids,
    system_into_user,
)
from gatepass.normalize.profiles import keep_plain_tools
from gatepass.normalize.ragflow_body import RagflowBody
from gatepass.normalize.rules import BUILT_IN_RULES, ChangeRule
from gatepass.protocols.rerank import ConvertRerank, RerankOptions
from gatepass.proxy.body_threads import BodyThreads, normalize_large
from gatepass.types import Call, Target
from tests.attacks.conftest import Attack
from tests.rows import CHAT, EMBEDDINGS, RERANK

TARGET = Target("up", "other")
OPERATIONS = {"messages": CHAT, "tools": CHAT, "input": EMBEDDINGS, "documents": RERANK}
CHANGES = (
    *(
        join_text_parts,
        fill_empty_content,
        system_into_user,
        merge_roles,
        shorten_tool_ids,
        keep_plain_tools,
    ),
    *(SplitInputs(2), ConvertRerank("tei")),
)
RULES: tuple[Sequence[Rule], ...] = ((ChangeRule("rules", CHANGES), *BUILT_IN_RULES), (RagflowBody("drop"),))

USER = '{"role":"user","content":"hi"}'
UNITS = {
    "messages": (
        *(USER, "[]", '{"role":"system","content":"a"}', '{"role":"user","content":[{"type":"text","text":"a"}]}'),
        *('{"role":"user","content":[[],[]]}', '{"role":"assistant","tool_calls":[{"id":"x"}],"refusal":null}'),
        '{"role":"user","content":"' + "\\n\\u4e2d" * 2_000 + '"}',
        '{"role":"user","images":["' + "iVBORw0KGgo" * 100 + '"]}',
        *(
            '{"role":"user","content":"%s"}' % ("a" * 330),
            '{"role":"user","content":"%s"}' % ("a\\n" * 200 + "a" * 7_800),
        ),
    ),
    "tools": ('{"function":{}}', '{"function":{},"a":1}', '{"function":{}' + ',"a":1' * 30_000 + "}"),
    "input": ('"a"', "1", '"' + "a\\n" * 100 + '"', "[1]"),
    "documents": ('"a"', '{"text":"a"}', '{"text":"' + "\\n" * 1_000 + '"}'),
}
LARGE_IMAGE = "a large image"
BARE = '{"type":"image_url","image_url":{"url":"%s"}}'
BARE_IMAGES = (
    (f'{{"role":"user","content":[{BARE % ("iVBORw0KGgoA" * (2 << 20))}]}}', 24),
    (f'{{"role":"user","content":[{",".join([BARE % ("iVBORw0KGgoA" * 9)] * 100)}]}}', 2),
    (f'{{"role":"user","content":[{",".join([BARE % ""] * 1_000)}]}}', 4),
)
"""Base64 in place of a URL, or nothing, and the size of the body in MiB."""


def body(name: str, unit: str, size_bytes: int) -> bytes:
    if unit == LARGE_IMAGE:
        url = "data:image/png;base64," + "iVBORw0KGgoA" * (size_bytes // 12)
        unit = f'{{"role":"user","images":[{{"image_url":{{"url":"{url}"}}}}]}}'
    units = ",".join([unit] * max(1, size_bytes // (len(unit) + 1)))
    return b'{"model":"m","query":"q","%b":[%b]}' % (name.encode(), units.encode())


async def changed(name: str, raw: bytes, rules: Sequence[Rule]) -> str:
    """What the rules did, or the code of the error."""
    threads = BodyThreads()
    call = Call("id", OPERATIONS[name], "me", "m", raw, ())
    try:
        call = await normalize_large(call, TARGET, rules, threads)
        if name == "input":
            await threads.run("me", call.body, partial(split, call))
        if name == "documents":
            await threads.run("me", raw, partial(RerankOptions.of, raw))
    except GatepassError as error:
        return error.code
    finally:
        threads.close()
    return ",".join(call.adapted)


async def longest_pause_s(name: str, raw: bytes, rules: Sequence[Rule]) -> float:
    return await longest_pause_of_s(changed(name, raw, rules))


async def longest_pause_of_s(work: Coroutine[None, None, object]) -> float:
    """The most CPU time of the process, other threads included, between two turns of the loop."""
    gc.collect()
    longest_s, before_s = 0.0, time.process_time()
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.sleep(0)
        now_s = time.process_time()
        longest_s, before_s = max(longest_s, now_s - before_s), now_s
    await task
    return longest_s


CASES = (
    *((name, unit, 4 << 20, rules) for name, units in UNITS.items() for unit in units for rules in RULES),
    ("messages", USER, 2 << 20, RULES[0]),
    ("messages", LARGE_IMAGE, 24 << 20, RULES[0]),
    *(("messages", unit, size_mib << 20, RULES[0]) for unit, size_mib in BARE_IMAGES),
    ("messages", UNITS["messages"][6], 4 << 20, RULES[0]),
    ("messages", UNITS["messages"][3], 2 << 20, RULES[1]),
    ("tools", UNITS["tools"][2], 1 << 18, RULES[0]),
    ("input", '"a"', 1 << 20, RULES[0]),
    ("documents", UNITS["documents"][1], 2 << 20, RULES[0]),
)


@pytest.mark.attack("rules: structure")
@pytest.mark.parametrize(
    ("name", "unit", "size_bytes", "rules"), CASES, ids=[f"{one[0]} {at}" for at, one in enumerate(CASES)]
)
def test_no_rule_occupies_the_loop(
    attack: Attack, name: str, unit: str, size_bytes: int, rules: Sequence[Rule]
) -> None:
    attack.loop_s = asyncio.run(longest_pause_s(name, body(name, unit, size_bytes), rules))
