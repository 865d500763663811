"""Changes of what is to be embedded, and of the form in which the vectors come."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gatepass.adapt.draft import Draft
from gatepass.call import Call, Surface, Target
from gatepass.errors import InvalidRequest
from gatepass.jsontext import Walk

_IDS_FIRST = re.compile(rb"\[[ \t\r\n]*(?:\[[ \t\r\n]*)?[-0-9]")
_MAYBE_IDS = re.compile(rb'"input"[ \t\r\n]*:[ \t\r\n]*' + _IDS_FIRST.pattern)
"""Tells at the price of one search that there are none: every embeddings call is looked at."""
_IDS = (
    "`input` holds token ids, which mean something only to the tokenizer that made them. Send texts"
    " (LangChain: check_embedding_ctx_length=False). The configuration says of this model that it takes none"
    " (capabilities.token_ids: false)."
)


@dataclass(frozen=True, slots=True)
class FloatVectors:
    """Ask for numbers where the client wants base64, which is then made of them: few upstreams know base64, some
    answer numbers all the same, and openai-node reads those as an empty vector. Entry `set=encoding_format>float`."""

    entry: str = "set=encoding_format>float"

    def revise(self, draft: Draft) -> bool:
        if draft.surface is not Surface.EMBEDDINGS or draft.top.string("encoding_format") != "base64":
            return False
        return draft.top.set("encoding_format", b'"float"')


@dataclass(frozen=True, slots=True)
class SplitInputs:
    """At most `limit` inputs in one request; a lone one of a limit of 1 is sent as a plain string. Entry `split=N`."""

    limit: int

    @property
    def entry(self) -> str:
        return f"split={self.limit}"

    def revise(self, draft: Draft) -> bool:
        return _limited(draft, self.limit)


@dataclass(frozen=True, slots=True)
class SplitShare:
    """At most `percent` of the inputs in one request: what is too much is their tokens, not their number.

    Entry `split=N%`.
    """

    percent: int

    @property
    def entry(self) -> str:
        return f"split={self.percent}%"

    def revise(self, draft: Draft) -> bool:
        count = _count(draft)
        return count > 1 and _limited(draft, max(1, count * self.percent // 100))


class TextsOnly:
    """Rule "texts": refuses token ids in an embeddings call, where the model is declared to take none. vLLM takes
    any for its own tokenizer's, and the vectors would be wrong without a word. Raises InvalidRequest."""

    name = "texts"

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if has_token_ids(call):
            raise InvalidRequest(_IDS, param="input")
        return call


def has_token_ids(call: Call) -> bool:
    """Whether the `input` of an embeddings call is a list of numbers, or of such lists."""
    body = call.body
    if call.operation.surface is not Surface.EMBEDDINGS or _MAYBE_IDS.search(body) is None:
        return False
    inputs = [member.value for member in Walk(body).members() if member.name == "input"]
    return bool(inputs) and _IDS_FIRST.match(body, inputs[-1]) is not None


def _limited(draft: Draft, limit: int) -> bool:
    """Set the limit where it makes a difference: a list of one is worth a change only where a string is wanted."""
    count = _count(draft)
    if not count or (limit > 1 and count <= limit) or (draft.max_inputs is not None and draft.max_inputs <= limit):
        return False
    draft.max_inputs = limit
    return True


def _count(draft: Draft) -> int:
    """How many inputs there are in a list; 0 for a lone one, be it a string or a list of ids."""
    inputs = draft.top.array("input") if draft.surface is Surface.EMBEDDINGS else None
    if inputs is None or (len(inputs) and inputs.kind(0) in "-0123456789"):
        return 0
    return len(inputs)
