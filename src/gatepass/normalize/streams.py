"""Changes of whether the upstream streams: the client gets what it asked for in either case."""

from __future__ import annotations

from dataclasses import dataclass

from gatepass.normalize.json_editor import Draft
from gatepass.types import Surface

STREAMED = (Surface.CHAT, Surface.RESPONSES)
"""Surfaces with answers that come whole or as a stream, and are made of each other (verdict/)."""


@dataclass(frozen=True, slots=True)
class Unstreamed:
    """Ask for one whole reply where the client wants a stream, which is then made of it. Entry `stream=synth`."""

    entry: str = "stream=synth"

    def revise(self, draft: Draft) -> bool:
        if not draft.stream or draft.surface not in STREAMED:
            return False
        draft.top.set("stream", b"false")
        draft.top.drop("stream_options")
        draft.stream = False
        return True


@dataclass(frozen=True, slots=True)
class Streamed:
    """Ask for a stream where the client wants a whole reply, which is then made of it. Entry `stream=aggregate`."""

    entry: str = "stream=aggregate"

    def revise(self, draft: Draft) -> bool:
        if draft.stream or draft.surface not in STREAMED:
            return False
        draft.top.set("stream", b"true")
        if draft.surface is Surface.CHAT:  # a response's last event has its usage anyway
            draft.top.set("stream_options", b'{"include_usage":true}')
        draft.stream = True
        return True


@dataclass(frozen=True, slots=True)
class OrphanedOptions:
    """`stream_options` without a stream goes: OpenAI and vLLM refuse it. Entry `drop=stream_options`."""

    entry: str = "drop=stream_options"

    def revise(self, draft: Draft) -> bool:
        return not draft.stream and draft.top.drop("stream_options")
