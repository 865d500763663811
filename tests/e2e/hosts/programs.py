"""The agent hosts: how each is configured for gatepass, and one run of it."""

import base64
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.e2e.servers import installed

RUN_S = 120.0
"""Longer than a task takes on a loaded machine. Some hosts repeat a failed request for longer."""
PROMPT = "Read both words in this folder."
FOLDER = "work"
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
)
"""Two pixels square."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")

QUIET = {
    "CI": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CONTINUE_TELEMETRY_ENABLED": "0",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "QWEN_TELEMETRY_ENABLED": "false",
}
BLOCKED = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}
"""Nothing listens at this proxy, so that no program reaches more than loopback."""


@dataclass(frozen=True, slots=True)
class Host:
    """A program. `@URL@`, `@KEY@`, `@MODEL@` and `@HOME@` stand for the values of a run."""

    name: str
    package: str
    program: str
    """The path of the program in `node_modules`."""
    path: str
    """The path of the API that it calls."""
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Its configuration files, by their paths below the home folder."""

    @property
    def executable(self) -> Path:
        return installed("node-hosts") / "node_modules" / self.program


HOSTS = (
    Host(
        "Claude Code",
        "@anthropic-ai/claude-code",
        "@anthropic-ai/claude-code-linux-x64/claude",
        "/v1/messages",
        ("-p", PROMPT, "--allowedTools", "Bash,Edit,Write"),
        {
            "ANTHROPIC_BASE_URL": "@URL@",
            "ANTHROPIC_AUTH_TOKEN": "@KEY@",
            "ANTHROPIC_MODEL": "@MODEL@",
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "@MODEL@",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        },
    ),
    Host(
        "Codex",
        "@openai/codex",
        ".bin/codex",
        "/v1/responses",
        ("exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", PROMPT),
        {"LLM_API_KEY": "@KEY@"},
        {
            ".codex/config.toml": """
model = "@MODEL@"
model_provider = "gatepass"

[model_providers.gatepass]
name = "gatepass"
base_url = "@URL@/v1"
wire_api = "responses"
env_key = "LLM_API_KEY"
request_max_retries = 1
stream_max_retries = 1
"""
        },
    ),
    Host(
        "OpenCode",
        "opencode-linux-x64-baseline",
        "opencode-linux-x64-baseline/bin/opencode",
        "/v1/chat/completions",
        ("run", "--auto", "--model", "gatepass/@MODEL@", PROMPT),
        {"LLM_API_KEY": "@KEY@"},
        {
            ".config/opencode/opencode.json": """
{
  "$schema": "https://opencode.ai/config.json",
  "provider": {
    "gatepass": {
      "npm": "@ai-sdk/openai-compatible",
      "name": "gatepass",
      "options": {"baseURL": "@URL@/v1", "apiKey": "{env:LLM_API_KEY}"},
      "models": {"@MODEL@": {"name": "@MODEL@"}}
    }
  }
}
"""
        },
    ),
    Host(
        "Qwen Code",
        "@qwen-code/qwen-code",
        ".bin/qwen",
        "/v1/chat/completions",
        # its own instructions take llama.cpp half a minute
        ("--yolo", "--auth-type", "openai", "--system-prompt", "You are a coding agent.", "--prompt", PROMPT),
        {"OPENAI_BASE_URL": "@URL@/v1", "OPENAI_API_KEY": "@KEY@", "OPENAI_MODEL": "@MODEL@"},
        {
            # under load a terminal of its own loses the output of a command that ends at once
            ".qwen/settings.json": """
{
  "privacy": {"usageStatisticsEnabled": false},
  "telemetry": {"enabled": false},
  "tools": {"shell": {"enableInteractiveShell": false}},
  "memory": {"enableManagedAutoMemory": false, "enableManagedAutoDream": false}
}
"""
        },
    ),
    Host(
        "Continue",
        "@continuedev/cli",
        ".bin/cn",
        "/v1/chat/completions",
        ("--config", "@HOME@/config.yaml", "--auto", "--print", PROMPT),
        files={
            "config.yaml": """
name: gatepass
version: 1.0.0
schema: v1
models:
  - name: gatepass
    provider: openai
    model: @MODEL@
    apiBase: @URL@/v1
    apiKey: @KEY@
    roles: [chat]
    capabilities: [tool_use]
"""
        },
    ),
    Host(
        "Cline",
        "@cline/cli-linux-x64",
        "@cline/cli-linux-x64/bin/cline",
        "/v1/chat/completions",
        ("--provider", "openai-compatible", "--auto-approve", "true", PROMPT),
        files={
            ".cline/data/settings/providers.json": """
{
  "version": 1,
  "lastUsedProvider": "openai-compatible",
  "modes": {},
  "providers": {
    "openai-compatible": {
      "settings": {"provider": "openai-compatible", "apiKey": "@KEY@", "model": "@MODEL@", "baseUrl": "@URL@/v1"},
      "updatedAt": "2026-11-23T00:00:00.000Z",
      "tokenSource": "manual"
    }
  }
}
"""
        },
    ),
)

