"""A command of gatepass, run on a configuration file."""

from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner, Result

from gatepass.cli import main

FILE = f"""\
upstreams:
  chat: {{base_url: "https://llm.example/v1"}}
  spare: {{base_url: "https://spare.example/v1"}}
models:
  gpt-4o: {{targets: [{{upstream: chat, name: gpt-4o-240806-deploy-gs}}, {{upstream: spare}}]}}
access:
  keys:
    - {{name: rag, hash: "sha256:{"a" * 64}", models: ["gpt-3*"]}}
    - {{name: bot, hash: "sha256:{"b" * 64}"}}
"""


def run_on(
    file: Path,
    command: str,
    *arguments: str,
    text: str = FILE,
    environment: Mapping[str, str] | None = None,
    stdin: str | bytes = "",
) -> Result:
    """Write `text` into `file`, run `gatepass COMMAND --config FILE ARGUMENTS`, and return its result."""
    file.write_text(text)
    file.chmod(0o600)
    return CliRunner().invoke(main, [command, "--config", str(file), *arguments], env=environment, input=stdin)
