"""An upstream that rejects given members with OpenAI's error messages, and answers all other requests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.scripted import Dialogue, Received, Send, reply, stream

Body = dict[str, Any]

NO_STREAM = "Unsupported value: 'stream' does not support true with this model. Supported values are: false."


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 400 for each request that it `concerns`."""

    concerns: Callable[[Body], bool]
    message: str
    param: str | None = None
    code: str | None = None

    @property
    def dialogue(self) -> Dialogue:
        error = {"message": self.message, "type": "invalid_request_error", "param": self.param, "code": self.code}
        return [Send(reply({"error": error}, 400))]


@dataclass(slots=True)
class Refusing:
    """`Scripted(answer=Refusing(...))`; what it `refuses` may change while it serves."""

    refuses: list[Refusal] = field(default_factory=list)

    def __call__(self, request: Received) -> Dialogue:
        body = request.json()
        refusal = next((one for one in self.refuses if one.concerns(body)), None)
        if refusal is not None:
            return refusal.dialogue
        return [Send(stream(*EVENTS) if body.get("stream") else reply(COMPLETION))]


def no_stream() -> Refusal:
    return Refusal(lambda body: bool(body.get("stream")), NO_STREAM, "stream", "unsupported_value")


def without(name: str) -> Refusal:
    text = f"Unsupported parameter: '{name}' is not supported with this model."
    return Refusal(lambda body: name in body, text, name, "unsupported_parameter")
