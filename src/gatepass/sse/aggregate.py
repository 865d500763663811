"""One choice of an answer, gathered from its pieces: texts, lists, audio and tool calls."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Protocol

from gatepass.sse.chunk import Object, Origin, finish_reason, has_content, json_text, says
from gatepass.sse.tool_calls import Calls, ToolCall, is_whole

_CHOICE = frozenset({"index", "delta", "message", "text", "logprobs", "finish_reason"})
_CHAT_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
_REASONING = ("reasoning_content", "reasoning")
_PLACED = frozenset({"role", "content", "refusal", *_REASONING})


class Choice(Protocol):
    """`has_finished` is set by a finish reason; an empty one (Ollama, SGLang) is none. `has_said`: something
    beyond a role, be it that it is finished."""

    @property
    def has_finished(self) -> bool: ...
    @property
    def has_said(self) -> bool: ...
    @property
    def is_cut(self) -> bool:
        """Whether it lacks a finish reason, and content or the end of a call's arguments too."""
        ...

    def add(self, said: Object) -> None: ...
    def whole(self, index: int, origin: Origin, /) -> Object:
        """The choice as a plain reply has it; without a finish reason it gets the one that its content suggests."""
        ...


class _Ends:
    """What both kinds of choices tell beside their text."""

    __slots__ = ("_has_content", "_logprobs", "_reason", "_rest", "has_said")

    def __init__(self) -> None:
        self.has_said = self._has_content = False
        self._reason = ""
        self._logprobs: Gather | None = None
        self._rest: Object = {}

    @property
    def has_finished(self) -> bool:
        return bool(self._reason)

    @property
    def is_cut(self) -> bool:
        return not (self._reason or self._has_content)

    def _add_ends(self, said: Object, known: frozenset[str]) -> None:
        self.has_said = self.has_said or says(said)
        self._has_content = self._has_content or has_content(said)
        self._reason = finish_reason(said) or self._reason
        logprobs = said.get("logprobs")
        if logprobs and isinstance(logprobs, dict):
            self._logprobs = self._logprobs or Gather()
            for name, value in logprobs.items():
                self._logprobs.add(name, value)
        if not said.keys() <= known:
            for name, value in said.items():
                if name not in _CHOICE:
                    keep_last(self._rest, name, value)

    def _ends(self, names: tuple[str, ...]) -> Object | None:
        """The logprobs, with null for those of `names` that never came."""
        if self._logprobs is None:
            return None
        return {**dict.fromkeys(names), **self._logprobs.whole()}


class ChatChoice(_Ends):
    """A choice of a chat. `delta` and `message` both count, but a message after deltas, or after the
    end, repeats what was said."""

    __slots__ = ("_audio", "_audio_data", "_call", "_has_deltas", "_message", "_role", "_tools")

    def __init__(self) -> None:
        super().__init__()
        self._message = Gather()
        self._role = ""
        self._tools: Tools | None = None
        self._call: Gather | None = None
        self._audio: Gather | None = None
        self._audio_data: list[str] = []
        self._has_deltas = False

    @property
    def is_cut(self) -> bool:
        if self._reason:
            return False
        function = None if self._call is None else self._call.text("arguments") or ""
        calls_whole = self._tools is None or self._tools.are_whole
        return not (self._has_content and calls_whole and (function is None or is_whole(function)))

    def add(self, said: Object) -> None:
        delta = said.get("delta")
        if type(delta) is dict:
            self._has_deltas = True
            self._add_delta(delta)
        elif not (self._has_deltas or self._reason) and isinstance(message := said.get("message"), dict):
            self._add_delta(message)
        self._add_ends(said, _CHAT_CHOICE)

    def _add_delta(self, delta: Object) -> None:
        for name, value in delta.items():
            if value is None:
                continue
            if name == "role":
                self._role = self._role or (value if isinstance(value, str) else "")
            elif name == "tool_calls" and isinstance(value, list):
                self._tools = self._tools or Tools()
                self._tools.add(value)
            elif name == "function_call" and isinstance(value, dict):
                self._add_call(value)
            elif name == "audio" and isinstance(value, dict):
                self._add_audio(value)
            else:
                self._message.add(name, value)

    def _add_call(self, said: Object) -> None:
        """The legacy way to call one function: its name counts once."""
        call = self._call = self._call or Gather()
        for name, value in said.items():
            if name != "name" or not call.text("name"):
                call.add(name, value)

    def _add_audio(self, said: Object) -> None:
        audio = self._audio = self._audio or Gather()
        for name, value in said.items():
            if name == "data" and isinstance(value, str):
                self._audio_data.append(value)
            elif name != "id" or not audio.text("id"):
                audio.add(name, value)

    def whole(self, index: int, origin: Origin) -> Object:
        return {
            "index": index,
            "message": self._whole_message(origin),
            "logprobs": self._ends(("content", "refusal")),
            "finish_reason": self._whole_reason(),
            **self._rest,
        }

    def _whole_reason(self) -> str:
        reason = self._reason
        if self._tools and reason in ("", "stop"):
            return "tool_calls"
        return reason or ("function_call" if self._call is not None else "stop")

    def _whole_message(self, origin: Origin) -> Object:
        told = self._message.whole()
        message: Object = {"role": self._role or "assistant", "content": None, "refusal": told.get("refusal") or None}
        message.update({name: told[name] for name in _REASONING if name in told})
        if self._tools:
            message["tool_calls"] = self._tools.whole(origin)
        if self._call is not None:
            message["function_call"] = {"name": "", "arguments": "", **self._call.whole()}
        if self._audio is not None or self._audio_data:
            message["audio"] = self._whole_audio()
        has_other = message["refusal"] is not None or message.keys() & {"tool_calls", "function_call", "audio"}
        message["content"] = told.get("content", None if has_other else "")
        message.update({name: value for name, value in told.items() if name not in _PLACED})
        return message

    def _whole_audio(self) -> Object:
        told = self._audio.whole() if self._audio is not None else {}
        return {**told, "data": joined_base64(self._audio_data), "transcript": told.get("transcript", "")}


