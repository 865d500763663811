"""What becomes of replies as upstreams send them: relayed, and in the other form that a client may ask for."""

import json
from pathlib import Path

from gatepass.errors import GatepassError
from gatepass.sse.aggregate import CompletionAggregator
from gatepass.sse.asked import Asked
from gatepass.sse.choice_repair import RepairOptions
from gatepass.sse.chunk import AnswerFault, EnvelopeDefaults, StreamSource, unwrap
from gatepass.sse.event import read_json
from gatepass.sse.repair import StreamRepair, synthesize_stream
from gatepass.sse.whole_reply import repair_reply
from tests.golden.golden import HERE, same
from tests.unit.sse.documents import origin
from tests.unit.sse.streams import LIMIT_BYTES, new_stream, read_error

REPLIES = sorted((HERE / "replies").iterdir())
ASKED = {
    "max_tokens": 100,
    "tools": [
        {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "required": ["city"]}}},
        {"type": "function", "function": {"name": "stop"}},
    ],
}


def defaults() -> EnvelopeDefaults:
    made = origin()
    return EnvelopeDefaults(made.new_id, made.created_s, made.model, Asked(json.dumps(ASKED).encode()))


def changes(names: tuple[str, ...]) -> str:
    return f"-- {' '.join(names) or 'unchanged'}\n"


def repaired(body: bytes, before: tuple[str, ...] = ()) -> str:
    try:
        relayed, names = repair_reply(body, defaults)
    except AnswerFault as fault:
        return f"-- {fault.error_of('chat').message}\n"
    return changes(tuple(dict.fromkeys((*before, *names)))) + relayed.decode()


def of_whole(body: bytes) -> str:
    document = unwrap(read_json(body))
    relayed = repaired(body if "choices" in json.loads(body) else json.dumps(document).encode())
    blocks = synthesize_stream(read_json(relayed.partition("\n")[2].encode()), True, defaults())
    return relayed + "\n-- as a stream\n" + b"".join(blocks).decode()


def of_stream(body: bytes, *, cumulative: bool) -> str:
    parts = []
    for include_usage in (True, False):
        repair = StreamRepair(RepairOptions(include_usage, cumulative=cumulative), defaults())
        stream = new_stream(repair=repair)
        out = stream.feed(body) + stream.finish()
        failure = "" if stream.failure is None else f"-- {stream.failure.code}: {stream.failure.message}\n"
        parts.append(f"-- usage: {include_usage}\n{changes(stream.adapted)}{out.decode()}{failure}")
    aggregator = CompletionAggregator(
        StreamSource("chat", LIMIT_BYTES, read_error), LIMIT_BYTES, defaults(), cumulative=cumulative
    )
    aggregator.feed(body)
    try:
        whole = repaired(aggregator.finish(), aggregator.adapted)
    except GatepassError as error:
        whole = f"{error.code}: {error.message}"
    return "".join(parts) + f"-- as a whole reply\n{whole}"


def outcome(path: Path) -> str:
    body = path.read_bytes()
    return of_whole(body) if path.suffix == ".json" else of_stream(body, cumulative="cumulative" in path.name)


def test_what_becomes_of_each_reply():
    assert len(REPLIES) > 40
    same("replies.txt", {path.name: outcome(path) for path in REPLIES})
