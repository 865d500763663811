"""Change embeddings requests: the encoding of vectors, token ids, and splitting one call into several requests."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from itertools import islice

import msgspec

from gatepass.draft import Draft, fixed_change
from gatepass.errors import InvalidRequest
from gatepass.json_body import NUMBERS, Place, kind, places, spans
from gatepass.types import Call, EmbeddingsOptions, Target, has_number_format

_BLANK = re.compile(rb'"(?:[ \t]|\\[nrt])*"')
_IDS_FIRST = re.compile(rb"(?:\[[ \t\r\n]*)?[-0-9]")
_IDS_REASON = (
    "`input` contains token ids, which are valid only for the tokenizer that produced them. The configuration declares"
    " that this model does not accept them (capabilities.token_ids: false). Send texts (LangChain:"
    " check_embedding_ctx_length=False)."
)
_BINARY_REASON = (
    "`encoding_format: {}` asks for a reply that is not JSON, in which gatepass could not count the vectors. Request"
    " `base64`, which passes unchanged with `embed_dtype` and `endianness`."
)


@fixed_change("set=encoding_format>float")
def request_numbers(draft: Draft) -> bool:
    """Request numbers if the client requests base64, to which gatepass converts them.

    Few upstreams support base64. Some return numbers anyway, which openai-node reads as an empty vector. A request for
    another format of the numbers keeps it. Entry `set=encoding_format>float`. Raises InvalidRequest for vLLM's `bytes`.
    """
    wanted = draft.top.string("encoding_format") if "encoding_format" in draft.members else None
    if wanted in ("bytes", "bytes_only"):
        raise InvalidRequest(_BINARY_REASON.format(wanted), param="encoding_format")
    if wanted != "base64" or has_number_format(draft.top.string):
        return False
    return draft.top.set("encoding_format", b'"float"')


@dataclass(frozen=True, slots=True)
class SplitInputs:
    """Send at most `limit` inputs in one request. With a limit of 1, the input is not a list. Entry `split=N`.

    `is_share`: the limit is a percentage of the inputs, whose tokens exceed a limit. Entry `split=N%`.
    """

    limit: int
    is_share: bool = False

    @property
    def entry(self) -> str:
        return f"split={self.limit}{'%' if self.is_share else ''}"

    def apply_to(self, draft: Draft) -> bool:
        count, limit = 0, self.limit
        inputs = draft.top.array("input") if "input" in draft.members else None
        if inputs is not None and not any(first.kind in "-0123456789" for first in islice(inputs, 1)):
            count = len(inputs)  # otherwise it is a single input: a string or a list of ids
        if self.is_share:
            if count <= 1:
                return False
            limit = max(1, count * limit // 100)
        # With a limit of 1, even a list with one input changes: into a string.
        is_met = (limit > 1 and count <= limit) or (draft.max_inputs is not None and draft.max_inputs <= limit)
        if not count or is_met:
            return False
        draft.max_inputs = limit
        return True


class TextsOnly:
    """Reject token ids with InvalidRequest, if the configuration declares that the model does not accept them.

    vLLM reads all ids with the tokenizer of its model, and returns wrong vectors without an error.
    """

    name = "texts"

    def concerns(self, call: Call, target: Target) -> bool:
        del target
        return has_token_ids(call)

    def apply(self, draft: Draft, target: Target) -> None:
        del draft, target
        raise InvalidRequest(_IDS_REASON, param="input")


def has_token_ids(call: Call) -> bool:
    """Whether the `input` of an embeddings call is a list of numbers, or of such lists."""
    first = _inputs(call)[:1]
    return bool(first) and _IDS_FIRST.match(memoryview(first[0])) is not None


def has_empty_text(call: Call) -> bool:
    """Whether a text in the `input` of an embeddings call is empty or blank."""
    return any(kind(one) == '"' and _BLANK.fullmatch(memoryview(one)) for one in _inputs(call))


def _inputs(call: Call) -> list[bytes | msgspec.Raw]:
    inputs = call.opened().get("input") if call.body and "input" in call.operation.members else None
    if isinstance(inputs, str):
        return [b'""'] if not inputs.strip(" \t\r\n") else []
    return inputs if isinstance(inputs, list) else []


@dataclass(frozen=True, slots=True)
class Parts:
    """The requests of one call. Each is built on access, because all bodies may take a hundred times as much memory
    as the body of the call."""

    call: Call
    place: Place
    limit: int
    starts: array[int]
    ends: array[int]
    total: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Call:
        view = memoryview(self.call.body)
        inner = view[self.starts[index] : self.ends[index]]
        pieces = (inner,) if self.limit == 1 else (b"[", inner, b"]")
        body = b"".join((view[: self.place.value], *pieces, view[self.place.end :]))
        return self.call.with_body(body, max_inputs=None)


def split(call: Call) -> Parts | tuple[Call]:
    """Split `call` into requests of at most `call.max_inputs` inputs, in order; return it alone if it has no more."""
    limit = call.max_inputs
    if limit is None:
        return (call,)
    top = call.opened()
    found = [place for place in places(call.body, top.listed) if place.name == "input"]
    inputs = top.get("input")
    if not found or not isinstance(inputs, list):
        return (call,)
    place = found[-1]
    if not inputs or kind(inputs[0]) in NUMBERS or 1 < limit >= len(inputs):  # a list of token ids is one input
        return (call,)
    starts, ends = array("Q"), array("Q")
    for number, (start, end) in enumerate(spans(call.body, place.value, inputs)):
        if number % limit == 0:
            starts.append(start)
            ends.append(end)
        ends[-1] = end
    return Parts(call, place, limit, starts, ends, len(inputs))


def counts_of(parts: Parts | tuple[Call], options: EmbeddingsOptions) -> list[int]:
    """Return the number of vectors expected in the reply to each of the `parts` that `split` returned."""
    if not isinstance(parts, Parts):
        return [options.count]
    return [min(parts.limit, parts.total - at) for at in range(0, parts.total, parts.limit)]
