"""A rejection as the matchers read it, and the rejections from which nothing is ever learned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from gatepass.call import Complaint, Surface

TEACHING = frozenset((400, 422))
OF_BATCHES = 413
"""TEI's status for too many inputs."""

NEVER_CODES = frozenset(
    (
        *("content_filter", "context_length_exceeded", "exceed_context_size_error", "responsibleaipolicyviolation"),
        *("insufficient_quota", "rate_limit_exceeded", "invalid_api_key", "model_not_found", "deploymentnotfound"),
        *("token_expired", "invalid_token", "content_policy_violation", "authentication_error", "permission_error"),
    )
)
"""As `code` or `type`: the account, the model's name or what was said is at fault, and no change of form heals that."""

_NEVER_TEXT = re.compile(r"content management policy|must be verified to use", re.IGNORECASE)
_WANTS_BACK = re.compile(r"must be passed back|missing `?reasoning_content", re.IGNORECASE)
"""DeepSeek's thinking models miss what the rest refuses."""
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
_STEP = re.compile(r"[^.\[\]/\s]+")
_INDEX = re.compile(r"[0-9]+\Z|\*\Z")
_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Heard:
    """`text` is the upstream's message, `code` and `kind` its own in lower case, `param` the place as it wrote it."""

    surface: Surface
    text: str
    code: str = ""
    kind: str = ""
    param: str | None = None
    raw: Any = None

    @classmethod
    def of(cls, surface: Surface, status: int | None, complaint: Complaint | None) -> Self | None:
        """None where nothing may be learned: any other status, no words, and NEVER_CODES."""
        teaches = status in TEACHING or (status == OF_BATCHES and surface is Surface.EMBEDDINGS)
        if complaint is None or not teaches:
            return None
        code, kind = (complaint.code or "").lower(), (complaint.kind or "").lower()
        text = _with_quoted(complaint)
        if code in NEVER_CODES or kind in NEVER_CODES or _NEVER_TEXT.search(text) is not None:
            return None
        return cls(surface, text, code, kind, complaint.param, complaint.raw)

    @property
    def wants_reasoning(self) -> bool:
        """Whether it asks for reasoning that was left out: the opposite of what its words look like."""
        return _WANTS_BACK.search(self.text) is not None


def _with_quoted(complaint: Complaint) -> str:
    """The message, and behind it what a relay quotes beside it without it being JSON (OpenRouter's `metadata.raw`)."""
    metadata = complaint.raw.get("metadata") if isinstance(complaint.raw, dict) else None
    quoted = metadata.get("raw") if isinstance(metadata, dict) else None
    return f"{complaint.message}\n{quoted}" if isinstance(quoted, str) else complaint.message


def place_told(path: str) -> str:
    """The Place that an upstream means by `messages.[6].role`, `body.messages.2.assistant.name`, `/messages/*/content`.

    What stands behind a message's index and is no member (pydantic's name of the union's branch) is left out.
    """
    steps = _STEP.findall(path)
    if steps[:1] == ["body"]:
        steps = steps[1:]
    told: list[str] = []
    for position, step in enumerate(steps):
        if _INDEX.match(step) is not None:
            told[-1:] = [f"{told[-1].removesuffix('[]')}[]"] if told else []
        elif _NAME.match(step) is not None and not _is_branch(steps, position):
            told.append(step)
    return ".".join(told)


def _is_branch(steps: list[str], position: int) -> bool:
    return position == 2 and steps[0] == "messages" and steps[position] in _ROLES
