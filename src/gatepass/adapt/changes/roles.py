"""Changes of who speaks: upstreams differ in the roles that they know, and in the order in which they take them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from gatepass.adapt.changes.content import text_of
from gatepass.adapt.draft import Draft, ListDraft, ObjectDraft

SYSTEM_ROLES = ("system", "developer")
PLAIN = frozenset(("role", "content"))
"""Messages that have more than these say something that a merge would lose."""


@dataclass(frozen=True, slots=True)
class Role:
    """Every message of the role `old` gets the role `new`. Entry `role=OLD>NEW`."""

    old: str
    new: str

    @property
    def entry(self) -> str:
        return f"role={self.old}>{self.new}"

    def revise(self, draft: Draft) -> bool:
        found = [turn for turn in draft.turns if turn.string("role") == self.old]
        return sum(turn.set("role", msgspec.json.encode(self.new)) for turn in found) > 0


@dataclass(frozen=True, slots=True)
class SystemIntoUser:
    """What system and developer messages say stands before the first user message's own text.

    Without a user message, or where one of them holds more than text, nothing changes. Entry
    `role=system>user`.
    """

    entry: str = "role=system>user"

    def revise(self, draft: Draft) -> bool:
        messages = draft.top.array("messages")
        if messages is None:
            return False
        turns = list(_turns(messages))
        systems = [index for index, turn in turns if turn.string("role") in SYSTEM_ROLES]
        user = next((turn for _, turn in turns if turn.string("role") == "user"), None)
        texts = [text_of(turn) for index, turn in turns if index in systems]
        said = [text for text in texts if text is not None]
        if not systems or user is None or len(said) < len(texts) or not _preceded(user, "\n\n".join(said)):
            return False
        for index in reversed(systems):
            messages.drop(index)
        return True


@dataclass(frozen=True, slots=True)
class MergedRoles:
    """Neighbours of one role (user or assistant) that are nothing but text become one message, and all system
    messages one in front. Entry `roles=merged`."""

    entry: str = "roles=merged"

    def revise(self, draft: Draft) -> bool:
        messages = draft.top.array("messages")
        return messages is not None and any([_gathered(messages), _merged(messages)])


def _turns(messages: ListDraft) -> Iterable[tuple[int, ObjectDraft]]:
    found = ((index, messages.object(index)) for index in range(len(messages)))
    return ((index, turn) for index, turn in found if turn is not None)


def _preceded(turn: ObjectDraft, text: str) -> bool:
    """Put `text` before what `turn` says; False where that has no place for it."""
    content = turn.text("content") or b""
    if content.startswith(b'"'):
        turn.set("content", msgspec.json.encode(text + "\n\n")[:-1] + content[1:])
    elif content.startswith(b"["):
        comma = b"" if content[1:].lstrip().startswith(b"]") else b","
        turn.set("content", b"[" + msgspec.json.encode({"type": "text", "text": text}) + comma + content[1:])
    else:
        return False
    return True


def _gathered(messages: ListDraft) -> bool:
    """Every plain system message but the first, or all where another stands in front, into the first."""
    found = [index for index, turn in _turns(messages) if turn.string("role") == "system" and _plain_text(turn)]
    if not found or found == [0]:
        return False
    text = "\n\n".join(_plain_text(turn) or "" for index, turn in _turns(messages) if index in found)
    for index in reversed(found):
        messages.drop(index)
    messages.insert(msgspec.json.encode({"role": "system", "content": text}))
    return True


def _merged(messages: ListDraft) -> bool:
    last: ObjectDraft | None = None
    gone = []
    for index, turn in _turns(messages):
        if last is not None and _joined(last, turn):
            gone.append(index)
        else:
            last = turn
    for index in reversed(gone):
        messages.drop(index)
    return bool(gone)


def _joined(first: ObjectDraft, second: ObjectDraft) -> bool:
    role, (one, two) = first.string("role"), (_plain_text(first), _plain_text(second))
    if role not in ("user", "assistant") or second.string("role") != role or one is None or two is None:
        return False
    return first.set("content", msgspec.json.encode(f"{one}\n\n{two}"))


def _plain_text(turn: ObjectDraft) -> str | None:
    return text_of(turn) if PLAIN.issuperset(turn.names) else None
