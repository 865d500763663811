"""The demo's model server: OpenAI's chat and embeddings, for fresh tokens only, strict about unknown members."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gatepass.demo.issuer import ALGORITHM, fingerprint

CHAT_MEMBERS = frozenset(("model", "messages", "stream", "stream_options", "temperature", "max_tokens"))
MESSAGE_MEMBERS = frozenset(("role", "content", "name"))
EMBEDDINGS_MEMBERS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))


class ModelServer:
    """Serve `model` under `/v1` to tokens of `audience`; `pace_s` is the pause between the words of a stream.

    `fingerprints` holds the token of each request that was served, `refused` the reasons of the others.
    """

    def __init__(self, key: bytes, audience: str, model: str, pace_s: float = 0.12) -> None:
        self._key, self._audience, self._model, self.pace_s = key, audience, model, pace_s
        self.fingerprints, self.refused = list[str](), list[str]()
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _refusal})

    async def _chat(self, request: Request) -> Response:
        token = self._authenticate(request)
        body = self._checked(await request.json(), CHAT_MEMBERS)
        text = answer(*understood(body["messages"]))
        self.fingerprints.append(token)
        usage = {"prompt_tokens": 1, "completion_tokens": len(text.split()), "total_tokens": 1 + len(text.split())}
        head = {"id": f"chatcmpl-{time.time_ns()}", "created": int(time.time()), "model": self._model}
        if body.get("stream") is not True:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        with_usage = (body.get("stream_options") or {}).get("include_usage") is True
        chunks = [{**head, **chunk} for chunk in chunked(text, usage if with_usage else None)]
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        return StreamingResponse(self.paced([*events, "data: [DONE]\n\n"]), media_type="text/event-stream")

    async def paced(self, events: list[str]) -> AsyncIterator[str]:
        for event in events:
            yield event
            await asyncio.sleep(self.pace_s)

    async def _embeddings(self, request: Request) -> Response:
        token = self._authenticate(request)
        body = self._checked(await request.json(), EMBEDDINGS_MEMBERS)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        self.fingerprints.append(token)
        data = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return JSONResponse({"object": "list", "data": data, "model": self._model, "usage": usage})

    def _authenticate(self, request: Request) -> str:
        """Return the fingerprint of a valid token; raise HTTPException."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            jwt.decode(token, self._key, [ALGORITHM], audience=self._audience)
        except jwt.PyJWTError as error:
            is_stale = isinstance(error, jwt.ExpiredSignatureError)
            reason = "The token has expired" if is_stale else "The token was not issued for this server"
            self.refused.append(reason)
            raise HTTPException(401, reason) from None
        return fingerprint(token)

    def _checked(self, body: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
        if unknown := sorted(set(body) - known):
            raise HTTPException(400, f"Unrecognized request argument supplied: {', '.join(unknown)}")
        if body.get("model") != self._model:
            raise HTTPException(404, f"The model `{body.get('model')}` does not exist")
        return body


async def _refusal(_: Request, error: Any) -> Response:
    body = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": body}, error.status_code)


def understood(messages: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """Read a conversation as a vision model does: the last message's text, and the stated type of each image."""
    text, images = "", list[str]()
    for message in messages:
        if unknown := sorted(set(message) - MESSAGE_MEMBERS):
            raise HTTPException(400, f"Unrecognized request argument supplied: messages.{unknown[0]}")
        content = message["content"]
        parts: Any = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = " ".join(part["text"] for part in parts if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        images += [url.removeprefix("data:").partition(";")[0] for url in urls]
    return text, images


def answer(text: str, images: list[str]) -> str:
    if not images:
        return f'You said "{text}" and I answer word by word, each the moment it is made.'
    return f"I see {len(images)} images: {', '.join(images)}."


def chunked(text: str, usage: dict[str, int] | None) -> Iterator[dict[str, Any]]:
    """Yield the chunks of an answer: the role, each word, the end, and `usage` if there is one."""
    words = [f" {word}" if index else word for index, word in enumerate(text.split(" "))]
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words), {}]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "stop"}
        yield {"object": "chat.completion.chunk", "choices": [choice]}
    if usage is not None:
        yield {"object": "chat.completion.chunk", "choices": [], "usage": usage}


def vector(text: str) -> list[float]:
    """Return eight numbers that depend on `text` alone."""
    return [byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:8]]