_CLAUDE_CODE, _CODEX = HOSTS[:2]
WITH_MCP = (
    replace(
        _CLAUDE_CODE,
        arguments=("-p", PROMPT, "--mcp-config", "@HOME@/mcp.json", "--allowedTools", "mcp__tools__echo"),
        environment={
            **_CLAUDE_CODE.environment,
            "LLM_API_KEY": "@KEY@",  # it does not put its own ANTHROPIC_AUTH_TOKEN into the headers of an MCP server
            "MCP_CONNECTION_NONBLOCKING": "false",
            "ENABLE_TOOL_SEARCH": "false",
        },
        files={
            "mcp.json": """
{
  "mcpServers": {
    "tools": {
      "type": "http",
      "url": "@URL@/mcp/tools",
      "headers": {"Authorization": "Bearer ${LLM_API_KEY}"}
    }
  }
}
"""
        },
    ),
    replace(
        _CODEX,
        arguments=("exec", "--skip-git-repo-check", PROMPT),
        files={
            ".codex/config.toml": _CODEX.files[".codex/config.toml"]
            + """
[mcp_servers.tools]
url = "@URL@/mcp/tools"
bearer_token_env_var = "LLM_API_KEY"
default_tools_approval_mode = "approve"
"""
        },
    ),
)
"""These use an MCP server and their model with one key."""
_PROVIDER = _CODEX.files[".codex/config.toml"].partition("env_key")[0]
WITH_HELPER = (
    replace(
        _CLAUDE_CODE,
        environment={
            name: value
            for name, value in _CLAUDE_CODE.environment.items()
            if name not in ("ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_MAX_RETRIES")
        },
        files={".claude/settings.json": '{"apiKeyHelper": "@KEY@"}'},
    ),
    replace(
        _CODEX,
        environment={},
        files={
            ".codex/config.toml": _PROVIDER
            + """
[model_providers.gatepass.auth]
command = "/bin/sh"
args = ["-c", "@KEY@"]
"""
        },
    ),
)
"""These run a command, which stands for the key, to get a token."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a program printed, without colours, and how it ended."""

    printed: str
    exit_code: int | None
    """None if it had not ended after RUN_S."""
    took_s: float


def run(host: Host, url: str, key: str, model: str, home: Path) -> Run:
    """Run `host` in `home`, a folder of its own, and end it after RUN_S."""

    def filled(text: str) -> str:
        for name, value in (("URL", url), ("KEY", key), ("MODEL", model), ("HOME", str(home))):
            text = text.replace(f"@{name}@", value)
        return text

    for path, text in host.files.items():
        file = home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(filled(text).lstrip(), encoding="utf-8")
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for number, word in (("first", "amber"), ("second", "basalt")):
        (folder / f"{number}.txt").write_text(f"the {number} word is {word}\n", encoding="utf-8")
    (folder / "picture.png").write_bytes(PICTURE)
    own = {name: filled(value) for name, value in host.environment.items()}
    temporary = home / "tmp"
    temporary.mkdir()
    basic = {"HOME": str(home), "TMPDIR": str(temporary), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    began_s = time.monotonic()
    process = subprocess.Popen(
        [host.executable, *map(filled, host.arguments)],
        env={**basic, **QUIET, **BLOCKED, **own},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with process:
        try:
            printed, _ = process.communicate(timeout=RUN_S)
            exit_code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its own processes too
            printed, exit_code = process.communicate()[0], None
    _end_left(home)
    text = CONTROL.sub("", printed.decode(errors="replace"))
    return Run(text, exit_code, time.monotonic() - began_s)


def _end_left(home: Path) -> None:
    """End what the program left running in sessions of its own, such as Cline's hub: by the home folder of this run."""
    mine = f"HOME={home}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mine in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue  # it has ended, or belongs to another user
