"""Each server in a separate process, with the application of docs/embedding.md that drains on SIGTERM."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.answers import EVENTS
from tests.integration.gateway import JSON, Ask
from tests.integration.scripted import Hold, Scripted, Send, begin_stream, chunk
from tests.integration.servers.running import connectable
from tests.serving import free_port

PAGE = (Path(__file__).parents[3] / "docs/embedding.md").read_text()
BIN = Path(sys.executable).parent
COMMANDS = {
    "uvicorn": ["uvicorn", "main:app", "--port", "PORT"],
    "hypercorn": ["hypercorn", "main:app", "--workers", "0", "--graceful-timeout", "30", "--bind", "127.0.0.1:PORT"],
    "granian": ["granian", "main:app", "--interface", "asgi", "--port", "PORT"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_sigterm_drains_the_application_of_the_docs(command: Sequence[str], tmp_path: Path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "main.py").write_text(next(block for block in blocks if "signal.signal" in block))
    async with Scripted([*begin_stream(), Send(chunk(EVENTS[0])), Hold()]) as upstream:
        (tmp_path / "gatepass.yaml").write_text(
            f"upstreams: {{chat: {{base_url: '{upstream.url}/v1'}}}}\nserver: {{drain_timeout_s: 0.2}}\n"
        )
        port = free_port()
        words = [word.replace("PORT", str(port)) for word in command]
        process = await asyncio.create_subprocess_exec(
            BIN / words[0], *words[1:], cwd=tmp_path, stderr=asyncio.subprocess.PIPE, env={"PATH": os.environ["PATH"]}
        )
        try:
            await connectable(port)
            ask = Ask(port, "POST", "/v1/chat/completions", dict(JSON), b'{"model":"m","messages":[],"stream":true}')
            async with ask:
                await ask.head()
                await ask.until(EVENTS[0])
                process.send_signal(signal.SIGTERM)
                answer = await ask.answer()
            _, output = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert (answer.whole, answer.error["code"]) == (True, "draining"), output.decode()
    assert process.returncode in (0, -signal.SIGTERM), output.decode()
