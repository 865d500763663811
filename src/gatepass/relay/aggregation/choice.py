"""One choice of an answer, gathered from its pieces."""

from __future__ import annotations

from typing import Any, Protocol

from gatepass.relay.aggregation.gather import Gather, joined_base64, keep_last
from gatepass.relay.aggregation.tools import Tools
from gatepass.relay.chunk import Object, Origin, finish_reason, says

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
    def add(self, said: Object) -> None: ...
    def whole(self, index: int, origin: Origin, /) -> Object:
        """The choice as a plain reply has it; without a finish reason it gets the one that its content suggests."""
        ...


class _Ends:
    """What both kinds of choices tell beside their text."""

    __slots__ = ("_logprobs", "_reason", "_rest", "has_said")

    def __init__(self) -> None:
        self.has_said = False
        self._reason = ""
        self._logprobs: Gather | None = None
        self._rest: Object = {}

    @property
    def has_finished(self) -> bool:
        return bool(self._reason)

    def _add_ends(self, said: Object, known: frozenset[str]) -> None:
        self.has_said = self.has_said or says(said)
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
