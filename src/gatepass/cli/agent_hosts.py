"""What Codex and Claude Code send, and what their users set, for `gatepass doctor --as`.

The requests are those that the programs were seen to send, with one tool and one short question.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec

from gatepass.operations.table import OPERATIONS, call_of
from gatepass.types import Call, Headers

_BETAS = (
    *("claude-code-20250219", "interleaved-thinking-2025-05-14", "context-management-2025-06-27"),
    *("mid-conversation-tool-changes-2026-07-01", "advanced-tool-use-2025-11-20", "effort-2025-11-24"),
)
_QUESTION = "Answer with one word: ping."
_COMMAND = {"type": "string", "description": "The command to execute"}


@dataclass(frozen=True, slots=True)
class AgentHost:
    """A program as one version of it was seen: its request, and the text for its settings."""

    title: str
    version: str
    operation: str
    body: Mapping[str, Any] = field(repr=False)
    """Without `model`."""
    settings: str
    """With `{url}`, the URL of gatepass without /v1, `{model}` and `{key}`."""
    headers: Headers = field(default=(), repr=False)
    query: bytes = field(default=b"", repr=False)

    def call(self, model: str) -> Call:
        """Return its request for `model`, a stream."""
        operation = next(row for row in OPERATIONS if row.name == self.operation)
        body = {"model": model, **self.body}
        return msgspec.structs.replace(call_of(operation, model, body), headers=self.headers, stream=True)


_CODEX = AgentHost(
    "Codex",
    "0.169.0",
    "responses",
    {
        "stream": True,
        "instructions": "You are a coding agent running in the Codex CLI, a terminal-based coding assistant.",
        "input": [
            {
                "type": "message",
                "role": "developer",
                "content": [{"type": "input_text", "text": "<permissions instructions>\nNone.\n"}],
            },
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": _QUESTION}]},
        ],
        "tools": [
            {
                "type": "function",
                "name": "exec_command",
                "description": "Runs a command in a PTY.",
                "strict": False,
                "parameters": {
                    "type": "object",
                    "properties": {"cmd": _COMMAND},
                    "required": ["cmd"],
                    "additionalProperties": False,
                },
            }
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "gatepass-doctor",
        "client_metadata": {"session_id": "gatepass-doctor", "thread_id": "gatepass-doctor"},
    },
    """\
Set in ~/.codex/config.toml:

  model = "{model}"
  model_provider = "gatepass"

  [model_providers.gatepass]
  name = "gatepass"
  base_url = "{url}/v1"
  wire_api = "responses"
  env_key = "LLM_API_KEY"

Set in the environment of Codex:

  LLM_API_KEY={key}
""",
)

_CLAUDE_CODE = AgentHost(
    "Claude Code",
    "2.1.330",
    "messages",
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": _QUESTION}]},
            {"role": "system", "content": "The user's language is English."},
        ],
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330; cc_entrypoint=sdk-cli;"},
            {
                "type": "text",
                "text": "You are a Claude agent, built on Anthropic's Claude Agent SDK.",
                "cache_control": {"type": "ephemeral"},
            },
        ],
        "tools": [
            {
                "name": "Bash",
                "description": "Executes a given bash command and returns its output.",
                "input_schema": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "type": "object",
                    "properties": {"command": _COMMAND},
                    "required": ["command"],
                    "additionalProperties": False,
                },
            }
        ],
        "metadata": {"user_id": json.dumps({"session_id": "gatepass-doctor"})},
        "max_tokens": 32000,
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
    },
    """\
Set in ~/.claude/settings.json, or as variables in the environment of Claude Code:

  {{
    "env": {{
      "ANTHROPIC_BASE_URL": "{url}",
      "ANTHROPIC_AUTH_TOKEN": "{key}",
      "ANTHROPIC_MODEL": "{model}",
      "ANTHROPIC_DEFAULT_HAIKU_MODEL": "{model}",
      "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"
    }}
  }}

ANTHROPIC_BASE_URL has no /v1. ANTHROPIC_DEFAULT_HAIKU_MODEL may be a cheaper model.
""",
    headers=(
        (b"anthropic-version", b"2023-06-01"),
        (b"anthropic-beta", ",".join(_BETAS).encode()),
        (b"anthropic-dangerous-direct-browser-access", b"true"),
        (b"user-agent", b"claude-cli/2.1.330 (external, sdk-cli)"),
        (b"x-app", b"cli"),
        (b"x-stainless-lang", b"js"),
        (b"x-stainless-retry-count", b"0"),
    ),
    query=b"beta=true",
)

AGENT_HOSTS: Mapping[str, AgentHost] = MappingProxyType({"codex": _CODEX, "claude-code": _CLAUDE_CODE})
"""By the value of `--as`."""


def settings_of(host: AgentHost, url: str, model: str, key: str = "KEY of this client") -> str:
    """Return what to set in `host`, whose gatepass has this `url`."""
    return host.settings.format(url=url, model=model, key=key)
