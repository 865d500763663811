"""What `gatepass init` prints and writes: with OAuth 2.0, with another source, and with a key that ends."""

import asyncio
import json
import os
import re
from functools import partial
from pathlib import Path

import jwt
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.init import PLACE
from tests.golden.golden import same
from tests.integration.test_init import SECRET, servers

LOGIN = json.dumps({"app": "bot", "deep": [{"key": PLACE}]})
ENDING = jwt.encode({"exp": 4_102_444_800}, "0" * 32, "HS256")
HIDDEN = {
    r"gp-[\w-]+": "gp-…",
    r"sha256:\w{64}": "sha256:…",
    r"127\.0\.0\.1:\d+": "127.0.0.1:PORT",
    r"port \d+ accepts": "port PORT accepts",
    r"in \d+ s\)": "in N s)",
    r" \(\d+\.\d+ s\)": "",
}


def hidden(text: str, folder: Path) -> str:
    text = text.replace(f"{folder}/", "").replace(ENDING, "eyJ…")
    for pattern, name in HIDDEN.items():
        text = re.sub(pattern, name, text)
    return text


async def test_init_prints_and_writes_what_is_recorded(tmp_path, monkeypatch, request):
    request.addfinalizer(partial(os.umask, os.umask(0o022)))  # it decides who may read the files
    shown = {}
    async with servers() as url:
        cases = {
            "OAuth 2.0, at a terminal": ("oauth2", f"{url}/oauth/token", "me", "", SECRET, "", "", "ragflow, my", ""),
            "OAuth 2.0, in the image": ("oauth2", f"{url}/oauth/token", "me", "", SECRET, "", "", "ragflow"),
            "another source": ("other", "", "", "my", ""),
            "a JSON login": ("login", f"{url}/login", LOGIN, SECRET, "", "", "my", ""),
            "a key that ends": ("key", ENDING, "", "", "my", "", "n"),
        }
        for number, (name, answers) in enumerate(cases.items()):
            folder = tmp_path / str(number)
            folder.mkdir()
            monkeypatch.chdir(folder)
            monkeypatch.delenv("GATEPASS_HOST", raising=False)
            if "image" in name:
                monkeypatch.setenv("GATEPASS_HOST", "0.0.0.0")
            typed = "".join(f"{line}\n" for line in (f"{url}/v1", *answers))
            result = await asyncio.to_thread(CliRunner().invoke, main, ["init"], typed)
            assert result.exit_code == (answers[-1] == "n"), result.output
            assert SECRET not in result.output
            output = result.output
            if "image" in name:  # the questions are those at a terminal
                output = output[output.index("Wrote ") :]
            shown[name] = hidden(output, folder)
            shown[f"{name}: gatepass.yaml"] = hidden((folder / "gatepass.yaml").read_text(), folder)
    same("init.txt", shown)
