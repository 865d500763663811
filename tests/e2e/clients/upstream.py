"""The strict upstream as a process: `python -m tests.e2e.clients.upstream` prints where it listens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping

from tests.e2e.clients.conversation import message
from tests.e2e.clients.others import FILE, draw, keep, kept, moderate
from tests.e2e.clients.responses import respond
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.integration.strict_azure import Deployment, Refused, StrictAzure

TOKEN = "upstream-token-of-the-clients"
PLAIN, COLD, WHOLE, STREAMING = "takes-all", "no-temperature", "no-stream", "only-streams"
MODELS = (PLAIN, COLD, WHOLE, STREAMING)
"""Names that no client has an opinion of."""
VECTORS, RANKS = "vectors", "ranks"

_NEVER = frozenset(("temperature", "top_p", "presence_penalty", "frequency_penalty", "parallel_tool_calls"))
DEPLOYMENTS = (
    Deployment(PLAIN),
    Deployment(COLD, only_default=frozenset(("temperature", "top_p"))),
    Deployment(WHOLE, fixed=_NEVER, streams=False),
    Deployment(STREAMING, whole=False),
)
MORE: Mapping[tuple[str, str], Callable[[Received], bytes]] = {
    ("POST", "/responses"): respond,
    ("POST", "/images/generations"): draw,
    ("POST", "/moderations"): moderate,
    ("POST", "/files"): keep,
    ("GET", f"/files/{FILE['id']}/content"): kept,
}


class Upstream(StrictAzure):
    """The strict upstream with some paths more."""

    def answer(self, request: Received) -> Dialogue:
        serve = MORE.get((request.method, request.target.removeprefix(self.base)))
        if serve is None or request.header("authorization") != f"Bearer {self.token}":
            return StrictAzure.answer(self, request)
        try:
            return [Send(serve(request))]
        except Refused as refused:
            return [Send(reply(refused.body, refused.status))]


async def main() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    azure = Upstream(token=TOKEN, deployments=DEPLOYMENTS, says=message)
    async with Scripted(answer=azure.answer) as upstream:
        print(f"listening on {upstream.url}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
