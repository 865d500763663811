"""Members of an answer that clients send back with the conversation, and strict upstreams refuse."""

from __future__ import annotations

from dataclasses import dataclass

from gatepass.adapt.draft import Draft, ObjectDraft

REASONING = ("reasoning_content", "reasoning", "reasoning_details")
ANNOTATIONS = ("annotations", "metadata", "status", "timestamp", "timestamps")
EMPTY = ("refusal", "audio", "function_call", "tool_calls")
"""These are the API's own where they hold anything."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Assistant messages lose what only an answer has: reasoning, annotations, members that hold nothing.

    With `keeps_reasoning` the reasoning stays: DeepSeek's thinking models want it back beside tool
    calls ("must be passed back"), while Mistral, Groq and Cerebras refuse it. Entry `drop=replayed`.
    """

    keeps_reasoning: bool = False
    entry: str = "drop=replayed"

    def revise(self, draft: Draft) -> bool:
        return sum(self._stripped(turn) for turn in draft.turns if turn.string("role") == "assistant") > 0

    def _stripped(self, turn: ObjectDraft) -> bool:
        names = ANNOTATIONS if self.keeps_reasoning else (*REASONING, *ANNOTATIONS)
        empty = [name for name in EMPTY if name in turn and not turn.value(name)]
        return sum(turn.drop(name) for name in (*names, *empty)) > 0
