"""Streams of chat completions with tool calls, drawn by a seed: all are valid, and each has a known meaning.

What is valid and still ambiguous is not drawn: an unknown name whose second piece repeats the first one is a repetition
to gatepass, and one whose second piece is a tool begins the next call. Of an id in pieces gatepass keeps the first one,
because the ids of others change from piece to piece.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Chunk = dict[str, Any]
Entry = dict[str, Any]
Meaning = dict[str, Any]
"""`choices`: the text, the calls as (name, arguments, id) and the finish reason of each; `usage`: its two counts.

The id is None where the upstream has none that a client could compare.
"""

FAMILIES = (
    ("search", "search_web", "search_web_images"),
    ("get_weather", "get_time", "get"),
    ("read_file", "read_files", "write_file"),
    ("天气", "天气.查询"),
    ("f", "fg", "fgh"),
    ("mcp__files__read", "mcp__files__write"),
)
UNKNOWN = ("made_up", "web_browser", "search_engine", "getaway", "run-it", "öffnen")
TEXTS = ("I look.", "Ich prüfe das.", "让我看看。", 'A "quote", a \\ and a\nline.', "😀👩‍💻", "{", " ")
WORDS = ("Paris", "Zürich", "北京", 'say "hi"', "C:\\dir\\new", "line\nline\ttab", "😀", "</tool>", "a/b", "\u2028", "")


def as_text(value: Any) -> str:
    """Return `value` with its surrogate pairs joined, of which a text that was cut has halves."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_arguments(text: str) -> Any:
    """Return what arguments mean: the value, `{}` for none, and a text that is no JSON as it is."""
    try:
        return json.loads(as_text(text) or "{}", strict=False)
    except ValueError:
        return as_text(text)


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str
    id: str | None


@dataclass(frozen=True)
class Choice:
    text: str
    calls: tuple[Call, ...]
    finish: str
    is_legacy: bool = False
    """Its only call is a `function_call`."""


@dataclass(frozen=True)
class Drawn:
    seed: int
    tools: tuple[str, ...]
    choices: tuple[Choice, ...]
    usage: tuple[int, int] | None
    features: frozenset[str]
    """What the stream has that a usual one has not: see SHARES and ONE_OF."""
    chunks: tuple[Chunk, ...]
    is_clean: bool = False
    """It is as OpenAI sends it, and no name that is called begins that of another tool. Its bytes pass unchanged."""

    @property
    def meaning(self) -> Meaning:
        return {"choices": [_meaning(choice) for choice in self.choices], "usage": self.usage}

    @property
    def writes(self) -> list[bytes]:
        """Return the body of the stream as the upstream writes it: by event, cut anywhere, or in part by byte."""
        random = Random(self.seed)
        end = random.choice(("\r\n", "\r\n", "\r")) if "line ends" in self.features else "\n"
        is_ascii = "cut pairs" in self.features or random.random() < 0.5
        separators = random.choice(((",", ":"), (", ", ": ")))
        lines: list[str] = []
        for chunk in self.chunks:
            indent = 1 if "several lines" in self.features and random.random() < 0.5 else None
            text = json.dumps(chunk, ensure_ascii=is_ascii, separators=separators, indent=indent)
            comments = random.choice(([": keep-alive", ""], [":"], [], [])) if "comments" in self.features else []
            lines += [*comments, *(f"data: {line}" for line in text.split("\n")), ""]
        body = end.join((*lines, "data: [DONE]", "", "")).encode()
        if (how := random.choice(("events", "anywhere", "bytes"))) == "events":
            events = [one + end.encode() * 2 for one in body.split(end.encode() * 2)[:-1]]
        elif how == "anywhere":
            events = _cut(body, random.randint(2, 12), random)
        else:
            at = random.randrange(len(body))
            events = [body[:at], *(bytes([one]) for one in body[at : at + 40]), body[at + 40 :]]
        return [one for one in events if one]

    @property
    def completion(self) -> Chunk:
        """Return the answer of an upstream that does not stream."""
        random = Random(self.seed)
        choices = [
            {"index": at, "message": _message(one, random), "finish_reason": one.finish}
            for at, one in enumerate(self.choices)
        ]
        usage = {} if self.usage is None else {"usage": _usage(*self.usage)}
        return {**_head(self.seed), "object": "chat.completion", "choices": choices, **usage}

    def __str__(self) -> str:
        is_ascii = "cut pairs" in self.features
        shown = "\n".join(json.dumps(chunk, ensure_ascii=is_ascii) for chunk in self.chunks)
        return f"seed {self.seed}, tools {[*self.tools]}, {sorted(self.features)}\n{shown}"


