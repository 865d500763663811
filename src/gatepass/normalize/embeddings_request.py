"""Change embeddings requests: the encoding of vectors, token ids, and splitting one call into several requests."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from itertools import islice

from msgspec.structs import replace

from gatepass.errors import InvalidRequest
from gatepass.json_scan import Edit, JsonScanner, Member, edited
from gatepass.normalize.json_editor import JsonEditor, fixed_change
from gatepass.types import Call, EmbeddingsOptions, Target

_EMPTY_TEXT = re.compile(rb'[\[,:][ \t\r\n]*"(?:[ \t]|\\[nrt])*"[ \t\r\n]*[,\]}]')
_IDS_FIRST = re.compile(rb"\[[ \t\r\n]*(?:\[[ \t\r\n]*)?[-0-9]")
_MAYBE_IDS = re.compile(rb'"input"[ \t\r\n]*:[ \t\r\n]*' + _IDS_FIRST.pattern)
"""One search that finds most bodies without token ids, because every embeddings call is checked."""
_IDS_REASON = (
    "`input` contains token ids, which are valid only for the tokenizer that produced them. The configuration declares"
    " that this model does not accept them (capabilities.token_ids: false). Send texts (LangChain:"
    " check_embedding_ctx_length=False)."
)


@fixed_change("set=encoding_format>float")
def request_numbers(editor: JsonEditor) -> bool:
    """Request numbers if the client requests base64, to which gatepass converts them.

    Few upstreams support base64. Some return numbers anyway, which openai-node reads as an empty vector. Entry
    `set=encoding_format>float`.
    """
    if "encoding_format" not in editor.members or editor.top.string("encoding_format") != "base64":
        return False
    return editor.top.set("encoding_format", b'"float"')


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

    def apply_to(self, editor: JsonEditor) -> bool:
        count, limit = 0, self.limit
        inputs = editor.top.array("input") if "input" in editor.members else None
        if inputs is not None and not any(first.kind in "-0123456789" for first in islice(inputs, 1)):
            count = len(inputs)  # otherwise it is a single input: a string or a list of ids
        if self.is_share:
            if count <= 1:
                return False
            limit = max(1, count * limit // 100)
        # With a limit of 1, even a list with one input changes: into a string.
        is_met = (limit > 1 and count <= limit) or (editor.max_inputs is not None and editor.max_inputs <= limit)
        if not count or is_met:
            return False
        editor.max_inputs = limit
        return True


class TextsOnly:
    """Reject token ids with InvalidRequest, if the configuration declares that the model does not accept them.

    vLLM reads all ids with the tokenizer of its model, and returns wrong vectors without an error.
    """

    name = "texts"

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if has_token_ids(call):
            raise InvalidRequest(_IDS_REASON, param="input")
        return call


def has_token_ids(call: Call) -> bool:
    """Whether the `input` of an embeddings call is a list of numbers, or of such lists."""
    body = call.body
    if "input" not in call.operation.members or _MAYBE_IDS.search(body) is None:
        return False
    inputs = [member.value for member in JsonScanner(body).members() if member.name == "input"]
    return bool(inputs) and _IDS_FIRST.match(body, inputs[-1]) is not None


def has_empty_text(call: Call) -> bool:
    """Whether a text in the `input` of an embeddings call is empty or blank."""
    body = call.body
    if "input" not in call.operation.members or _EMPTY_TEXT.search(body) is None:
        return False
    inputs = [member for member in JsonScanner(body).members() if member.name == "input"]
    return bool(inputs) and _EMPTY_TEXT.search(body, inputs[-1].value - 1, inputs[-1].end + 1) is not None


@dataclass(frozen=True, slots=True)
class Parts:
    """The requests of one call. Each is built on access, because all bodies may take a hundred times as much memory
    as the body of the call."""

    call: Call
    member: Member
    limit: int
    starts: array[int]
    ends: array[int]
    total: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Call:
        inner = memoryview(self.call.body)[self.starts[index] : self.ends[index]]
        pieces = (inner,) if self.limit == 1 else (b"[", inner, b"]")
        body = edited(self.call.body, [Edit(self.member.value, self.member.end, pieces)])
        return replace(self.call, body=body, max_inputs=None)


def split(call: Call) -> Parts | tuple[Call]:
    """Split `call` into requests of at most `call.max_inputs` inputs, in order; return it alone if it has no more."""
    limit = call.max_inputs
    if limit is None:
        return (call,)
    scanner = JsonScanner(call.body)
    found = [member for member in scanner.members() if member.name == "input"]
    if not found or not call.body.startswith(b"[", found[-1].value):
        return (call,)
    member = found[-1]
    first = next(scanner.elements(member.value), None)
    if first is not None and call.body[first[0]] in b"-0123456789":  # a list of token ids is one input
        return (call,)
    # eight bytes for each position: the integers of a list take five times as much (CPython 3.11)
    starts, ends, total = array("Q"), array("Q"), 0
    for start, end in scanner.elements(member.value):
        if total % limit == 0:
            starts.append(start)
            ends.append(end)
        ends[-1] = end
        total += 1
    return (call,) if not total or 1 < limit >= total else Parts(call, member, limit, starts, ends, total)


def counts_of(parts: Parts | tuple[Call], options: EmbeddingsOptions) -> list[int]:
    """Return the number of vectors expected in the reply to each of the `parts` that `split` returned."""
    if not isinstance(parts, Parts):
        return [options.count]
    return [min(parts.limit, parts.total - at) for at in range(0, parts.total, parts.limit)]
