"""Leave out values of the header `anthropic-beta`, with the members that they enable.

Claude Code and Anthropic's SDKs name each beta feature that a request uses. Upstreams such as Bedrock and Vertex AI
reject values that they do not know, and then the members too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gatepass.config.routes import BETA
from gatepass.draft import Draft
from gatepass.normalize.members import JsonMemberPath
from gatepass.types import Headers

BETA_FIELD = "anthropic-beta"
"""The header field, and its name in `Operation.members`."""
_FIELD = BETA_FIELD.encode()

_CACHED = ("", "system[].", "tools[].", "messages[].content[].", "messages[].content[].content[].")
"""What requests cache: the beginnings of the paths of `cache_control`."""

# https://platform.claude.com/docs: context-editing, compaction, fast-mode, effort, task-budgets, prompt-caching, and
# the pages of tools. Claude Code sends `scope` (claude-code#21612); tools: claude-code#82549.
BETA_MEMBERS: Mapping[str, tuple[str, ...]] = {
    "context-management-2025-06-27": ("context_management",),
    "compact-2026-01-12": ("context_management",),
    "fast-mode-2026-02-01": ("speed",),
    "effort-2025-11-24": ("output_config.effort",),
    "task-budgets-2026-03-13": ("output_config.task_budget",),
    "prompt-caching-scope-2026-01-05": tuple(f"{place}cache_control.scope" for place in _CACHED),
    "extended-cache-ttl-2025-04-11": tuple(f"{place}cache_control.ttl" for place in _CACHED),
    "advanced-tool-use-2025-11-20": ("tools[].defer_loading", "tools[].input_examples"),
    "tool-search-tool-2025-10-19": ("tools[].defer_loading",),
    "tool-examples-2025-10-29": ("tools[].input_examples",),
    "fine-grained-tool-streaming-2025-05-14": ("tools[].eager_input_streaming",),
}
"""The members that a value enables, if the answer without them still answers the same question.

Values for the format of the answer, for files or for servers of tools are not here: an upstream that rejects their
members names them, and `rules.drop` leaves them out.
"""
ENABLED = frozenset(path for paths in BETA_MEMBERS.values() for path in paths)
"""All members of the table."""


def betas_of(headers: Headers) -> tuple[str, ...]:
    """Return the values of all `anthropic-beta` fields, in their order."""
    lists = [value.decode("latin-1").split(",") for name, value in headers if name == _FIELD]
    return tuple(value for listed in lists for each in listed if (value := each.strip()))


@dataclass(frozen=True, slots=True)
class DropBetas:
    """Leave out `names` from the header, and the members that only they enable. Entry `drop_beta=VALUE+VALUE`.

    Only for a request that sends all of `sent`. A request with a value of another form than BETA is not changed:
    an upstream that quotes it could name values that it does not reject.
    """

    names: tuple[str, ...]
    sent: frozenset[str]

    @property
    def entry(self) -> str:
        return f"drop_beta={'+'.join(self.names)}"

    def apply_to(self, draft: Draft) -> bool:
        sent = betas_of(draft.headers)
        if not self.sent.issubset(sent) or any(BETA.match(beta) is None for beta in sent):
            return False
        fields: list[tuple[bytes, bytes]] = []
        left_out = {name.encode() for name in self.names}
        for name, value in draft.headers:
            if name != _FIELD:
                fields.append((name, value))
            elif left := [one for one in value.split(b",") if one.strip() and one.strip() not in left_out]:
                fields.append((name, b",".join(left).strip()))
        draft.headers = tuple(fields)
        kept = {path for beta in sent if beta not in self.names for path in BETA_MEMBERS.get(beta, ())}
        for path in dict.fromkeys(path for name in self.names for path in BETA_MEMBERS.get(name, ())):
            # most requests lack the member, whose name is then not in the body
            if path not in kept and path.rpartition(".")[2].encode() in draft.call.body:
                parsed = JsonMemberPath.parse(path)
                for owner in parsed.owners(draft):
                    owner.drop(parsed.name)
        return True
