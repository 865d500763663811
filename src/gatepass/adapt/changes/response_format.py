"""A schema for the answer where the upstream knows only "some JSON"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from gatepass.adapt.changes.content import text_of
from gatepass.adapt.draft import Draft

TELL = "Answer with one JSON object that fits this JSON Schema, and with nothing else:\n"


@dataclass(frozen=True, slots=True)
class SchemaInWords:
    """`json_schema` becomes `json_object`, and the schema stands in the system message: the model is asked, no
    longer made, to keep it. Entry `response_format=json_object`."""

    entry: str = "response_format=json_object"

    def revise(self, draft: Draft) -> bool:
        wanted = draft.top.value("response_format") if draft.top.kind("response_format") == "{" else {}
        schema = _schema(wanted)
        if schema is None or not _told(draft, TELL + schema):
            return False
        return draft.top.set("response_format", b'{"type":"json_object"}')


def _schema(wanted: dict[str, Any]) -> str | None:
    inner = wanted.get("json_schema")
    if wanted.get("type") != "json_schema" or not isinstance(inner, dict):
        return None
    return msgspec.json.encode(inner.get("schema", {})).decode()


def _told(draft: Draft, text: str) -> bool:
    """Say `text` in the system message, behind what stands there; where there is none, in a new one."""
    messages = draft.top.array("messages")
    if messages is None:
        return False
    system = next((turn for turn in messages.objects() if turn.string("role") in ("system", "developer")), None)
    said = None if system is None else text_of(system)
    if system is None or said is None:
        messages.insert(msgspec.json.encode({"role": "system", "content": text}))
    else:
        system.set("content", msgspec.json.encode(f"{said}\n\n{text}"))
    return True
