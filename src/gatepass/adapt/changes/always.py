"""Built-in Rules that need no lesson: what they change is refused, or misread, often enough."""

from __future__ import annotations

from gatepass.adapt.changes.change import revised
from gatepass.adapt.changes.streams import OrphanedOptions
from gatepass.adapt.changes.vectors import FloatVectors
from gatepass.call import Call, Surface, Target
from gatepass.jsontext import any_of, may_name

OF_STREAMS, OF_VECTORS = ("stream_options",), ("base64",)
"""Where none of these stands in a body, the rules below do not concern it."""
_OF_STREAMS, _OF_VECTORS = any_of(*OF_STREAMS), any_of(*OF_VECTORS)


class StreamOptions:
    """Rule "stream_options": without a stream they go (see OrphanedOptions)."""

    name = "stream_options"

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if call.stream or call.operation.surface is not Surface.CHAT or not may_name(call.body, _OF_STREAMS):
            return call
        return revised(call, [OrphanedOptions()])[0]


class Vectors:
    """Rule "vectors": embeddings are asked for as numbers (see FloatVectors), and `embeddings.answer` makes base64
    of them where the client wants that."""

    name = "vectors"

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if call.operation.surface is not Surface.EMBEDDINGS or not may_name(call.body, _OF_VECTORS):
            return call
        return revised(call, [FloatVectors()])[0]
