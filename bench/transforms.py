"""CPU time of repair, aggregation and synthesis of a stream, without sockets: `python -m bench.transforms`.

A stream of 512 events arrives event by event, as from a paced upstream. The promise is 12 µs of CPU in the whole
gateway for each synthesized, aggregated or repaired event. The part measured here may use 5 µs of it. Each figure is
the best of many rounds, because the machine may be busy.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import EnvelopeDefaults, Object, StreamSource, encode_event
from gatepass.sse.event import DONE
from gatepass.sse.event_stream import EventStream
from gatepass.sse.repair import StreamRepair, synthesize_stream
from gatepass.types import UpstreamErrorBody

EVENTS = 512
BURST = 32
ROUNDS = 60
LIMIT_US = 5.0
CLEAN_LIMIT_US = 0.6
LIMIT_BYTES = 1 << 26

ORIGIN = EnvelopeDefaults(lambda prefix: prefix + "0" * 24, 1_790_000_000, "bench")
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
CUMULATIVE = "The answer so far, which every event of such a stream repeats from its start. " * 7


@dataclass(frozen=True, slots=True)
class Task:
    """Work on a stream of `events` events, and the allowed CPU time for each (None: no limit)."""

    name: str
    work: Callable[[], object]
    events: int
    limit_us: float | None = None

    def took_us(self) -> float:
        """Return the CPU time of one event in µs, from one round."""
        began_ns = time.process_time_ns()
        self.work()
        return (time.process_time_ns() - began_ns) / self.events / 1000


def _chunk(delta: Object, reason: str | None = None, **more: Any) -> Object:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx", "object": "chat.completion.chunk", "created": 1_790_000_000}
    return {**head, "model": "gpt-4o-2024-08-06", "system_fingerprint": "fp_1", "choices": [choice], **more}


def _stream(middle: Callable[[int], Object]) -> list[bytes]:
    """A role, `EVENTS` chunks, the end."""
    first, last = _chunk({"role": "assistant", "content": ""}), _chunk({}, "stop")
    return [*map(encode_event, [first, *map(middle, range(EVENTS)), last]), DONE]


def _text(number: int) -> Object:
    return _chunk({"content": f" word{number}"})


def _call(number: int) -> Object:
    return _chunk({"tool_calls": [{"id": "call_1", "function": {"name": "look", "arguments": str(number + 1)}}]})


BROKEN: dict[str, Callable[[int], Object]] = {
    "role in every delta": lambda number: _chunk({"role": "assistant", "content": f" word{number}"}),
    "usage in every chunk": lambda number: _text(number) | {"usage": USAGE},
    "finish reason empty": lambda number: _chunk({"content": f" word{number}"}, ""),
    "wrapped": lambda number: {"code": 0, "msg": "ok", "data": _text(number)},
    "ids only in the first chunk": lambda number: _text(number) | {"id": "", "model": ""} if number else _text(0),
    "tool deltas of every defect": _call,
}


def _read_error(_: Any) -> UpstreamErrorBody | None:
    return None


def _validate(blocks: list[bytes]) -> None:
    stream = EventStream(StreamSource("bench", LIMIT_BYTES, _read_error))
    for block in blocks:
        stream.feed(block)


def _repair(options: RepairOptions, blocks: list[bytes]) -> StreamRepair:
    repair = StreamRepair(options, ORIGIN)
    stream = EventStream(StreamSource("bench", LIMIT_BYTES, _read_error), repair=repair)
    for block in blocks:
        stream.feed(block)
    stream.finish()
    return repair


def _aggregate(blocks: list[bytes]) -> bytes:
    aggregator = CompletionAggregator(StreamSource("bench", LIMIT_BYTES, _read_error), LIMIT_BYTES, ORIGIN)
    for block in blocks:
        aggregator.feed(block)
    return aggregator.finish()


def _synthesize(document: Object) -> int:
    return len(list(synthesize_stream(document, True, ORIGIN, piece_chars=6)))


def _repairs() -> Iterator[Task]:
    clean = _stream(_text)
    burst = [*clean[:2], *(b"".join(clean[at : at + BURST]) for at in range(2, EVENTS - BURST, BURST))]
    if _repair(RepairOptions(), clean).adapted:
        raise AssertionError("a clean stream was repaired")
    yield Task("repair, clean", partial(_repair, RepairOptions(), clean), len(clean), CLEAN_LIMIT_US)
    yield Task("repair, clean, in bursts", partial(_repair, RepairOptions(), burst), len(clean), CLEAN_LIMIT_US)
    for name, middle in BROKEN.items():
        blocks = _stream(middle)
        if not _repair(RepairOptions(), blocks).adapted:
            raise AssertionError(f"{name}: nothing was repaired")
        yield Task(f"repair, {name}", partial(_repair, RepairOptions(), blocks), len(blocks), LIMIT_US)
    growing = _stream(lambda number: _chunk({"content": CUMULATIVE[: number + 1]}))
    options = RepairOptions(cumulative=True)
    yield Task("repair, cumulative texts", partial(_repair, options, growing), len(growing))
    yield Task("repair, clean, cumulative allowed", partial(_repair, options, clean), len(clean), CLEAN_LIMIT_US)


def measured_tasks() -> Iterator[Task]:
    clean, calls = _stream(_text), _stream(_call)
    yield Task("validation alone, clean", partial(_validate, clean), len(clean))
    yield from _repairs()
    yield Task("aggregate, text", partial(_aggregate, clean), len(clean), LIMIT_US)
    yield Task("aggregate, all events in one run", partial(_aggregate, [b"".join(clean)]), len(clean), LIMIT_US)
    yield Task("aggregate, tool calls", partial(_aggregate, calls), len(calls), LIMIT_US)
    message = {"role": "assistant", "content": " word " * EVENTS}
    document = {**_chunk({}), "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
    yield Task("synthesize", partial(_synthesize, document), _synthesize(document), LIMIT_US)


def main() -> int:
    tasks, best_us = list(measured_tasks()), dict[str, float]()
    for _ in range(ROUNDS):  # one round of all tasks after the other, so that a busy second affects only one round
        for task in tasks:
            best_us[task.name] = min(task.took_us(), best_us.get(task.name, math.inf))
    for task in tasks:
        limit = "" if task.limit_us is None else f"  limit {task.limit_us:.1f}"
        print(f"{task.name:<44}{best_us[task.name]:7.2f} µs an event{limit}")
    missed = [task.name for task in tasks if task.limit_us is not None and best_us[task.name] > task.limit_us]
    print(f"missed: {', '.join(missed)}" if missed else "every limit is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
