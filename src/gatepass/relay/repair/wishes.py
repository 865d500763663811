"""What a client and a configuration want of a repaired stream, and what each repair is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WRAPPED, MESSAGE, EMPTY_CHOICES = "repair=wrapped", "repair=message", "repair=choices"
ENVELOPE, ONE_ID, DELTA = "repair=envelope", "repair=one-id", "repair=delta"
ROLE, FINISH, USAGE, INDEX = "repair=role", "repair=finish", "repair=usage", "repair=index"
TOOL_INDEX, TOOL_ID, TOOL_NAME, TOOL_TYPE = (
    "repair=tool-index",
    "repair=tool-id",
    "repair=tool-name",
    "repair=tool-type",
)
TOOL_ARGUMENTS, SPLIT, CUMULATIVE = "repair=tool-arguments", "repair=split", "repair=cumulative"
NAMES = (
    *(WRAPPED, MESSAGE, EMPTY_CHOICES, ENVELOPE, ONE_ID, INDEX, DELTA, ROLE, FINISH, USAGE),
    *(TOOL_INDEX, TOOL_ID, TOOL_NAME, TOOL_TYPE, TOOL_ARGUMENTS, SPLIT, CUMULATIVE),
)
"""What may be repaired. Wrapped: `{"code": 0, "data": {chunk}}` is unwrapped. Message: a chunk with
`message` in place of `delta`, or a whole completion in one event, becomes deltas. Choices: what comes
with `choices` empty, null or missing moves into the next chunk, or is left out where it says nothing.
Envelope: id, object, created and model are filled in from the first chunk that has them; one-id gives
all chunks the first one's. Index: a choice without one gets its place. Delta: a null or missing one
becomes `{}`, a first one with the role alone gets `content: ""`. Role: told once, never empty. Finish:
an empty reason is null, `stop` after tool calls is `tool_calls`. Usage: once, and in a chunk of its own
where the client asked for it. Tool deltas get the index, the id and the type they lack, lose the id and
the name they repeat, and have text for arguments. Split: a finish reason comes in a chunk of its own.
Cumulative: texts that repeat all that came before are cut down to what is new."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """`include_usage` is what the client asked for; None leaves the usage as the upstream sends it, for a
    client that asked for more of it (vLLM's `continuous_usage_stats`).

    `without_choices` says what becomes of extras that come without choices, such as the
    `prompt_filter_results` in Azure's first chunk: clients that look at `choices[0]` fail there.
    `splits_finish`, `cumulative` and `one_id` are for clients and upstreams known to need them.
    """

    include_usage: bool | None = False
    without_choices: Literal["move", "keep", "drop"] = "move"
    splits_finish: bool = False
    cumulative: bool = False
    one_id: bool = False
