"""Change messages: roles and their order, content, ids of tool calls.

Texts are joined as JSON text, without decoding them: to decode one of 27 MiB takes 80 ms, and four times the memory.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from gatepass.draft import Draft, ListDraft, ObjectDraft, fixed_change
from gatepass.json_body import RAW
from gatepass.normalize.betas import BETA_FIELD
from gatepass.normalize.members import JsonMemberPath


@fixed_change("content=text")
def join_text_parts(draft: Draft) -> bool:
    """Join a list of text parts into one string, with an empty line between two. Entry `content=text`."""
    changed = 0
    for message in draft.messages:
        if message.kind("content") == "[" and (text := message_text(message)) is not None:
            changed += message.set("content", b'"', text, b'"')
    return changed > 0


@fixed_change("content=empty")
def fill_empty_content(draft: Draft) -> bool:
    """Replace `content: null` by `""`, and add it to assistant messages without `content`. Entry `content=empty`."""
    changed = 0
    for message in draft.messages:
        kind = message.kind("content")
        if kind == "n" or (kind is None and message.string("role") == "assistant"):
            changed += message.set("content", b'""')
    return changed > 0


@fixed_change("content=filled")
def drop_empty_text(draft: Draft) -> bool:
    """Drop parts with an empty text beside others, and messages of the assistant without any content.

    A call of a tool without a text has `content: null`. Entry `content=filled`.
    """
    messages, changed, gone = draft.top.array("messages"), 0, list[int]()
    for at, message in [] if messages is None else messages.numbered():
        parts, is_answer = message.array("content"), message.string("role") == "assistant"
        if parts is not None:
            numbered = parts.numbered()
            texts = [(index, part) for index, part in numbered if part.string("type") in _TEXTS]
            empty = [index for index, part in texts if is_blank(part.raw_string("text"))]
            if len(empty) < len(numbered):
                changed += len(empty)
                parts.drop(empty)
                continue
        if not (is_blank(message.raw_string("content")) or (parts is not None and is_answer)):
            continue
        if message.kind("tool_calls") == "[" or message.kind("function_call") == "{":
            changed += message.set("content", b"null")
        elif is_answer and PLAIN.issuperset(message.names):
            gone.append(at)
    if messages is not None:
        messages.drop(gone)
    return changed + len(gone) > 0


_TEXTS = ("text", "input_text", "output_text")


def is_blank(text: bytes | None) -> bool:
    """Whether `text` (JSON, without its quotes) is only white space."""
    return text is not None and not text.replace(rb"\n", b"").replace(rb"\t", b"").strip()


_EMPTY_LINE = rb"\n\n"


def message_text(message: ObjectDraft) -> bytes | None:
    """Return the content of a message as one text, in JSON without its quotes.

    None if the message has no content, or parts other than text.
    """
    content = message.raw_string("content")
    if content is not None or message.kind("content") != "[":
        return content
    parts = message.array("content")
    texts_of = [] if parts is None else [part for part in parts.objects() if part.string("type") == "text"]
    texts = [text for part in texts_of if (text := part.raw_string("text")) is not None]
    return _EMPTY_LINE.join(texts) if parts is not None and texts and len(texts) == len(parts) else None


OWN_THOUGHT = "gatepass_thought"
"""How the signature of a thought begins that gatepass made of a chat's reasoning. Only a chat accepts it again."""
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]*")
CODED, _CARRYING = "gp_", f"gp_{OWN_THOUGHT}_"


def client_id(call_id: str, carried: str = "") -> str:
    """Return the id of a chat's call in the letters that Anthropic accepts: `functions.f:0` has others.

    `carried` travels in it, behind a character that no id has.
    """
    if _PLAIN_ID.fullmatch(call_id) and not carried:
        return call_id
    text = f"{call_id}\0{carried}" if carried else call_id
    coded = urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    return (_CARRYING if carried else CODED) + coded


def chat_id(call_id: str) -> tuple[str, str]:
    """Return the id of the chat's call and what travelled in it; an id that `client_id` did not return unchanged."""
    if not call_id.startswith(CODED):
        return call_id, ""
    coded = call_id.removeprefix(_CARRYING if call_id.startswith(_CARRYING) else CODED)
    try:
        text = urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode("utf-8", "surrogatepass")
    except ValueError:
        return call_id, ""
    found, _, carried = text.partition("\0")
    return (found, carried) if client_id(found, carried) == call_id else (call_id, "")


def signature_of(carried: str) -> str:
    """Return the signature of a thought of gatepass, with what its server needs again."""
    return OWN_THOUGHT + client_id("", carried).removeprefix(_CARRYING)


def carried_by(signature: str) -> str:
    return chat_id(_CARRYING + signature.removeprefix(OWN_THOUGHT))[1]