class TextChoice(_Ends):
    """A choice of `/v1/completions`."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        super().__init__()
        self._texts: list[str] = []

    def add(self, said: Object) -> None:
        text = said.get("text")
        if isinstance(text, str):
            self._texts.append(text)
        self._add_ends(said, _CHOICE)

    def whole(self, index: int, _origin: Origin) -> Object:
        return {
            "text": "".join(self._texts),
            "index": index,
            "logprobs": self._ends(()),
            "finish_reason": self._reason or "stop",
            **self._rest,
        }


def new_choice(said: Any) -> ChatChoice | TextChoice:
    """The kind that the first piece of a choice tells."""
    is_text = "text" in said and "delta" not in said and "message" not in said
    return TextChoice() if is_text else ChatChoice()


_BASE64_GROUP = 4


class Gather:
    """The members of one object that comes in pieces: texts are joined, lists are extended, of
    anything else the last value counts that says something."""

    __slots__ = ("_lists", "_texts", "_values")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._values: Object = {}

    def add(self, name: str, value: Any) -> None:
        """One piece of the member `name`; null says nothing."""
        if type(value) is str:
            texts = self._texts.get(name)
            if texts is None:
                self._texts[name] = [value]
            else:
                texts.append(value)
        elif type(value) is list:
            self._lists.setdefault(name, []).extend(value)
        elif value is not None:
            keep_last(self._values, name, value)

    def text(self, name: str) -> str | None:
        """The whole text, None where no piece of one came."""
        pieces = self._texts.get(name)
        return None if pieces is None else "".join(pieces)

    def whole(self) -> Object:
        """All members, whole. Where a member came in texts and in lists the texts are parts among its parts."""
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        parted = {
            name: [{"type": "text", "text": texts.pop(name)}, *parts] if texts.get(name) else parts
            for name, parts in self._lists.items()
        }
        return {**self._values, **texts, **parted}


def keep_last(said: Object, name: str, value: Any) -> None:
    """Remember `value` unless it says nothing and something was said before."""
    if value is not None and (value not in ({}, []) or name not in said):
        said[name] = value


def joined_base64(pieces: Sequence[str]) -> str:
    """One base64 text for what came in several: cut anywhere, or each encoded by itself with its padding."""
    joined = "".join(pieces)
    if "=" not in joined.rstrip("=") and len(joined) % _BASE64_GROUP == 0:
        return joined
    try:
        return base64.b64encode(b"".join(_decoded(piece) for piece in pieces)).decode()
    except (ValueError, binascii.Error):
        return joined


def _decoded(piece: str) -> bytes:
    bare = piece.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % _BASE64_GROUP), validate=True)


_KNOWN = frozenset({"index", "id", "type", "function", "custom"})
_NAMED = frozenset({"name", "arguments", "input"})


class Tools:
    """Puts tool deltas together; calls come out in the order of appearance, without `index`."""

    __slots__ = ("_calls", "_whole")

    def __init__(self) -> None:
        self._calls = Calls()
        self._whole: list[_Call] = []

    def __len__(self) -> int:
        return len(self._whole)

    @property
    def are_whole(self) -> bool:
        return all(call.is_whole for call in self._whole)

    def add(self, entries: list[Any]) -> None:
        for piece in self._calls.place(entries):
            if piece.opens:
                self._whole.append(_Call(piece.call))
            self._whole[piece.call.number].add(piece.said)

    def whole(self, origin: Origin) -> list[Object]:
        return [call.whole(origin) for call in self._whole]


class _Call:
    """One call. Its id, type and name count once, whatever repeats them; its arguments are joined."""

    __slots__ = ("_arguments", "_call", "_inner", "_kind", "_name", "_rest", "_type")

    def __init__(self, call: ToolCall) -> None:
        self._call = call
        self._kind = "function"
        self._type = self._name = ""
        self._arguments: list[str] = []
        self._rest: Object = {}
        self._inner: Object = {}

    def add(self, said: Object) -> None:
        kind = said.get("type")
        if isinstance(kind, str) and not self._type:
            self._type = kind
        for name, value in said.items():
            if name in ("function", "custom") and isinstance(value, dict):
                self._kind = name
                self._add_inner(value)
            elif name not in _KNOWN:
                keep_last(self._rest, name, value)

    def _add_inner(self, said: Object) -> None:
        name = said.get("name")
        if isinstance(name, str) and not self._name:
            self._name = name
        arguments = said.get("arguments", said.get("input"))
        if arguments is not None:
            self._arguments.append(arguments if isinstance(arguments, str) else json_text(arguments).decode())
        if said.keys() - _NAMED:
            for key, value in said.items():
                if key not in _NAMED:
                    keep_last(self._inner, key, value)

    @property
    def is_whole(self) -> bool:
        """Whether it has all that it is called with; whether a text is whole, no text tells."""
        arguments = "".join(self._arguments)
        return arguments != "" if self._kind == "custom" else is_whole(arguments)

    def whole(self, origin: Origin) -> Object:
        text = "input" if self._kind == "custom" else "arguments"
        return {
            "id": self._call.id or origin.new_id("call_"),
            "type": self._type or self._kind,
            self._kind: {"name": self._name, text: "".join(self._arguments), **self._inner},
            **self._rest,
        }
