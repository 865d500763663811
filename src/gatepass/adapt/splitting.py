"""One embeddings call as several requests, each made when its turn has come."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from msgspec.structs import replace

from gatepass.asked import Asked
from gatepass.call import Call
from gatepass.jsontext import Edit, Member, Walk, edited


@dataclass(frozen=True, slots=True)
class Parts(Sequence[Call]):
    """The requests of one call, each made when it is asked for: all their bodies at once may take a hundred times the
    room of the one that they come from."""

    call: Call
    member: Member
    limit: int
    starts: array[int]
    ends: array[int]
    total: int

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Call: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Call]: ...
    def __getitem__(self, index: int | slice) -> Call | Sequence[Call]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        inner = memoryview(self.call.body)[self.starts[index] : self.ends[index]]
        pieces = (inner,) if self.limit == 1 else (b"[", inner, b"]")
        body = edited(self.call.body, [Edit(self.member.value, self.member.end, pieces)])
        return replace(self.call, body=body, max_inputs=None)


def split(call: Call) -> Sequence[Call]:
    """`call` as requests of at most `call.max_inputs` inputs each, in order; itself alone where that is no bound.

    With a bound of 1 the input stands alone, without a list around it: old Zhipu endpoints take nothing else.
    """
    inputs = _inputs(call) if call.max_inputs is not None else None
    if inputs is None or call.max_inputs is None:
        return (call,)
    parts = _parts(call, *inputs, call.max_inputs)
    return (call,) if not parts or (parts.total <= parts.limit and parts.limit > 1) else parts


def _parts(call: Call, walk: Walk, member: Member, limit: int) -> Parts:
    starts, ends, total = array("Q"), array("Q"), 0
    for start, end in walk.elements(member.value):
        if total % limit == 0:
            starts.append(start)
            ends.append(end)
        ends[-1] = end
        total += 1
    return Parts(call, member, limit, starts, ends, total)


def counts_of(parts: Sequence[Call], asked: Asked) -> list[int]:
    """How many vectors the answer to each of `parts` is to hold, which are what `split` made of a call."""
    if not isinstance(parts, Parts):
        return [asked.count]
    return [min(parts.limit, parts.total - at) for at in range(0, parts.total, parts.limit)]


def _inputs(call: Call) -> tuple[Walk, Member] | None:
    """The list of inputs; None where there is one input only."""
    walk = Walk(call.body)
    found = [member for member in walk.members() if member.name == "input"]
    if not found or not call.body.startswith(b"[", found[-1].value):
        return None
    first = next(walk.elements(found[-1].value), None)
    is_one = first is not None and call.body[first[0]] in b"-0123456789"
    return None if is_one else (walk, found[-1])