def _meaning(choice: Choice) -> tuple[str, list[Any], str]:
    calls = [(call.name, read_arguments(call.arguments), call.id) for call in choice.calls]
    finish = "tool_calls" if calls and choice.finish == "stop" and not choice.is_legacy else choice.finish
    return as_text(choice.text), calls, finish


def _head(seed: int) -> Chunk:
    return {"id": f"chatcmpl-{seed}", "object": "chat.completion.chunk", "created": 1_790_000_000, "model": "up"}


def _usage(prompt: int, completion: int) -> Chunk:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _message(choice: Choice, random: Random) -> Chunk:
    message: Chunk = {"role": "assistant", "content": as_text(choice.text) or random.choice((None, ""))}
    functions = [{"name": call.name, "arguments": call.arguments} for call in choice.calls]
    if choice.is_legacy:
        return {**message, "function_call": functions[0]}
    if functions:
        pairs = zip(choice.calls, functions, strict=True)
        message["tool_calls"] = [
            {**({"id": call.id} if call.id else {}), "type": "function", "function": function}
            for call, function in pairs
        ]
    return message


def _cut(text: Any, count: int, random: Random) -> list[Any]:
    """Return a text, or bytes, in at most `count` pieces."""
    places = sorted(random.sample(range(1, len(text)), min(count, len(text)) - 1))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


# --- what is drawn ------------------------------------------------------------------------------------------------


def draw(seed: int, *, is_translated: bool = False) -> Drawn:
    """Draw the stream of `seed`.

    `is_translated`: it has what Messages and Responses have too, so one choice, and names of tools that a translation
    does not change for the upstream.
    """
    random = Random(seed)
    tools = tuple(name for name in _tools(random) if name.isascii() or not is_translated)
    features = set() if random.random() < 0.25 else _features(random)
    if is_translated:
        features -= {"two choices", "legacy"}
    count = 2 if "two choices" in features else 1
    makers = [_ChoiceMaker(random, tools, features, at) for at in range(count)]
    usage = (random.randint(1, 900), random.randint(1, 90)) if random.random() < 0.9 else None
    chunks = _with_usage(_mixed([one.deltas for one in makers], random, seed), usage, features, random, seed)
    choices = tuple(one.choice for one in makers)
    called = {call.name for choice in choices for call in choice.calls}
    waits = any(tool.startswith(name) and tool != name for tool in tools for name in called)
    is_clean = not features and not waits
    if not any(one.has_cut_name for one in makers):
        features.discard("cut name")
    return Drawn(seed, tools, choices, usage, frozenset(features), tuple(chunks), is_clean)


def _tools(random: Random) -> tuple[str, ...]:
    named = [name for family in random.sample(FAMILIES, random.randint(1, 3)) for name in family]
    return tuple(random.sample(named, random.randint(1, len(named)))) if random.random() < 0.9 else ()


SHARES = {
    "cut name": 0.5,
    "two choices": 0.2,
    "interleaved": 0.4,
    "legacy": 0.05,
    "comments": 0.2,
    "several lines": 0.15,
    "line ends": 0.2,
    "nulls": 0.3,
    "empty texts": 0.2,
    "empty types": 0.1,
    "several entries": 0.2,
    "cut pairs": 0.15,
    "finish stop": 0.1,
    "no type": 0.1,
}
"""How often a stream that is not clean has a feature."""
ONE_OF = (
    {"ids repeated": 0.15, "no ids": 0.1, "late ids": 0.1, "early ids": 0.1, "cut ids": 0.05},
    {"usage in each": 0.2, "usage with the finish": 0.15},
    {"index from one": 0.1, "index out of order": 0.1, "index with gaps": 0.05, "no index": 0.1},
)
"""The same for features of which a stream has one at most."""


def _features(random: Random) -> set[str]:
    found = {name for name, share in SHARES.items() if random.random() < share}
    for group in ONE_OF:
        found |= {*random.choices([*group, ""], [*group.values(), 1 - sum(group.values())])} - {""}
    return found


def _mixed(queues: Sequence[list[tuple[Chunk, str | None]]], random: Random, seed: int) -> list[Chunk]:
    """Return the chunks of all choices. The first ones come in order: openai-python's helper fails otherwise."""
    left = [[(at, *one) for one in queue] for at, queue in enumerate(queues)]
    order = [queue.pop(0) for queue in left]
    while some := [queue for queue in left if queue]:
        order.append(random.choice(some).pop(0))
    return [
        {**_head(seed), "choices": [{"index": at, "delta": delta, "finish_reason": end}]} for at, delta, end in order
    ]


