"""Ids of tool calls in the only form that Mistral takes: nine letters and digits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from gatepass.adapt.draft import Draft, ObjectDraft

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHARS = 9
_FITS = re.compile(r"[A-Za-z0-9]{9}\Z")


@dataclass(frozen=True, slots=True)
class ToolIds:
    """The same id becomes the same short one in every request and process: nothing has to be remembered.

    Both places change: `tool_calls[].id` of the assistant, and `tool_call_id` of the tool. Entry `tool_ids=short`.
    """

    entry: str = "tool_ids=short"

    def revise(self, draft: Draft) -> bool:
        return sum(_shortened(turn) for turn in draft.turns) > 0


def short_id(id_: str) -> str:
    """The first nine digits, base 62, of the id's SHA-256; an id of that form is left as it is."""
    if _FITS.match(id_) is not None:
        return id_
    number = int.from_bytes(sha256(id_.encode()).digest())
    digits = []
    while number:
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))[:CHARS]


def _shortened(turn: ObjectDraft) -> bool:
    calls = turn.array("tool_calls")
    places: list[tuple[ObjectDraft, str]] = [(call, "id") for call in calls.objects()] if calls is not None else []
    return sum(_replaced(owner, name) for owner, name in (*places, (turn, "tool_call_id"))) > 0


def _replaced(owner: ObjectDraft, name: str) -> bool:
    id_ = owner.string(name)
    return id_ is not None and owner.set(name, f'"{short_id(id_)}"'.encode())
