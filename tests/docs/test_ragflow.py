"""docs/ragflow.md: its commands fit the files of `deploy`."""

import re
from pathlib import Path

from tests.e2e.container.compose import DEPLOY, EXAMPLE, document, example_variables

TEXT = (Path(__file__).parents[2] / "docs" / "ragflow.md").read_text()


def test_six_commands_start_gatepass_with_the_files_of_the_repository() -> None:
    start = TEXT.partition("\n## Start gatepass beside RAGFlow\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", start, re.MULTILINE | re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines()]
    assert len(commands) == 6
    assert commands[1].split("gatepass:local ")[1] in (DEPLOY / "ragflow.env.example").read_text()
    service = document({**example_variables(), "GATEPASS_KEY_HASHES": "x"})
    assert commands[3].endswith(f"deploy/{Path(service['secrets']['client_secret']['file'])}")
    assert "USER 65532" in (DEPLOY.parent / "Dockerfile").read_text()
    named = [name for command in commands for name in re.findall(r"deploy/\S+(?:yaml|example)", command)]
    assert [name for name in named if not (DEPLOY.parent / name).exists()] == []
    shown = {
        name for cell in re.findall(r"^   \| (`[A-Z].*?) \|", TEXT, re.MULTILINE) for name in re.findall(r"\w+", cell)
    }
    assert shown == set(re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