@fixed_change("drop=own-thoughts")
def drop_own_thoughts(draft: Draft) -> bool:
    """Drop thoughts whose signature begins with OWN_THOUGHT from messages and from the input of a response.

    An upstream that speaks these protocols rejects signatures of others. It also rejects a message without content, so
    a message that had only such thoughts is dropped too. What travels in the id of a call is dropped as well: OpenAI
    refuses long ids. Entry `drop=own-thoughts`.
    """
    own, carrying, names = OWN_THOUGHT.encode(), _CARRYING.encode(), ("signature", "encrypted_content")
    shortened = 0

    def is_own(one: ObjectDraft) -> bool:
        nonlocal shortened
        for name in ("id", "call_id", "tool_use_id"):
            if (text := one.raw_string(name)) is not None and text.startswith(carrying):
                found = client_id(chat_id(text.decode("ascii", "replace"))[0])
                shortened += one.set(name, msgspec.json.encode(found))
        return any((one.raw_string(name) or b"").startswith(own) for name in names)

    return _drop_thoughts(draft, is_own) or shortened > 0


@fixed_change("drop=thoughts")
def drop_thoughts(draft: Draft) -> bool:
    """Drop all thoughts that a server signed or encrypted, as `drop_own_thoughts` does. Entry `drop=thoughts`.

    Only the server that wrote a thought can read it again.
    """
    return _drop_thoughts(draft, _is_signed)


def _is_signed(one: ObjectDraft) -> bool:
    kind = one.string("type")
    return kind in ("thinking", "redacted_thinking") or (kind == "reasoning" and one.kind("encrypted_content") == '"')


def _drop_thoughts(draft: Draft, is_meant: Callable[[ObjectDraft], bool]) -> bool:
    """Drop the items of a response's input and the blocks of messages for which `is_meant` is true."""
    dropped, messages = _drop_blocks(draft.top.array("input"), is_meant), draft.top.array("messages")
    if messages is not None:
        contents = [(at, message.array("content")) for at, message in messages.numbered()]
        found = [(at, content, _drop_blocks(content, is_meant)) for at, content in contents]
        messages.drop([at for at, content, count in found if count and not content])
        dropped += sum(count for _, _, count in found)
    return dropped > 0


def _drop_blocks(blocks: ListDraft | None, is_meant: Callable[[ObjectDraft], bool]) -> int:
    found = [] if blocks is None else [at for at, block in blocks.numbered() if is_meant(block)]
    if blocks is not None and found:
        blocks.drop(found)
    return len(found)


SYSTEM_ROLES = ("system", "developer")
PLAIN = frozenset(("role", "content"))
"""The only members of messages to merge: a merge would lose any other."""


@dataclass(frozen=True, slots=True)
class Role:
    """Change the role `old` of every message to `new`. Entry `role=OLD>NEW`."""

    old: str
    new: str

    @property
    def entry(self) -> str:
        return f"role={self.old}>{self.new}"

    def apply_to(self, draft: Draft) -> bool:
        found = [message for message in draft.messages if message.string("role") == self.old]
        return sum(message.set("role", msgspec.json.encode(self.new)) for message in found) > 0


@fixed_change("role=system>user")
def system_into_user(draft: Draft) -> bool:
    """Move the texts of system and developer messages to the beginning of the first user message.

    It requires a user message, and only text in the messages to move. Entry `role=system>user`.
    """
    messages = draft.top.array("messages")
    if messages is None:
        return False
    numbered = messages.numbered()
    systems = {index: message for index, message in numbered if message.string("role") in SYSTEM_ROLES}
    user = next((message for _, message in numbered if message.string("role") == "user"), None)
    found = [message_text(message) for message in systems.values()]
    texts = [text for text in found if text is not None]
    if not systems or user is None or len(texts) < len(found):
        return False
    text = _EMPTY_LINE.join(texts)
    if (parts := user.array("content")) is not None:
        parts.insert(0, b'{"type":"text","text":"%b"}' % text)
    elif (content := user.raw_string("content")) is not None:
        user.set("content", b'"', text, _EMPTY_LINE, content, b'"')
    else:
        return False
    messages.drop(systems)
    return True


@fixed_change("roles=user")
def last_system_as_user(draft: Draft) -> bool:
    """Make the last system message the user's if the chat has no message of a user. Entry `roles=user`.

    Dify sends such chats, and templates such as that of Qwen 3.5 refuse them.
    """
    systems = [message for message in draft.messages if message.string("role") in SYSTEM_ROLES]
    has_user = any(message.string("role") == "user" for message in draft.messages)
    return bool(systems) and not has_user and systems[-1].set("role", b'"user"')


@fixed_change("roles=merged")
def merge_roles(draft: Draft) -> bool:
    """Merge neighbouring text messages of one role, and all system messages into a first one. Entry `roles=merged`."""
    messages = draft.top.array("messages")
    # a list, because `any` would skip the second step if the first one changes something
    return messages is not None and any([_gather_system(messages), _merge_neighbours(messages)])


@fixed_change("roles=system")
def merge_system(draft: Draft) -> bool:
    """Merge all system messages into a first one, on `/v1/messages` into `system`. Entry `roles=system`."""
    messages = draft.top.array("messages")
    if messages is None:
        return False
    if BETA_FIELD not in draft.members:
        return _gather_system(messages)
    before = draft.top.raw_string("system")
    found = _system_texts(messages)
    if not found or (before is None and draft.top.kind("system") not in (None, "n", "[")):
        return False
    text = _EMPTY_LINE.join(found.values())
    if (parts := draft.top.array("system")) is not None:
        parts.insert(len(parts), b'{"type":"text","text":"%b"}' % text)
    else:
        draft.top.set("system", b'"', *((before, _EMPTY_LINE) if before else ()), text, b'"')
    messages.drop(found)
    return True


