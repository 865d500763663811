"""What Dify shows of a stream, as its classes read it: its parser splits at blank lines, and marks thoughts in a text.

Sources: dify-plugin-sdks, openai_compatible/llm.py at 28d1d22 (0.10.1); dify-official-plugins, openai_api_compatible
0.0.63, whose thoughts end at the first chunk with neither a thought nor a text.
"""

import json
from typing import Any


def data_of(stream: bytes) -> list[bytes]:
    """The data that it takes out of a stream: it throws away each piece that begins with a colon."""
    cut = [piece.strip() for piece in stream.split(b"\n\n")]
    return [piece.removeprefix(b"data:").lstrip() for piece in cut if piece and not piece.startswith(b":")]


class Shown:
    """The text with its thoughts, and the arguments of each tool call by its id."""

    def __init__(self, stream: bytes) -> None:
        self.text, self._thinks = "", False
        self.calls: dict[str, str] = {}
        for data in data_of(stream):
            if data == b"[DONE]":
                continue
            event = json.loads(data)
            if event.get("error") and event.get("choices") is None:
                raise ValueError(event["error"])
            for choice in event["choices"][:1]:
                self._read(choice["delta"])
        self.text += "\n</think>" if self._thinks else ""

    def _read(self, delta: dict[str, Any]) -> None:
        thought, text = delta.get("reasoning") or delta.get("reasoning_content") or "", delta.get("content") or ""
        if thought:
            self.text += thought if self._thinks else f"<think>\n{thought}"
            self._thinks = True
        if self._thinks and (text or not thought):
            self.text, self._thinks = f"{self.text}\n</think>", False
        self.text += text
        for call in delta.get("tool_calls") or ():
            named = call.get("id") or [*self.calls][-1]
            self.calls[named] = self.calls.get(named, "") + (call["function"].get("arguments") or "")
