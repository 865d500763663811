"""One choice of a chunk: its delta, its role, its finish reason."""

from __future__ import annotations

from gatepass.relay.chunk import Object, Origin, finish_reason, says
from gatepass.relay.reason import NATIVE, chat_reason, native_of, text_reason
from gatepass.relay.repair.tools import Note, ToolRepair
from gatepass.relay.repair.wishes import DELTA, FINISH, MESSAGE, ROLE


class ChoiceRepair:
    """What one choice of a stream has told so far, and how its next piece is mended."""

    __slots__ = ("_has_begun", "_has_deltas", "_has_role", "_origin", "_tools", "has_finished")

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._tools: ToolRepair | None = None
        self._has_begun = self._has_deltas = self._has_role = False
        self.has_finished = False

    def mend(self, said: Object, note: Note) -> bool:
        """Mend one piece in place. True if nothing but the text of a piece like it could matter."""
        delta = said.get("delta")
        if type(delta) is dict:
            self._has_deltas = self._has_deltas or says(said)
        else:
            delta = self._delta(said, note)
        is_plain = delta is None or self._mend_delta(delta, note)
        if said.get("finish_reason") == "":
            said["finish_reason"] = None
            note(FINISH)
        elif reason := finish_reason(said):
            is_plain = False
            self.has_finished = True
            self._mend_reason(said, reason, note)
        return is_plain

    def _mend_reason(self, said: Object, reason: str, note: Note) -> None:
        is_text = "text" in said and "delta" not in said
        has_tools = self._tools is not None
        meant = text_reason(reason) if is_text else chat_reason(reason, has_tools=has_tools, has_function=False)
        if meant == reason:
            return
        if (native := native_of(reason, is_text=is_text)) is not None:
            said.setdefault(NATIVE, native)
        said["finish_reason"] = meant
        note(FINISH)

    def _delta(self, said: Object, note: Note) -> Object | None:
        """The delta of a piece that has none; None for a piece of `/v1/completions`, which needs none.

        A message after deltas, or after the end, repeats what was said: it says nothing new.
        """
        message = said.pop("message", None)
        if isinstance(message, dict):
            note(MESSAGE)
            delta = {} if self._has_deltas or self.has_finished else message
        elif "text" in said:
            return None
        else:
            note(DELTA)
            delta = {}
        said["delta"] = delta
        return delta

    def _mend_delta(self, delta: Object, note: Note) -> bool:
        is_plain = True
        if "role" in delta:
            is_plain = self._mend_role(delta, note)
        if not self._has_begun and delta:
            self._has_begun = True
            if delta.keys() == {"role"}:
                delta["content"] = ""
                note(DELTA)
        calls = delta.get("tool_calls")
        if calls and isinstance(calls, list):
            is_plain = False
            self._tools = self._tools or ToolRepair(self._origin)
            self._tools.mend(calls, note)
        return is_plain and not delta.get("function_call")

    def _mend_role(self, delta: Object, note: Note) -> bool:
        """openai-python's helper joins the roles of all deltas to `assistantassistant…`."""
        role = delta["role"]
        if role is None:
            return True
        if role and not self._has_role:
            self._has_role = True
        elif role == "" and not self._has_begun:
            self._has_role = True
            delta["role"] = "assistant"
            note(ROLE)
        else:
            del delta["role"]
            note(ROLE)
        return False
