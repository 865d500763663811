"""Run the gatepass with staged faults, send each request once, and print what its client saw as a line of JSON.

`python -m tests.ui.staged FOLDER` runs until its input ends. The tests of the page start it, because their own
environment has no packages of gatepass.
"""

import asyncio
import json
import sys
from pathlib import Path

from tests.integration.staged_faults import ADMIN, STAGED, Staged, id_in, staged


async def asked(running: Staged) -> list[dict[str, str | None]]:
    seen = []
    for fault in STAGED:
        held = await running.hold() if fault.model == "limit" else None
        text = await running.ask(fault)
        for _ in range(100):  # the held request may arrive after the one that it keeps out
            if held is None or "concurrency_limited" in text:
                break
            text = await running.ask(fault)
        if held is not None:
            held.cancel()
        seen.append({"model": fault.model, "hop": fault.hop, "code": fault.code, "id": id_in(text)})
    return seen


async def run(folder: Path) -> None:
    async with staged(folder, ui=True, ui_hosts=["127.0.0.1"]) as running:
        print(json.dumps({"port": running.port, "admin": ADMIN, "faults": await asked(running)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
