"""Agent hosts as their users run them, from npm: Claude Code, Codex, OpenCode, Qwen Code, Continue and Cline."""
