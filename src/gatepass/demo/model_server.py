"""A small OpenAI-like model server: it believes fresh tokens only, and takes no member it does not know."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gatepass.demo.answer import Understood, Unreadable, answer, chunks, completion, understood, usage_of
from gatepass.demo.signing import Distrust, Distrusted, SigningKey, fingerprint
from gatepass.demo.vectors import in_base64, vector


@dataclass(slots=True)
class Faults:
    """Ways to misbehave, each one what a step of the demo must notice."""

    cut_streams: bool = False
    """End a stream in the middle as if it were whole."""
    burst: bool = False
    """Hold a stream back and send all of it at once."""
    blind: bool = False
    """Overlook images."""
    swapped_vectors: bool = False
    """Give the second text's vector to the first."""
    lenient: bool = False
    """Believe a token after its end."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that was let in: what it was, whose token it carried, how many images it held."""

    operation: str
    fingerprint: str
    images: int = 0


class _Refusal(Exception):
    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class ModelServer:
    """Chat, embeddings and the list of models under `/v1`, for tokens of `audience` alone.

    A word of a stream leaves every `pace_s`. `seen` holds the last requests that were served,
    `refused` counts those whose token was not believed, `sent_at` the moments (of
    `time.monotonic`) at which the last stream's events left.
    """

    def __init__(self, key: SigningKey, *, audience: str, models: Iterable[str], pace_s: float = 0.12) -> None:
        self._key = key
        self._audience = audience
        self._models = tuple(models)
        self.pace_s = pace_s
        self._started_at = int(time.time())
        self.faults = Faults()
        self.seen: deque[Seen] = deque(maxlen=1000)
        self.refused: Counter[Distrust] = Counter()
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/models", self._list, methods=["GET"]),
                Route("/v1/models/{id:path}", self._model, methods=["GET"]),
            ],
            exception_handlers={_Refusal: _refusal, 404: _not_there, 405: _not_there},
        )

    async def _chat(self, request: Request) -> Response:
        token = self._admit(request)
        body = await self._body(request, CHAT_MEMBERS)
        try:
            question = understood(body.get("messages"))
        except Unreadable as error:
            raise _Refusal(400, str(error), param=error.param) from None
        include_usage = _include_usage(body)
        if self.faults.blind:
            question = Understood(question.text)
        self.seen.append(Seen("chat", token, len(question.images)))
        text = answer(question)
        usage = usage_of(question.text, text)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": body["model"]}
        if body.get("stream") is not True:
            return JSONResponse(completion(head, text, usage))
        events = [_event(chunk) for chunk in chunks(head, text, usage, include_usage=include_usage)]
        return StreamingResponse(self._paced([*events, b"data: [DONE]\n\n"]), media_type="text/event-stream")

    async def _paced(self, events: list[bytes]) -> AsyncIterator[bytes]:
        if self.faults.cut_streams:
            events = events[: len(events) // 2]
        if self.faults.burst:
            await asyncio.sleep(self.pace_s * len(events))
            events = [b"".join(events)]
        for event in events:
            yield event
            await asyncio.sleep(self.pace_s)

    async def _embeddings(self, request: Request) -> Response:
        token = self._admit(request)
        body = await self._body(request, EMBEDDINGS_MEMBERS)
        texts = _texts(body.get("input"))
        coded = in_base64 if _wants_base64(body) else list
        self.seen.append(Seen("embeddings", token))
        vectors = [vector(text) for text in texts]
        if self.faults.swapped_vectors:
            vectors.reverse()
        data = [{"object": "embedding", "index": index, "embedding": coded(v)} for index, v in enumerate(vectors)]
        count = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def _list(self, request: Request) -> Response:
        self._admit(request)
        return JSONResponse({"object": "list", "data": [self._card(model) for model in self._models]})

    async def _model(self, request: Request) -> Response:
        self._admit(request)
        return JSONResponse(self._card(self._known(request.path_params["id"])))

    def _card(self, model: str) -> dict[str, Any]:
        return {"id": model, "object": "model", "created": self._started_at, "owned_by": "gatepass-demo"}

    def _admit(self, request: Request) -> str:
        """The fingerprint of a token that is believed; raises _Refusal."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise self._distrust(Distrust.MISSING)
        try:
            self._key.verify(token, self._audience, expiry=not self.faults.lenient)
        except Distrusted as distrusted:
            raise self._distrust(distrusted.why) from None
        return fingerprint(token)

    def _distrust(self, why: Distrust) -> _Refusal:
        self.refused[why] += 1
        return _Refusal(401, _DISTRUST[why], code=f"token_{why}")

    async def _body(self, request: Request, known: frozenset[str]) -> dict[str, Any]:
        try:
            body = json.loads(await request.body())
        except ValueError:
            raise _Refusal(400, "The body is not JSON") from None
        if not isinstance(body, dict):
            raise _Refusal(400, "The body must be a JSON object")
        strays = [name for name in body if name not in known]
        if strays:
            plural = "s" if len(strays) > 1 else ""
            raise _Refusal(400, f"Unrecognized request argument{plural} supplied: {', '.join(strays)}")
        self._known(body.get("model"))
        return body

    def _known(self, model: object) -> str:
        if not isinstance(model, str) or model not in self._models:
            raise _Refusal(404, f"The model `{model}` does not exist", code="model_not_found", param="model")
        return model


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise _Refusal(400, "'input' must be a text or a list of texts, none of them empty", param="input")
    return texts


def _wants_base64(body: dict[str, Any]) -> bool:
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise _Refusal(400, "'encoding_format' must be float or base64", param="encoding_format")
    return bool(encoding == "base64")


def _include_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if body.get("stream") is not True:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise _Refusal(400, message, param="stream_options")
    if not isinstance(options, dict):
        raise _Refusal(400, "'stream_options' must be an object", param="stream_options")
    return options.get("include_usage") is True


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Refusal)  # noqa: S101 - registered for this class alone
    return _error(error)


async def _not_there(request: Request, error: Exception) -> Response:
    message = f"Invalid URL ({request.method} {request.url.path})"
    return _error(_Refusal(getattr(error, "status_code", 404), message, code="unknown_url"))


def _error(refusal: _Refusal) -> Response:
    kind = "authentication_error" if refusal.status == 401 else "invalid_request_error"
    said = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    headers = {"www-authenticate": 'Bearer error="invalid_token"'} if refusal.status == 401 else None
    return JSONResponse({"error": said}, refusal.status, headers)


_DISTRUST = {
    Distrust.MISSING: "You did not provide a token",
    Distrust.STALE: "The token has expired",
    Distrust.FOREIGN: "The token was not issued for this server",
}

_CHAT = """
    model messages stream stream_options temperature top_p n stop max_tokens max_completion_tokens
    presence_penalty frequency_penalty logit_bias logprobs top_logprobs user seed response_format tools
    tool_choice parallel_tool_calls functions function_call reasoning_effort verbosity modalities audio
    prediction store metadata service_tier web_search_options safety_identifier prompt_cache_key
"""

CHAT_MEMBERS = frozenset(_CHAT.split())
"""What the chat operation of the OpenAI API knows at the top level."""

EMBEDDINGS_MEMBERS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))