def _system_texts(messages: ListDraft) -> dict[int, bytes]:
    """Return the texts of all plain system messages by their places."""
    systems = [(at, _plain_text(message)) for at, message in messages.numbered() if message.string("role") == "system"]
    return {at: text for at, text in systems if text}


def _gather_system(messages: ListDraft) -> bool:
    """Replace all plain system messages by one in front, unless the first message is the only one."""
    found = _system_texts(messages)
    if not found or list(found) == [0]:
        return False
    text = _EMPTY_LINE.join(found.values())
    messages.drop(found)
    messages.insert(0, b'{"role":"system","content":"%b"}' % text)
    return True


def _merge_neighbours(messages: ListDraft) -> bool:
    gone: list[int] = []
    groups: list[tuple[ObjectDraft, list[bytes]]] = []  # a message, its text and those of the neighbours to merge
    first_role = None
    for index, message in messages.numbered():
        role, text = message.string("role"), _plain_text(message)
        if groups and text is not None and role == first_role and role in ("user", "assistant"):
            gone.append(index)
            groups[-1][1].append(text)
        else:
            groups.append((message, [text or b""]))
            first_role = role if text is not None else None
    for message, texts in groups:
        if len(texts) > 1:  # joined once for each group: joining at each message takes hours for a long chat
            message.set("content", b'"', _EMPTY_LINE.join(texts), b'"')
    messages.drop(gone)
    return bool(gone)


def _plain_text(message: ObjectDraft) -> bytes | None:
    return message_text(message) if PLAIN.issuperset(message.names) else None


DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Mistral accepts only ids of nine letters and digits.
CHARS = 9
_FITS = re.compile(r"[A-Za-z0-9]{9}\Z")
_ID_OF = {"tool_use": "id", "tool_result": "tool_use_id"}


@fixed_change("tool_ids=short")
def shorten_tool_ids(draft: Draft) -> bool:
    """Shorten ids of tool calls, each to the same id in every request and process. Entry `tool_ids=short`.

    An id above SMALL_BYTES remains: no upstream created it.
    """
    # no character of it needs an escape
    return sum(owner.set(name, f'"{short_id(id_)}"'.encode()) for owner, name, id_ in [*tool_ids(draft)]) > 0


def tool_ids(draft: Draft) -> Iterator[tuple[ObjectDraft, str, str]]:
    """Yield each id of a tool call in messages and in the input of a response, with its owner and its name there."""
    items = draft.top.array("input")
    owners = [] if items is None else [(item, "call_id") for item in items.objects()]
    for message in draft.messages:
        calls, parts = message.array("tool_calls"), message.array("content")
        owners += [(call, "id") for call in calls.objects()] if calls is not None else []
        for part in [] if parts is None else parts.objects():
            owners += [(part, _ID_OF[kind])] if (kind := part.string("type")) in _ID_OF else []
        owners.append((message, "tool_call_id"))
    yield from ((owner, name, id_) for owner, name in owners if (id_ := owner.string(name)) is not None)


@fixed_change("arguments=empty")
def empty_broken_arguments(draft: Draft) -> bool:
    """Replace the arguments of calls that are null or no JSON by `{}`. Entry `arguments=empty`.

    A call that was cut stays in the client's history, and servers that parse it refuse each further turn.
    """
    changed = 0
    for owner in _with_arguments(draft, '"n'):
        try:
            RAW.decode(msgspec.json.decode(owner.text("arguments") or b"", type=str))
        except (msgspec.DecodeError, RecursionError):
            changed += owner.set("arguments", b'"{}"')
    return changed > 0


@fixed_change("arguments=text")
def arguments_into_text(draft: Draft) -> bool:
    """Write the arguments of calls that are objects as their JSON text. Entry `arguments=text`."""
    owners = _with_arguments(draft, "{")
    texts = ((owner, (owner.text("arguments") or b"").decode("utf-8", "replace")) for owner in owners)
    return sum(owner.set("arguments", msgspec.json.encode(text)) for owner, text in texts) > 0


def _with_arguments(draft: Draft, kinds: str) -> list[ObjectDraft]:
    """Return the calls of the history whose arguments are of one of these kinds of JSON."""
    places = ("messages[].tool_calls[].function.x", "messages[].function_call.x", "input[].x")
    owners = (owner for place in places for owner in JsonMemberPath.parse(place).owners(draft))
    return [owner for owner in owners if (owner.kind("arguments") or " ") in kinds]


def short_id(id_: str) -> str:
    """Return the first nine digits, base 62, of the id's SHA-256; an id of that form is returned unchanged."""
    if _FITS.match(id_) is not None:
        return id_
    number = int.from_bytes(sha256(id_.encode()).digest())  # a hash, so that processes need not share a table
    digits = []
    while number:
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))[:CHARS]
