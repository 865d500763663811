"""Rewrite chats for RAGFlow as an upstream. Its URLs are in `dialects.ragflow`."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gatepass.config.upstream import RagflowImages, RagflowPaths, assistant
from gatepass.draft import Draft, ObjectDraft
from gatepass.errors import InvalidImage, ModelNotFound
from gatepass.types import Call, Target

PLACEHOLDER = b'"model"'
"""Sent as `model`. Since v0.26 RAGFlow answers code 101 to a name that is not one of its models
(infiniflow/ragflow#15726)."""

EXTRA = "extra_body"
LIFTED = ("reference", "reference_metadata", "metadata_condition")
"""Members that move into `extra_body`.

Since v0.23 RAGFlow reads them from a literal member `extra_body`. SDKs merge their `extra_body` into the top level,
which RAGFlow does not read (infiniflow/ragflow#9636).
"""


@dataclass(frozen=True, slots=True)
class RagflowBody:
    """Rewrite a chat for RAGFlow. Unknown members keep their bytes.

    * `model` becomes the placeholder.
    * `stream` is always set. Its default was true up to v0.25.6 and is false since (infiniflow/ragflow#15356).
    * A message's list of parts becomes one text with line breaks, as v0.26 does itself. Older versions crash on a list
      (infiniflow/ragflow#15358). null becomes "". Entry `content=text`.
    * No version reads images. They are rejected with InvalidImage, or removed with the entry `drop=images` if the
      configuration allows it.
    * LIFTED members move into `extra_body`. Entry `extra_body=NAME,NAME`.
    * An agent's id is added to the body if the path does not contain it.

    Other operations raise ModelNotFound, because RAGFlow has no route for them.
    """

    images: RagflowImages = "refuse"
    paths: RagflowPaths = "current"
    name = "ragflow"

    def concerns(self, call: Call, target: Target) -> bool:
        del call, target
        return True

    def apply(self, draft: Draft, target: Target) -> None:
        call = draft.call
        if call.operation.path != "/chat/completions":
            operation = call.operation.name
            raise ModelNotFound(
                f'The upstream "{target.upstream}" is RAGFlow, which supports only chat. For {operation} set'
                f" operations.{operation}, or the entry of this model under models, to another upstream.",
                param="model",
            )
        top, entries = draft.top, self._flatten(draft)
        top.set("model", PLACEHOLDER)
        top.set("stream", b"true" if draft.stream else b"false")
        wanted = assistant(target.model or call.model)
        if wanted.is_agent and self.paths == "current":
            top.set("agent_id", msgspec.json.encode(wanted.id))
            top.set("openai-compatible", b"true")
        if lifted := _lift(top):
            entries.append(f"{EXTRA}={','.join(lifted)}")
        draft.adapted = (*draft.adapted, *entries)

    def _flatten(self, draft: Draft) -> list[str]:
        """Make each content a text, and return the entries for `adapted`."""
        entries: dict[str, None] = {}
        messages = draft.top.array("messages")
        for index, message in messages.numbered() if messages is not None else ():
            content = message.get("content")
            if content is None or content.kind not in "[n":
                continue
            entries["content=text"] = None
            texts: list[bytes] = []
            for at, part in enumerate(content.array or ()):
                text = part if part.object is None else part.object.get("text")
                if text is not None and text.kind == '"':
                    texts.append(text.text[1:-1])
                elif self.images == "refuse":
                    where = f"messages[{index}].content[{at}]"
                    raise InvalidImage(
                        f"{where} is not text, and RAGFlow would ignore it without an error. Send only text, or"
                        " set ragflow.images: drop for this upstream.",
                        param=where,
                        case="ragflow_images",
                    )
                else:
                    entries["drop=images"] = None
            message.set("content", b'"%b"' % b"\\n".join(texts))
        return list(entries)


def _lift(top: ObjectDraft) -> list[str]:
    """Move the LIFTED members into `extra_body`, whose own members win. Return their names."""
    lifted = [(name, value) for name in LIFTED if (value := top.get(name)) is not None]
    if lifted and EXTRA not in top:
        top.set(EXTRA, b"{}")
    if (extra := top.object(EXTRA)) is None:  # RAGFlow rejects an `extra_body` that is not an object with code 102
        return []
    for name, value in lifted:
        top.drop(name)
        if name not in extra:
            extra.set(name, *value.pieces())
    return [name for name, _ in lifted]