def _with_usage(
    chunks: list[Chunk], usage: tuple[int, int] | None, features: set[str], random: Random, seed: int
) -> list[Chunk]:
    if usage is None:
        return chunks
    if "usage in each" in features:
        for at, chunk in enumerate(chunks):
            chunk["usage"] = _usage(usage[0], min(at, usage[1] - 1))
    elif random.random() < 0.5:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
    if "usage with the finish" in features:
        return [*chunks[:-1], {**chunks[-1], "usage": _usage(*usage)}]
    return [*chunks, {**_head(seed), "choices": [], "usage": _usage(*usage)}]


class _ChoiceMaker:
    """Draws one choice: `choice`, and its deltas, each with a finish reason or None."""

    def __init__(self, random: Random, tools: Sequence[str], features: set[str], place: int) -> None:
        self.random, self.tools, self.features, self.place = random, tools, features, place
        self.has_cut_name = False
        count = 1 if "legacy" in features else random.choice((1, 1, 2, 3)) if place == 0 else random.randint(0, 2)
        indices = self._indices(count)
        drawn = [self._call(at) for at in range(count)]
        queues = [self._entries(call, index) for call, index in zip(drawn, indices, strict=True)]
        calls = self._ordered(queues)
        texts = self._texts()
        finish = "stop" if not count or "finish stop" in features else "tool_calls"
        finish = "length" if random.random() < 0.05 else finish
        if is_legacy := "legacy" in features and count == 1:
            finish = "function_call"
            calls = [{"function_call": entry["function"]} for group in queues[0] for entry in group]
        self.deltas = self._merged(texts, calls, finish)
        cut_ids = features & {"cut ids", "no ids"} or is_legacy
        made = tuple(Call(one.name, one.arguments, None if cut_ids else one.id) for one in drawn)
        self.choice = Choice("".join(texts), made, finish, is_legacy)

    def _indices(self, count: int) -> list[int | None]:
        if "no index" in self.features:
            return [None] * count
        if "index out of order" in self.features:
            return list(range(count - 1, -1, -1))
        step, first = (2 if "index with gaps" in self.features else 1), int("index from one" in self.features)
        return [first + step * at for at in range(count)]

    def _call(self, at: int) -> Call:
        random = self.random
        is_known = self.tools and random.random() < 0.8
        name = random.choice([*self.tools] if is_known else [one for one in UNKNOWN if one not in self.tools])
        count = random.choice((1, 1, 2, 3))
        members = {word: self._value() for word in random.sample(("q", "city", "größe", "paths", "n"), count)}
        text = json.dumps(members, ensure_ascii=random.random() < 0.4)
        # without index and ids only whole arguments show that the next name begins a call
        if random.random() < 0.1 and "no index" not in self.features:
            text = random.choice(("", "{}")) if self.features else "{}"  # of none gatepass makes {}
        form = random.choice(("call_{:x}", "chatcmpl-tool-{:x}", "toolu_{:x}"))
        return Call(name, text, form.format(random.getrandbits(48)) + str(at))

    def _value(self) -> Any:
        random = self.random
        return random.choice((random.choice(WORDS), random.randint(-9, 999), None, True, [random.choice(WORDS), {}]))

    # --- entries ---

    def _entries(self, call: Call, index: int | None) -> list[list[Entry]]:
        """Return the entries of a call. Those of one list stay together."""
        names = self._name_pieces(call.name)
        arguments = _cut(call.arguments, self.random.randint(1, 5), self.random) if call.arguments else []
        opening: list[Entry] = [{"name": names[0], **self._no_arguments()}, *({"name": name} for name in names[1:])]
        if self._may_name_late(names, arguments):
            opening[0]["arguments"], opening[1]["arguments"], *arguments = arguments
        elif arguments and len(names) == 1 and "late ids" not in self.features and self.random.random() < 0.2:
            opening[0]["arguments"], *arguments = arguments
        entries: list[Entry] = [{"function": one} for one in (*opening, *({"arguments": piece} for piece in arguments))]
        if "no type" not in self.features:
            entries[0] = {"type": "function", **entries[0]}
        together = self._add_ids(entries, len(opening), call.id or "")
        numbered = [entry if index is None else {"index": index, **entry} for entry in entries]
        filled = [numbered[0], *map(self._filled, numbered[1:])]
        return [filled[:together], *([one] for one in filled[together:])]

    def _add_ids(self, entries: list[Entry], names: int, identity: str) -> int:
        """Add the id of a call. Return how many entries stay together: what comes between may send a call without."""
        random, features = self.random, self.features
        if "early ids" in features:
            function = random.choice(({}, {"arguments": ""}, {"name": "", "arguments": ""}, {"name": None}))
            entries.insert(0, {"id": identity, "function": function})
        elif "late ids" in features and len(entries) > 1:
            at = random.randint(1, max(1, names - 1))
            entries[at] = {"id": identity, **entries[at]}
            return at + 1
        elif "cut ids" in features and len(entries) > names:
            # a first piece that another call has too would be the id of that call
            for at, piece in zip((0, names), (identity[:-3], identity[-3:]), strict=True):
                entries[at] = {"id": piece, **entries[at]}
        elif "no ids" not in features:
            for at in range(len(entries) if "ids repeated" in features else 1):
                entries[at] = {"id": identity, **entries[at]}
        return 1

    def _no_arguments(self) -> Entry:
        return self.random.choice(({}, {"arguments": ""}, {"arguments": None})) if self.features else {"arguments": ""}

    def _may_name_late(self, names: list[str], arguments: list[str]) -> bool:
        """Whether arguments may come before the name is whole: its first piece begins a tool, and is none."""
        return (
            len(names) == 2
            and len(arguments) > 2
            and names[0] not in self.tools
            and "".join(names) in self.tools
            and "late ids" not in self.features
            and self.random.random() < 0.3
        )

    def _name_pieces(self, name: str) -> list[str]:
        if "cut name" not in self.features:
            return [name]
        pieces = _cut(name, self.random.randint(2, 3), self.random)
        if len(pieces) == 1 or not self._is_clear(pieces):
            return [name]
        self.has_cut_name = True
        return pieces

    def _is_clear(self, pieces: list[str]) -> bool:
        """Whether each piece is one to a reader that knows the tools, and is no repetition and no other call."""
        so_far = pieces[0]
        for piece in pieces[1:]:
            if not self._begins(so_far + piece) and (piece.startswith(so_far) or piece in self.tools):
                return False
            so_far += piece
        return True

    def _begins(self, name: str) -> bool:
        return any(tool.startswith(name) for tool in self.tools)

    def _filled(self, entry: Entry) -> Entry:
        """Return a later entry as SGLang and older vLLM send it, with members that are null or empty."""
        nothing: list[Any] = [None] * ("nulls" in self.features) + [""] * ("empty texts" in self.features)
        if not nothing:
            return entry
        names = ("id", "type") if "empty types" in self.features else ("id",)
        members = {name: self.random.choice(nothing) for name in names if name not in entry}
        inner = dict(entry.get("function", {}))
        if inner and "name" not in inner:
            inner["name"] = self.random.choice(nothing)
        return {**members, **entry, **({"function": inner} if inner else {})}

    # --- deltas ---

    def _ordered(self, queues: list[list[list[Entry]]]) -> list[Entry]:
        """Return the deltas of all calls, which begin in order."""
        random, left = self.random, [list(queue) for queue in queues]
        # without an index an entry belongs to its id, or to the last call
        may_mix = "interleaved" in self.features and (
            "no index" not in self.features or "ids repeated" in self.features
        )
        order: list[list[Entry]] = []
        if may_mix:
            begun = 0
            while any(left):
                some = [queue for queue in left[:begun] if queue]
                if begun < len(left) and (not some or random.random() < 0.4):
                    some, begun = [left[begun]], begun + 1
                order.append(random.choice(some).pop(0))
        else:
            order = [group for queue in left for group in queue]
        deltas: list[list[Entry]] = []
        for entry in (entry for group in order for entry in group):
            # in one delta without index, each name without an id is read as that of another call
            is_alone = "index" not in entry and not entry.get("id") and entry["function"].get("name")
            if deltas and "several entries" in self.features and not is_alone and random.random() < 0.3:
                deltas[-1].append(entry)
            else:
                deltas.append([entry])
        return [{"tool_calls": one} for one in deltas]

    def _texts(self) -> list[str]:
        random = self.random
        count = random.choice((0, 1, 2, 3)) if self.place == 0 else random.randint(1, 3)
        texts = [random.choice(TEXTS) for _ in range(count)]
        if "cut pairs" in self.features:  # as servers do that count in UTF-16
            texts += ["\ud83d", "\ude00"]
        return texts

    def _merged(self, texts: list[str], calls: list[Entry], finish: str) -> list[tuple[Chunk, str | None]]:
        """Return texts before, between and after the calls, and the finish reason."""
        random = self.random
        begin: Chunk = {"role": "assistant", "content": random.choice(("", None)) if self.features else ""}
        deltas = list(calls)
        places = sorted(random.randint(0, len(calls)) if self.features else 0 for _ in texts)
        for at, text in reversed([*zip(places, texts, strict=True)]):
            if at < len(calls) and self.features and random.random() < 0.2 and "content" not in deltas[at]:
                deltas[at] = {"content": text, **deltas[at]}
            else:
                deltas.insert(at, {"content": text})
        ends: list[tuple[Chunk, str | None]] = [({}, finish)]
        if self.features and deltas and random.random() < 0.2:
            ends = [(deltas.pop(), finish)]
        return [(begin, None), *((one, None) for one in deltas), *ends]
