"""Repaired streams, for the tests of each repair."""

from operator import is_
from typing import Any

from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.event import parse_event, read_json, split_events
from gatepass.sse.repair import StreamRepair
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import DONE, chunk, data

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")


class FedRepair(StreamRepair):
    """A repair that takes runs of whole events, as EventStream passes them on after its validation."""

    def feed(self, run: bytes) -> bytes:
        """Return the repaired events; `run` itself if each passed as the same object."""
        events = split_events(run)
        sent = [self._feed_event(event) for event in events]
        return run if all(map(is_, sent, events)) else b"".join(sent)

    def _feed_event(self, event: bytes) -> bytes:
        payload = _json_of(parse_event(event).data)
        if payload == b"[DONE]":
            return self.finish() + event
        return self.repair_event(event, payload) if isinstance(payload, dict) else event


def new_repair(**options: Any) -> FedRepair:
    return FedRepair(RepairOptions(**options), origin())


def payloads(stream: bytes) -> list[Any]:
    """The JSON of each event; bytes if it is not JSON."""
    return [_json_of(parse_event(block).data) for block in split_events(stream)]


def _json_of(data: bytes | None) -> Any:
    try:
        return read_json(data or b"")
    except ValueError:
        return data


def repaired(*chunks: Any, done: bool = True, **options: Any) -> tuple[list[Any], tuple[str, ...]]:
    """The repaired chunks without `[DONE]`, and the names of the repairs."""
    repair = new_repair(**options)
    out = b"".join(repair.feed(data(one)) for one in chunks)
    if done:
        out += repair.feed(DONE)
        assert out.endswith(DONE)
        out = out.removesuffix(DONE)
    return payloads(out + repair.finish()), repair.adapted
