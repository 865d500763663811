"""The strict upstream as a process: `python -m tests.e2e.clients.upstream` prints its URL.

`GET /answered` returns the number of chats and responses since the last `GET /answered`, by `"MODEL whole"` and
`"MODEL streamed"`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.clients.conversation import message
from tests.e2e.clients.other_operations import FILE, file_content, generate_image, moderate, store_file
from tests.e2e.clients.responses import respond
from tests.e2e.process import serve_answers
from tests.integration.scripted import Dialogue, Received, Send, reply
from tests.integration.strict_azure import Deployment, Refused, StrictAzure

TOKEN = "upstream-token-of-the-clients"
ACCEPTS_ALL, NO_TEMPERATURE, NO_STREAM, ONLY_STREAMS = "takes-all", "no-temperature", "no-stream", "only-streams"
MODELS = (ACCEPTS_ALL, NO_TEMPERATURE, NO_STREAM, ONLY_STREAMS)
"""Names that no client treats specially."""
VECTORS, RANKS = "vectors", "ranks"

_NEVER = frozenset(("temperature", "top_p", "presence_penalty", "frequency_penalty", "parallel_tool_calls"))
DEPLOYMENTS = (
    Deployment(ACCEPTS_ALL),
    Deployment(NO_TEMPERATURE, only_default=frozenset(("temperature", "top_p"))),
    Deployment(NO_STREAM, fixed=_NEVER, streams=False),
    Deployment(ONLY_STREAMS, whole=False),
)
EXTRA_ROUTES: Mapping[tuple[str, str], Callable[[Received], bytes]] = {
    ("POST", "/images/generations"): generate_image,
    ("POST", "/moderations"): moderate,
    ("POST", "/files"): store_file,
    ("GET", f"/files/{FILE['id']}/content"): file_content,
}


@dataclass(slots=True)
class Upstream(StrictAzure):
    """The strict upstream with further paths."""

    answered: Counter[str] = field(default_factory=Counter)

    def chat_message(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message of a chat."""
        made = message(body)
        self._count(body)
        return made

    def respond(self, request: Received) -> bytes:
        body: dict[str, Any] = request.json()
        self.check_model(body)
        made = respond(body)
        self._count(body)
        return made

    def _count(self, body: Mapping[str, Any]) -> None:
        self.answered[f"{body['model']} {'streamed' if body.get('stream') else 'whole'}"] += 1

    def _take_counts(self) -> bytes:
        counts, self.answered = self.answered, Counter()
        return reply(counts)

    def answer(self, request: Received) -> Dialogue:
        if request.target == "/answered":
            return [Send(self._take_counts())]
        routes = {**EXTRA_ROUTES, ("POST", "/responses"): self.respond}
        serve = routes.get((request.method, request.target.removeprefix(self.base)))
        if serve is None or request.header("authorization") != f"Bearer {self.token}":
            return StrictAzure.answer(self, request)
        try:
            return [Send(serve(request))]
        except Refused as refused:
            return [Send(reply(refused.body, refused.status))]


if __name__ == "__main__":
    azure = Upstream(token=TOKEN, deployments=DEPLOYMENTS)
    azure.make_message = azure.chat_message
    serve_answers(azure.answer)
