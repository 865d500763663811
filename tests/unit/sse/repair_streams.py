"""Repaired streams, for the tests of each repair."""

from __future__ import annotations

from typing import Any

from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.event import parse_event, read_json, split_events
from gatepass.sse.repair import StreamRepair
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import DONE, chunk, data

Said = dict[str, Any]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")


def new_repair(**wishes: Any) -> StreamRepair:
    return StreamRepair(RepairOptions(**wishes), origin())


def payloads(stream: bytes) -> list[Any]:
    """The JSON of each event; bytes if it is not JSON."""
    return [_said(parse_event(block).data) for block in split_events(stream)]


def _said(data: bytes | None) -> Any:
    try:
        return read_json(data or b"")
    except ValueError:
        return data


def repaired(*chunks: Any, done: bool = True, **wishes: Any) -> tuple[list[Any], tuple[str, ...]]:
    """The repaired chunks without `[DONE]`, and the names of the repairs."""
    repair = new_repair(**wishes)
    out = b"".join(repair.feed(data(one)) for one in chunks)
    if done:
        out += repair.feed(DONE)
        assert out.endswith(DONE)
        out = out.removesuffix(DONE)
    return payloads(out + repair.finish()), repair.adapted


def deltas(chunks: list[Any]) -> list[Any]:
    return [choice["delta"] for one in chunks for choice in one["choices"]]
