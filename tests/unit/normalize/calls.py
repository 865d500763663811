"""Calls to adapt."""

from collections.abc import Sequence
from typing import Any

from gatepass.normalize.embeddings_reply import join_replies, next_step
from gatepass.types import Call, EmbeddingsOptions, Operation, Target
from tests.rows import CHAT

TARGET = Target("chat")


def a_call(body: bytes, operation: Operation = CHAT, **fields: Any) -> Call:
    return Call("id", operation, "caller", fields.pop("model", "m"), body, (), **fields)


def merge_replies(
    replies: Sequence[bytes],
    counts: Sequence[int],
    options: EmbeddingsOptions,
    upstream: str,
    limit_bytes: int = 1 << 40,
) -> tuple[bytes, tuple[str, ...]]:
    steps = join_replies(replies, counts, options, upstream, limit_bytes)
    while (result := next_step(steps)) is None:
        pass
    pieces, names = result
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), names
