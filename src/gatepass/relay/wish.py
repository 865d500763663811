"""What a client asked to be told of the usage of a stream."""

from __future__ import annotations

import msgspec


class _Options(msgspec.Struct, gc=False):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Body(msgspec.Struct, gc=False):
    stream_options: _Options | None = None


_BODY = msgspec.json.Decoder(_Body)


def usage_wish(body: bytes) -> bool | None:
    """Whether the request `body` asks for a usage chunk at the end; None where it asks for more of it than that
    (vLLM's `continuous_usage_stats`), and where what it says of it is the upstream's to refuse."""
    if b'"stream_options"' not in body:
        return False
    try:
        options = _BODY.decode(body).stream_options
    except msgspec.DecodeError:
        return None
    if options is None:
        return False
    return None if options.continuous_usage_stats else options.include_usage
